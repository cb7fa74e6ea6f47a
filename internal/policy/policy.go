// Package policy says what the machines that have images are to do: which images
// they have, when and how they take new versions, and what they fetch ahead.
//
// A policy lies beside the packages and is one small file, which a server hands to
// all machines alike. It does no input or output of its own.
package policy

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"prestage/ckm"
	"prestage/internal/daytime"
	"prestage/internal/sign"
)

// MaxSize is the largest policy, in bytes.
const MaxSize = 1 << 20

// ErrInvalid says that a policy does not hold what a policy holds.
var ErrInvalid = errors.New("not a valid policy")

// Mode says what a machine does about a new version of an image.
type Mode string

// The modes.
const (
	Suggest Mode = "suggest" // it says so, and leaves it to its user
	Force   Mode = "force"   // it updates by itself
	Off     Mode = "off"     // nothing
)

// A Rule is the policy for an image.
type Rule struct {
	// Machines are those that have the image: names, in which * and ? stand for
	// any characters and any one, and groups, with @ before their names.
	Machines []string `json:"machines,omitempty"`
	Update   Mode     `json:"update,omitempty"`  // Suggest if empty
	Version  uint32   `json:"version,omitempty"` // the one that is released; 0: always the latest that there is
	Keep     *int     `json:"keep,omitempty"`    // versions before the new one that stay, nil: 1

	// Not every machine need update at once: those of a wave are Wave per cent of
	// them, always the same ones for an image; 0 is all. None does before NotBefore,
	// or outside of Window, by its own clock.
	Wave      int            `json:"wave,omitempty"`
	NotBefore *time.Time     `json:"not_before,omitempty"`
	Window    daytime.Window `json:"window,omitzero"`
	Limit     int64          `json:"limit,omitempty"` // bytes a second for each machine, 0: none

	TrimTransfer        *bool    `json:"trim_transfer,omitempty"`         // false: fetch all of the image; nil: as the image says
	SeedFolders         []string `json:"seed_folders,omitempty"`          // of the machine, whose files may have parts of the image
	UpdateFromPrestaged *bool    `json:"update_from_prestaged,omitempty"` // updates may use pre-staged packages; nil: as the machine's settings say
	// Ahead is a version that machines pre-stage, though it is not released yet; 0: none.
	Ahead uint32 `json:"ahead,omitempty"`
}

// Policy is what is asked of all machines.
type Policy struct {
	Format  int                 `json:"format"` // 1
	Serial  uint64              `json:"serial"` // grows with each change: a machine goes back to no older one
	Changed time.Time           `json:"changed"`
	Groups  map[string][]string `json:"groups,omitempty"` // machines, named as in a Rule, without groups
	Images  map[string]Rule     `json:"images"`
}

// Signed is a policy as it lies in its file: with its signatures, which are by the
// bytes of the policy, spaces aside.
type Signed struct {
	Policy     json.RawMessage `json:"policy"`
	Signatures []string        `json:"signatures,omitempty"` // signature files of minisign
}

// New is the policy that there is before the first change: nothing is asked.
func New() *Policy {
	return &Policy{Format: 1, Groups: map[string][]string{}, Images: map[string]Rule{}}
}

// Parse reads a policy file. It may come from anywhere: who does as it says checks
// it first. The error wraps ErrInvalid.
func Parse(p []byte) (*Policy, *Signed, error) {
	if len(p) > MaxSize {
		return nil, nil, fmt.Errorf("%w: it has more than %d bytes", ErrInvalid, MaxSize)
	}
	var s Signed
	if err := decode(p, &s); err != nil {
		return nil, nil, err
	}
	var v struct {
		Format int `json:"format"`
	}
	if json.Unmarshal(s.Policy, &v) == nil && v.Format > 1 {
		return nil, nil, fmt.Errorf("%w: it has format %d, and this program knows 1: install a newer one", ErrInvalid, v.Format)
	}
	var pol Policy
	if err := decode(s.Policy, &pol); err != nil {
		return nil, nil, err
	}
	if err := pol.Check(); err != nil {
		return nil, nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return &pol, &s, nil
}

// decode refuses what is not known: it may have been meant to hold something back.
func decode(p []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(p))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("%w: something follows it", ErrInvalid)
	}
	return nil
}

// Encode returns the file of a policy, without signatures.
func (p *Policy) Encode() ([]byte, error) {
	if err := p.Check(); err != nil {
		return nil, err
	}
	raw, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return (&Signed{Policy: raw}).Encode()
}

// Encode returns the file.
func (s *Signed) Encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // what is signed stays as it is
	e.SetIndent("", "  ")
	err := e.Encode(s)
	return b.Bytes(), err
}

// Digest is what a signature stands for.
func (s *Signed) Digest() (ckm.Digest, error) {
	var b bytes.Buffer
	if err := json.Compact(&b, s.Policy); err != nil {
		return ckm.Digest{}, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return ckm.Sum(b.Bytes()), nil
}

// Sign adds the signature of a key, in place of an earlier one by the same key.
func (s *Signed) Sign(k sign.Key, serial uint64, when int64) error {
	digest, err := s.Digest()
	if err != nil {
		return err
	}
	s.Signatures = slices.DeleteFunc(s.Signatures, func(text string) bool {
		id, err := sign.KeyOf(text)
		return err != nil || id == k.ID()
	})
	s.Signatures = append(s.Signatures, k.SignPolicy(serial, digest, when))
	return nil
}

// CheckSigned reports whether one of the signatures counts. The error wraps
// sign.ErrUntrusted.
func (s *Signed) CheckSigned(t sign.Trust, serial uint64) error {
	digest, err := s.Digest()
	if err != nil {
		return err
	}
	return t.CheckPolicy(serial, digest, s.Signatures)
}

// Bounds of a policy.
const (
	maxGroups   = 1_000
	maxImages   = 1_000
	maxMachines = 10_000 // of a group or an image
	maxWords    = 64     // folders
	maxSigns    = 16
)

// Check says what is wrong with a policy, if something is.
func (p *Policy) Check() error {
	switch {
	case p.Format != 1:
		return fmt.Errorf("the format is %d and must be 1", p.Format)
	case len(p.Groups) > maxGroups || len(p.Images) > maxImages:
		return fmt.Errorf("it has more than %d groups or %d images", maxGroups, maxImages)
	}
	for name, machines := range p.Groups {
		if err := checkWord(name); err != nil {
			return fmt.Errorf("group %q: %w", name, err)
		}
		if err := p.checkMachines(machines, false); err != nil {
			return fmt.Errorf("group %q: %w", name, err)
		}
	}
	for name, r := range p.Images {
		if err := ckm.CheckName(name); err != nil {
			return err
		}
		if err := p.checkRule(&r); err != nil {
			return fmt.Errorf("image %q: %w", name, err)
		}
	}
	return nil
}

func (p *Policy) checkRule(r *Rule) error {
	switch {
	case r.Update != "" && r.Update != Suggest && r.Update != Force && r.Update != Off:
		return fmt.Errorf("update is %q and must be %s, %s or %s", r.Update, Suggest, Force, Off)
	case r.Keep != nil && (*r.Keep < 0 || *r.Keep > 1_000):
		return fmt.Errorf("keep is %d and must be from 0 to 1000", *r.Keep)
	case r.Wave < 0 || r.Wave > 100:
		return fmt.Errorf("the wave is %d and must be from 1 to 100 per cent", r.Wave)
	case r.Limit < 0:
		return errors.New("the limit is less than none")
	case r.Ahead > 0 && r.Version == 0:
		return errors.New("a version ahead needs the version that is released: without one, the latest is")
	case r.Ahead > 0 && r.Ahead <= r.Version:
		return fmt.Errorf("version %d is not ahead of version %d", r.Ahead, r.Version)
	case len(r.SeedFolders) > maxWords:
		return fmt.Errorf("it has more than %d folders", maxWords)
	}
	for _, f := range r.SeedFolders {
		if f == "" || len(f) > 1_024 {
			return fmt.Errorf("the folder %q", f)
		}
	}
	return p.checkMachines(r.Machines, true)
}

package bundle

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"prestage/ckm"
	"prestage/internal/repo"
)

const (
	manifestFormat = 1
	// maxManifest is the largest manifest that is read, in bytes.
	maxManifest = 4 << 20
	// maxContents bounds the sum of all sizes, in bytes.
	maxContents = 1 << 62
)

// Manifest is the content of bundle.json: what a bundle holds, and how its
// client is to be installed. It has one spelling.
type Manifest struct {
	Format   int       `json:"format"`
	Created  time.Time `json:"created"`
	Creator  string    `json:"creator"` // program and version
	Settings Settings  `json:"settings"`
	Images   []string  `json:"images"` // NAME:N, in order
	Files    []File    `json:"files"`  // all but the manifest itself, in order of their paths
}

// File is a file of a bundle.
type File struct {
	Path   string `json:"path"` // from the bundle's folder, with /
	Size   int64  `json:"size"` // bytes
	SHA256 string `json:"sha256"`
	BLAKE3 string `json:"blake3"`
}

// ParseManifest reads and checks a manifest. The error wraps ckm.ErrFormat or
// ckm.ErrUnsupported.
func ParseManifest(p []byte) (*Manifest, error) {
	bad := func(format string, args ...any) (*Manifest, error) {
		return nil, fmt.Errorf("%s: %w: %w", ManifestName, ckm.ErrFormat, fmt.Errorf(format, args...))
	}
	if len(p) > maxManifest {
		return bad("it is larger than %d bytes", maxManifest)
	}
	var head struct {
		Format int `json:"format"`
	}
	if err := json.Unmarshal(p, &head); err != nil {
		return bad("%v", err)
	}
	if head.Format > manifestFormat {
		return nil, fmt.Errorf("%s: %w: format %d; use the prestage that made it, or a newer one", ManifestName, ckm.ErrUnsupported, head.Format)
	}
	var m Manifest
	if err := json.Unmarshal(p, &m); err != nil {
		return bad("%v", err)
	}
	// One spelling: no keys twice, unknown or in other letters, nothing after.
	again, err := m.encode()
	if err != nil || !bytes.Equal(again, p) {
		return bad("it is not as prestage writes it; was it edited?")
	}
	if err := m.check(); err != nil {
		return bad("%w", err)
	}
	return &m, nil
}

// encode returns the bytes of bundle.json.
func (m *Manifest) encode() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(m)
	return b.Bytes(), err
}

// check refuses whatever a bundle cannot hold. Paths are not checked for what
// they could do: only the few names are accepted that a bundle can have.
func (m *Manifest) check() error {
	if m.Format != manifestFormat {
		return fmt.Errorf("format %d", m.Format)
	}
	if m.Created.Location() != time.UTC {
		return fmt.Errorf("the time %s is not in UTC", m.Created)
	}
	if err := m.Settings.check(); err != nil {
		return err
	}
	want := slices.Clone(fixed)
	for i, s := range m.Images {
		image, err := parseImage(s)
		if err != nil {
			return err
		}
		if i > 0 && m.Images[i-1] >= s {
			return fmt.Errorf("image %s is out of order or there twice", s)
		}
		data, index := image.paths()
		want = append(want, data, index)
	}
	slices.Sort(want)
	folded := make(map[string]bool, len(want))
	for _, path := range want {
		if folded[strings.ToLower(path)] {
			return fmt.Errorf("the names of two images differ in case alone, which the file systems of media take for the same: %s", path)
		}
		folded[strings.ToLower(path)] = true
	}
	if len(m.Files) != len(want) {
		return fmt.Errorf("it names %d files, and a bundle of its images has %d", len(m.Files), len(want))
	}
	var sum int64
	for i, f := range m.Files {
		if f.Path != want[i] {
			return fmt.Errorf("it names the file %q where %q must be", f.Path, want[i])
		}
		if f.Size < 0 || f.Size > maxContents-sum {
			return fmt.Errorf("the size of %s is %d", f.Path, f.Size)
		}
		sum += f.Size
		if !isDigest(f.SHA256) || !isDigest(f.BLAKE3) {
			return fmt.Errorf("the digests of %s", f.Path)
		}
	}
	return nil
}

// parseImage reads NAME:N; the name has to be one that start.cmd can hold.
func parseImage(s string) (Image, error) {
	name, version, err := repo.ParseImage(s)
	if err != nil {
		return Image{}, err
	}
	if version == 0 || repo.ImageName(name, version) != s {
		return Image{}, fmt.Errorf("image %q has no version", s)
	}
	return Image{name, version}, checkText("the name of image "+s, name)
}

// isDigest reports whether s is the hexadecimal form of 32 bytes.
func isDigest(s string) bool {
	d, err := hex.DecodeString(s)
	return err == nil && len(d) == 32 && strings.ToLower(s) == s
}

// contents is how many bytes the bundle has, with its manifest.
func (m *Manifest) contents() (int64, error) {
	b, err := m.encode()
	n := int64(len(b))
	for _, f := range m.Files {
		n += f.Size
	}
	return n, err
}

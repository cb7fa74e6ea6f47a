// Package sign signs packages and decides whose signatures count. Keys and
// signatures are those of minisign: Ed25519, in its files' formats.
//
// It does no input or output of its own.
package sign

import (
	"errors"
	"fmt"
	"strings"

	"aead.dev/minisign"

	"prestage/ckm"
)

// ErrUntrusted says that a package has no signature by a key that counts.
var ErrUntrusted = errors.New("not signed by a trusted key")

// Trust is the public keys whose signatures count. The empty one asks for no
// signatures.
type Trust struct{ keys []minisign.PublicKey }

// ParseTrust reads public keys as minisign prints them, in a line each.
func ParseTrust(lines []string) (Trust, error) {
	var t Trust
	for _, line := range lines {
		k, err := ParsePublicKey(line)
		if err != nil {
			return Trust{}, err
		}
		t.keys = append(t.keys, k)
	}
	return t, nil
}

// ParsePublicKey reads a public key: its line, or all of minisign's file.
func ParsePublicKey(text string) (k minisign.PublicKey, err error) {
	if err := k.UnmarshalText([]byte(strings.TrimSpace(text))); err != nil {
		return k, fmt.Errorf("%.80q is no public key of minisign, which begins with RW and has 56 characters", text)
	}
	return k, nil
}

// Required reports whether packages must be signed.
func (t Trust) Required() bool { return len(t.keys) > 0 }

// Signer is what is known of one signature of a package.
type Signer struct {
	Key     string  `json:"key"` // its ID
	Comment string  `json:"comment"`
	Verdict Verdict `json:"verdict"`
}

// Verdict says whether a signature counts.
type Verdict string

// Verdicts.
const (
	Trusted Verdict = "trusted" // it is right, and its key is trusted
	Unknown Verdict = "unknown" // its key is not among the trusted ones, so nothing can be said
	Wrong   Verdict = "wrong"   // its key is trusted, and it is not what that key signs
)

// String says it to people.
func (s Signer) String() string {
	switch s.Verdict {
	case Trusted:
		return s.Key + ", which is trusted"
	case Wrong:
		return s.Key + ", but the signature is WRONG"
	}
	return s.Key + ", which is not among the trusted keys"
}

// Signers judges the signatures of a decoded index.
func (t Trust) Signers(x *ckm.Index) []Signer {
	signers, _ := t.judge(x.Statement(x.Digest()), x.Signatures) // the block of a decoded index is well formed
	return signers
}

// SignersOf is Signers for a package of which no more is read than the head of its
// INDEX and the signature block. The error wraps ckm.ErrFormat.
func (t Trust) SignersOf(h *ckm.Head, block []byte) ([]Signer, error) {
	return t.judge(h.Statement(h.Digest), block)
}

// Check is Signers for who needs to know only whether a package is acceptable.
// The error wraps ErrUntrusted.
func (t Trust) Check(x *ckm.Index) error { return t.check(&x.Info, x.Digest(), x.Signatures) }

// CheckHead is Check as SignersOf is Signers.
func (t Trust) CheckHead(h *ckm.Head, block []byte) error { return t.check(&h.Info, h.Digest, block) }

func (t Trust) check(in *ckm.Info, digest ckm.Digest, block []byte) error {
	if !t.Required() {
		return nil
	}
	signers, err := t.judge(in.Statement(digest), block)
	if err != nil {
		return err
	}
	var unknown []string
	why := ""
	for _, s := range signers {
		switch s.Verdict {
		case Trusted:
			return nil
		case Wrong:
			why = fmt.Sprintf("the signature that names the key %s is wrong; take the package from where it was packed", s.Key)
		case Unknown:
			unknown = append(unknown, s.Key)
		}
	}
	switch {
	case why != "":
	case len(unknown) > 0:
		why = fmt.Sprintf("it is signed by %s; if that is right, add the public key to the trusted keys of the settings", strings.Join(unknown, " and "))
	default:
		why = `it has no signature; have it signed where it is packed ("prestage sign")`
	}
	return fmt.Errorf("%s:%d is %w: %s", in.Name, in.Version, ErrUntrusted, why)
}

// judge judges each signature of a statement.
func (t Trust) judge(statement, block []byte) ([]Signer, error) {
	list, err := ckm.ParseSignatures(block)
	if err != nil {
		return nil, err
	}
	signers := []Signer{}
	for _, s := range list {
		signers = append(signers, Signer{s.Key.String(), s.Comment, t.verdict(statement, s)})
	}
	return signers, nil
}

// verdict tries all trusted keys that have the ID: IDs need not differ.
func (t Trust) verdict(statement []byte, s ckm.Signature) Verdict {
	text := minisig(s)
	verdict := Unknown
	for _, k := range t.keys {
		if k.ID() != uint64(s.Key) {
			continue
		}
		if minisign.Verify(k, statement, text) {
			return Trusted
		}
		verdict = Wrong
	}
	return verdict
}

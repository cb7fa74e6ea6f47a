package sign

import (
	"errors"
	"fmt"

	"aead.dev/minisign"

	"prestage/ckm"
)

// minisig returns a signature in the form of minisign's signature files.
func minisig(s ckm.Signature) []byte {
	m := minisign.Signature{
		Algorithm: minisign.HashEdDSA, KeyID: uint64(s.Key),
		UntrustedComment: "signature from prestage", TrustedComment: s.Comment,
		Signature: s.Statement, CommentSignature: s.Commented,
	}
	return []byte(m.String())
}

// parseMinisig reads a signature file of minisign.
func parseMinisig(text []byte) (s ckm.Signature, err error) {
	var m minisign.Signature
	if err := m.UnmarshalText(text); err != nil {
		return s, fmt.Errorf("not a signature file of minisign: %w", err)
	}
	if m.Algorithm != minisign.HashEdDSA {
		return s, errors.New("it is of minisign's legacy format; sign without -l")
	}
	return ckm.Signature{Key: ckm.KeyID(m.KeyID), Statement: m.Signature, Comment: m.TrustedComment, Commented: m.CommentSignature}, nil
}

// File is a file for those who check a signature without prestage.
type File struct {
	Name string
	Data []byte
}

// Export returns the statement of a package as a file, and its signatures, each a
// file that minisign -V takes.
func Export(x *ckm.Index) []File {
	name := ckm.StatementName(x.Name, x.Version)
	files := []File{{name, x.Statement(x.Digest())}}
	list, _ := ckm.ParseSignatures(x.Signatures) // of an index that was decoded
	for _, s := range list {
		files = append(files, File{fmt.Sprintf("%s.%s.minisig", name, s.Key), minisig(s)})
	}
	return files
}

// Attach adds to a package what minisign -S has made of its statement. The
// signature must be right under the public key that is named.
func Attach(x *ckm.Index, signature []byte, public string) error {
	s, err := parseMinisig(signature)
	if err != nil {
		return err
	}
	t, err := ParseTrust([]string{public})
	if err != nil {
		return err
	}
	if t.verdict(x.Statement(x.Digest()), s) != Trusted {
		return fmt.Errorf("%w: it is no signature of %s by that key; sign what \"prestage inspect --export\" writes",
			ErrUntrusted, ckm.StatementName(x.Name, x.Version))
	}
	return add(x, s)
}

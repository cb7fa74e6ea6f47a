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

package ckm

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// Schemes of the signature block's entries.
const (
	schemeEd25519  = 1      // reserved: nobody ever signed by it
	schemeMinisign = 0x4445 // the letters ED, as minisign's own files have them
)

// Lengths of entries in bytes, without scheme and length.
const (
	ed25519Size  = 8 + 64
	minisignSize = 8 + 2*signedSize // and the comment
	signedSize   = 64
)

// MaxComment is the longest comment of a signature, in bytes.
const MaxComment = 512

// KeyID tells keys apart. It is a hint and proves nothing: who makes a key can
// give it any.
type KeyID uint64

// String returns the ID as minisign prints it.
func (id KeyID) String() string { return fmt.Sprintf("%016X", uint64(id)) }

// Signature is what minisign keeps in a .minisig file: two signatures by
// Ed25519, of the BLAKE2b-512 digest of the Statement, and of the first
// signature with the comment.
type Signature struct {
	Key       KeyID // that it names
	Statement [signedSize]byte
	Comment   string // what the signer says about it
	Commented [signedSize]byte
}

// Statement returns the text that a signature of the package with this digest
// signs: name, version, the package digest, and the CKM's SHA-256 in a line
// that sha256sum -c understands.
func (in *Info) Statement(digest Digest) []byte {
	return fmt.Appendf(nil, "prestage package\nimage %s:%d\ndigest %s\nSHA256 (%s) = %x\n",
		in.Name, in.Version, digest, DataName(in.Name, in.Version), in.CKMSHA256)
}

// PagesEnd returns where the pages end: there, in the INDEX, are a u32, the length
// of the signature block, and the block.
func (h *Head) PagesEnd() int64 { return int64(h.size) + int64(h.pagesLength) }

// ParseSignatures returns the signatures in a signature block, and passes over
// entries of schemes that are not known. The error wraps ErrFormat.
func ParseSignatures(block []byte) ([]Signature, error) {
	entries, err := splitBlock(block)
	if err != nil {
		return nil, err
	}
	var list []Signature
	for _, e := range entries {
		if binary.LittleEndian.Uint16(e) == schemeMinisign {
			list = append(list, decodeSignature(e))
		}
	}
	return list, nil
}

// AddSignature returns the signature block with s in it, in place of what the
// same key has signed before. The error wraps ErrFormat when there is no room
// left, or when the comment is not one that the format allows.
func AddSignature(block []byte, s Signature) ([]byte, error) {
	entries, err := splitBlock(block)
	if err != nil {
		return nil, err
	}
	entries = slices.DeleteFunc(entries, func(e []byte) bool {
		return binary.LittleEndian.Uint16(e) == schemeMinisign && decodeSignature(e).Key == s.Key
	})
	if len(s.Comment) > MaxComment {
		return nil, fmt.Errorf("%w: a signature's comment of %d bytes, the limit is %d", ErrFormat, len(s.Comment), MaxComment)
	}
	entries = append(entries, s.encode())
	slices.SortFunc(entries, bytes.Compare)
	block = bytes.Join(entries, nil)
	_, err = splitBlock(block)
	return block, err
}

func (s *Signature) encode() []byte {
	b := binary.LittleEndian.AppendUint16(nil, schemeMinisign)
	b = binary.LittleEndian.AppendUint16(b, uint16(minisignSize+len(s.Comment)))
	b = binary.LittleEndian.AppendUint64(b, uint64(s.Key))
	b = append(b, s.Statement[:]...)
	b = append(b, s.Commented[:]...)
	return append(b, s.Comment...)
}

// decodeSignature reads an entry that splitBlock has found to be well formed.
func decodeSignature(e []byte) Signature {
	e = e[4:]
	return Signature{
		Key:       KeyID(binary.LittleEndian.Uint64(e)),
		Statement: [signedSize]byte(e[8:]),
		Commented: [signedSize]byte(e[8+signedSize:]),
		Comment:   string(e[minisignSize:]),
	}
}

// splitBlock checks a signature block and returns its entries.
func splitBlock(p []byte) (entries [][]byte, err error) {
	if len(p) > MaxSignatureBlock {
		return nil, fmt.Errorf("%w: signature block of %d bytes", ErrFormat, len(p))
	}
	for len(p) > 0 {
		if len(p) < 4 || int(binary.LittleEndian.Uint16(p[2:])) > len(p)-4 {
			return nil, fmt.Errorf("%w: the INDEX's signature block", ErrFormat)
		}
		entry := p[:4+int(binary.LittleEndian.Uint16(p[2:]))]
		if err := checkEntry(binary.LittleEndian.Uint16(entry), entry[4:]); err != nil {
			return nil, err
		}
		if n := len(entries); n > 0 && bytes.Compare(entries[n-1], entry) >= 0 {
			return nil, fmt.Errorf("%w: the INDEX's signatures are out of order", ErrFormat)
		}
		entries, p = append(entries, entry), p[len(entry):]
	}
	return entries, nil
}

// checkEntry checks what is known of an entry's scheme.
func checkEntry(scheme uint16, p []byte) error {
	switch {
	case scheme == schemeEd25519 && len(p) != ed25519Size:
		return fmt.Errorf("%w: the INDEX's signature block has an Ed25519 entry of %d bytes", ErrFormat, len(p))
	case scheme != schemeMinisign:
		return nil
	case len(p) < minisignSize || len(p) > minisignSize+MaxComment:
		return fmt.Errorf("%w: the INDEX's signature block has a minisign entry of %d bytes", ErrFormat, len(p))
	case !isText(strings.ReplaceAll(string(p[minisignSize:]), "\t", " "), MaxComment): // minisign's own comments have tabs
		return fmt.Errorf("%w: the comment of a signature in the INDEX is not text", ErrFormat)
	}
	return nil
}

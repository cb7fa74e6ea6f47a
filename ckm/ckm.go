// Package ckm encodes, decodes and validates prestage packages: the CKM, which
// holds an image's chunks in zstd frames, and the INDEX, which says what they
// must be and where they go. doc/format.md specifies every byte.
//
// The package does no input or output of its own. Everything it decodes is
// taken to be hostile: counts and lengths are checked before memory is
// allocated by them.
package ckm

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/zeebo/blake3"
)

// Version is the format version that this package reads and writes.
const Version = 1

// Limits of the format, see doc/format.md. Lengths are in bytes.
const (
	MaxIndexSize      = 1 << 30
	MaxInfoSize       = 8 << 20
	MaxFrameLimit     = 1 << 20
	MaxFrameChunks    = 1024
	MaxRunChunks      = 256
	MaxSplitExtents   = 1024
	MaxChunks         = 1 << 25
	MaxSegments       = 1 << 24
	MaxFiles          = 4096
	MaxImageSize      = 1 << 60
	MaxSignatureBlock = 16 << 10
	MaxAttributeValue = 1024

	pageChunks   = 1024 // chunks after which a chunk page ends in any case
	pageSegments = 4096
)

// HeaderSize and TrailerSize are the lengths in bytes of the CKM's first and
// last parts, both zstd skippable frames.
const (
	HeaderSize  = 32
	TrailerSize = 64
)

const skippableMagic = 0x184D2A5C

var (
	ckmMagic   = [8]byte{0x89, 'C', 'K', 'M', '\r', '\n', 0x1a, '\n'}
	endMagic   = [8]byte{0x89, 'E', 'N', 'D', '\r', '\n', 0x1a, '\n'}
	indexMagic = [8]byte{0x89, 'I', 'D', 'X', '\r', '\n', 0x1a, '\n'}
)

// Errors that callers decide on. They are wrapped with what was found.
var (
	// ErrFormat says that bytes are not what doc/format.md allows: damaged,
	// cut short, or not made by this product at all.
	ErrFormat = errors.New("not a valid package")
	// ErrUnsupported says that a package needs a newer reader.
	ErrUnsupported = errors.New("package needs a newer version of prestage")
	// ErrMismatch says that bytes do not have the digest they must have.
	ErrMismatch = errors.New("digest mismatch")
)

// Digest is a BLAKE3-256 digest.
type Digest [32]byte

// ID is the address of a chunk: the BLAKE3-256 digest of its bytes.
type ID = Digest

// ShortDigest is the first half of a BLAKE3-256 digest. It finds damage in
// stored frames; an ID is what protects the content.
type ShortDigest [16]byte

// String returns the digest in hexadecimal.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// Prefix returns the first 8 bytes as a number, big-endian: enough to look a chunk
// up by, not to tell what it is.
func (d Digest) Prefix() uint64 { return binary.BigEndian.Uint64(d[:]) }

// Sum returns the digest of p.
func Sum(p []byte) Digest { return blake3.Sum256(p) }

// ShortSum returns the short digest of p.
func ShortSum(p []byte) ShortDigest {
	d := blake3.Sum256(p)
	return ShortDigest(d[:16])
}

// Header returns the first HeaderSize bytes of a CKM of this version with the
// given compatible features, the same as in its INDEX.
func Header(compatible uint32) []byte {
	b := make([]byte, 0, HeaderSize)
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, HeaderSize-8)
	b = append(b, ckmMagic[:]...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = append(b, make([]byte, 6)...) // reserved, incompatible features
	b = binary.LittleEndian.AppendUint32(b, compatible)
	return append(b, make([]byte, HeaderSize-len(b))...)
}

// CheckHeader reports whether p begins as a CKM that this package can read.
// The error wraps ErrFormat or ErrUnsupported.
func CheckHeader(p []byte) error {
	want := Header(0)
	if len(p) < HeaderSize || string(p[:16]) != string(want[:16]) {
		return fmt.Errorf("%w: no CKM header", ErrFormat)
	}
	if err := checkVersion(p[16:28]); err != nil {
		return err
	}
	if string(p[28:32]) != "\x00\x00\x00\x00" {
		return fmt.Errorf("%w: reserved bytes of the CKM header are set", ErrFormat)
	}
	return nil
}

// checkVersion checks the fields that both headers share: version, reserved,
// incompatible and compatible features.
func checkVersion(p []byte) error {
	if v := binary.LittleEndian.Uint16(p); v != Version {
		return fmt.Errorf("%w: format version %d, this program reads %d", ErrUnsupported, v, Version)
	}
	if binary.LittleEndian.Uint16(p[2:]) != 0 {
		return fmt.Errorf("%w: reserved bytes of the header are set", ErrFormat)
	}
	if bits := binary.LittleEndian.Uint32(p[4:]); bits != 0 {
		return fmt.Errorf("%w: incompatible features %#x", ErrUnsupported, bits)
	}
	return nil
}

// Trailer is the last part of a CKM.
type Trailer struct {
	Frames  uint64 // number of frames
	Offset  uint64 // where the trailer begins, in bytes
	Content Digest // digest of all frames' short digests
}

// Append appends the trailer's TrailerSize bytes to b.
func (t Trailer) Append(b []byte) []byte {
	b = binary.LittleEndian.AppendUint32(b, skippableMagic)
	b = binary.LittleEndian.AppendUint32(b, TrailerSize-8)
	b = append(b, endMagic[:]...)
	b = binary.LittleEndian.AppendUint64(b, t.Frames)
	b = binary.LittleEndian.AppendUint64(b, t.Offset)
	return append(b, t.Content[:]...)
}

// ParseTrailer reads a trailer from p, the last TrailerSize bytes of a CKM of
// the given length in bytes.
func ParseTrailer(p []byte, length uint64) (Trailer, error) {
	var t Trailer
	if len(p) != TrailerSize || length < HeaderSize+TrailerSize {
		return t, fmt.Errorf("%w: too short for a CKM", ErrFormat)
	}
	t.Frames = binary.LittleEndian.Uint64(p[16:])
	t.Offset = binary.LittleEndian.Uint64(p[24:])
	copy(t.Content[:], p[32:])
	if string(t.Append(nil)) != string(p) || t.Offset != length-TrailerSize {
		return t, fmt.Errorf("%w: no CKM trailer at its end; the file is damaged or cut short", ErrFormat)
	}
	return t, nil
}

package ckm

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"prestage/internal/deflate"
)

// Limits of the members of a part. Those of its chunks and those of its base are
// counted apart; lengths are in bytes, of what members decompress to and all around.
const (
	MaxPatchMembers      = 1 << 14
	MaxPatchExpanded     = 4 << 20 // of its chunks
	MaxPatchExpandedBase = 8 << 20
)

// skippable begins a frame that zstd passes over; four bytes with its length follow.
var skippable = []byte{0x50, 0x2a, 0x4d, 0x18}

// members are the members of gzip files and zip archives that are decompressed before a
// part's chunks are compared with its base: two versions of one have hardly a byte in
// common, even if little has changed of what they hold.
type members struct {
	base   []baseMember
	chunks []chunkMember
	length int // of the expanded chunks, bytes
}

// baseMember is a member in the base.
type baseMember struct{ gap, length int } // bytes: after the one before, and of the member

// chunkMember is a member in the chunks, as it is in the expanded ones.
type chunkMember struct {
	gap, length int // bytes: after the one before, and of what it is made from
	maker       deflate.Maker
}

// append appends the frame that says which members there are.
func (s *members) append(b []byte) []byte {
	var p []byte
	p = binary.AppendUvarint(p, uint64(s.length))
	p = binary.AppendUvarint(p, uint64(len(s.base)))
	for _, e := range s.base {
		p = binary.AppendUvarint(p, uint64(e.gap))
		p = binary.AppendUvarint(p, uint64(e.length))
	}
	p = binary.AppendUvarint(p, uint64(len(s.chunks)))
	for _, e := range s.chunks {
		p = binary.AppendUvarint(p, uint64(e.gap))
		p = binary.AppendUvarint(p, uint64(e.length))
		p = append(p, byte(e.maker))
	}
	b = append(b, skippable...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...)
}

// cutMembers takes the frame that says which members there are off a part's stored
// bytes; s is nil if it has none.
func cutMembers(stored []byte) (s *members, rest []byte, err error) {
	if !bytes.HasPrefix(stored, skippable) {
		return nil, stored, nil
	}
	rest = stored[len(skippable):]
	if len(rest) < 4 || uint64(binary.LittleEndian.Uint32(rest)) > uint64(len(rest)-4) {
		return nil, nil, fmt.Errorf("%w: its members are cut short", ErrFormat)
	}
	n := 4 + int(binary.LittleEndian.Uint32(rest))
	r := reader{p: rest[4:n]}
	s = &members{length: int(r.uvarint(MaxPatchExpanded))}
	s.base = make([]baseMember, r.uvarint(uint64(min(MaxPatchMembers, len(r.p)/2))))
	for i := range s.base {
		s.base[i] = baseMember{int(r.uvarint(MaxPatchBase)), int(r.uvarint(MaxPatchBase))}
	}
	s.chunks = make([]chunkMember, r.uvarint(uint64(min(MaxPatchMembers, len(r.p)/3))))
	for i := range s.chunks {
		s.chunks[i] = chunkMember{int(r.uvarint(MaxPatchExpanded)), int(r.uvarint(MaxPatchExpanded)), deflate.Maker(r.byte())}
		if !s.chunks[i].maker.Valid() {
			r.bad = true
		}
	}
	if r.bad || len(r.p) != 0 || len(s.chunks) == 0 {
		return nil, nil, fmt.Errorf("%w: its members are not what they should be", ErrFormat)
	}
	return s, rest[n:], nil
}

// expander decompresses members, and compresses them again. Its buffers stay.
type expander struct {
	inflater     deflate.Inflater
	encoder      deflate.Encoder
	base, chunks []byte
}

// expandBase returns a base with its members decompressed. That is good until the
// next call.
func (e *expander) expandBase(base []byte, list []baseMember) ([]byte, error) {
	out := e.base[:0]
	for _, s := range list {
		if s.gap+s.length > len(base) || len(out)+s.gap > MaxPatchExpandedBase {
			return nil, fmt.Errorf("%w: a member behind the end of the base", ErrFormat)
		}
		out = append(out, base[:s.gap]...)
		member := base[s.gap : s.gap+s.length]
		var n int
		var err error
		if out, n, err = e.inflater.Append(out, member, MaxPatchExpandedBase-len(out)); err != nil {
			return nil, err
		}
		if n != s.length {
			return nil, fmt.Errorf("%w: a member of %d bytes and not %d", ErrFormat, n, s.length)
		}
		base = base[s.gap+s.length:]
	}
	if len(out)+len(base) > MaxPatchExpandedBase {
		return nil, fmt.Errorf("%w: a base that is too long", ErrFormat)
	}
	e.base = append(out, base...)
	return e.base, nil
}

// contract appends expanded chunks, with their members compressed again. It stops when
// they have more than most bytes.
func (e *expander) contract(dst, expanded []byte, list []chunkMember, most int) ([]byte, error) {
	for _, s := range list {
		if s.gap+s.length > len(expanded) || len(dst) > most {
			return nil, fmt.Errorf("%w: a member behind the end", ErrFormat)
		}
		dst = append(dst, expanded[:s.gap]...)
		var err error
		if dst, err = e.encoder.Append(dst, expanded[s.gap:s.gap+s.length], s.maker); err != nil {
			return nil, err
		}
		expanded = expanded[s.gap+s.length:]
	}
	return append(dst, expanded...), nil
}

// mostFound is how much members decompress to that are looked for at once, in bytes.
const mostFound = 2 * MaxPatchExpandedBase

// expand finds the members in chunks that can be made again, and those in their
// base, and returns both with them decompressed; s is nil if there are none. Members
// that are in both stay as they are: they need not be made.
func (e *expander) expand(raw, base []byte) (s *members, expanded, expandedBase []byte) {
	found := e.inflater.Find(raw, mostFound)
	if len(found) == 0 {
		return nil, nil, nil
	}
	foundBase := e.inflater.Find(base, mostFound)
	inBase, inRaw := make(map[string]bool), make(map[string]bool)
	for _, f := range foundBase {
		inBase[string(base[f.Offset:f.Offset+f.Length])] = true
	}
	s = &members{length: len(raw)}
	at := 0
	expanded = e.chunks[:0]
	for _, f := range found {
		member := raw[f.Offset : f.Offset+f.Length]
		longer := s.length - f.Length + len(f.Inflated)
		if inRaw[string(member)] = true; inBase[string(member)] || longer > MaxPatchExpanded || len(s.chunks) == MaxPatchMembers {
			continue
		}
		maker, ok := e.encoder.Maker(raw, f)
		if !ok {
			continue
		}
		s.chunks = append(s.chunks, chunkMember{f.Offset - at, len(f.Inflated), maker})
		s.length = longer
		expanded = append(append(expanded, raw[at:f.Offset]...), f.Inflated...)
		at = f.Offset + f.Length
	}
	e.chunks = append(expanded, raw[at:]...)
	if len(s.chunks) == 0 {
		return nil, nil, nil
	}
	at = 0
	expandedBase = e.base[:0]
	for _, f := range foundBase {
		longer := len(expandedBase) + f.Offset - at + len(f.Inflated) + len(base) - f.Offset - f.Length
		if inRaw[string(base[f.Offset:f.Offset+f.Length])] || longer > MaxPatchExpandedBase || len(s.base) == MaxPatchMembers {
			continue
		}
		s.base = append(s.base, baseMember{f.Offset - at, f.Length})
		expandedBase = append(append(expandedBase, base[at:f.Offset]...), f.Inflated...)
		at = f.Offset + f.Length
	}
	e.base = append(expandedBase, base[at:]...)
	return s, e.chunks, e.base
}

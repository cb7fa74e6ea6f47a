package ckm

import (
	"encoding/binary"
	"fmt"
	"hash/maphash"
	"slices"

	"prestage/internal/deflate"
)

// Limits of the members of a part. Those of its chunks and those of its base are
// counted apart; lengths are in bytes, of what members decompress to and all around.
// Chunks and base fit into patchWindow.
const (
	MaxPatchMembers      = 1 << 14
	MaxPatchExpanded     = 3 << 20 // of its chunks
	MaxPatchExpandedBase = 5 << 20
)

// membersMagic begins the frame that says which members there are: one that zstd
// passes over, but another than those of a CKM.
const membersMagic = 0x184D2A50

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
func (m *members) append(b []byte) []byte {
	var p []byte
	p = binary.AppendUvarint(p, uint64(m.length))
	p = binary.AppendUvarint(p, uint64(len(m.base)))
	for _, e := range m.base {
		p = binary.AppendUvarint(p, uint64(e.gap))
		p = binary.AppendUvarint(p, uint64(e.length))
	}
	p = binary.AppendUvarint(p, uint64(len(m.chunks)))
	for _, e := range m.chunks {
		p = binary.AppendUvarint(p, uint64(e.gap))
		p = binary.AppendUvarint(p, uint64(e.length))
		p = append(p, byte(e.maker))
	}
	b = binary.LittleEndian.AppendUint32(b, membersMagic)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p)))
	return append(b, p...)
}

// cutMembers takes the frame that says which members there are off a part's stored
// bytes; m is nil if it has none.
func cutMembers(stored []byte) (m *members, rest []byte, err error) {
	if len(stored) < 4 || binary.LittleEndian.Uint32(stored) != membersMagic {
		return nil, stored, nil
	}
	rest = stored[4:]
	if len(rest) < 4 || uint64(binary.LittleEndian.Uint32(rest)) > uint64(len(rest)-4) {
		return nil, nil, fmt.Errorf("%w: its members are cut short", ErrFormat)
	}
	n := 4 + int(binary.LittleEndian.Uint32(rest))
	r := reader{p: rest[4:n]}
	m = &members{length: int(r.uvarint(MaxPatchExpanded))}
	m.base = make([]baseMember, r.uvarint(uint64(min(MaxPatchMembers, len(r.p)/2))))
	for i := range m.base {
		m.base[i] = baseMember{int(r.uvarint(MaxPatchBase)), int(r.uvarint(MaxPatchBase))}
	}
	m.chunks = make([]chunkMember, r.uvarint(uint64(min(MaxPatchMembers, len(r.p)/3))))
	for i := range m.chunks {
		m.chunks[i] = chunkMember{int(r.uvarint(MaxPatchExpanded)), int(r.uvarint(MaxPatchExpanded)), deflate.Maker(r.byte())}
		if !m.chunks[i].maker.Valid() {
			r.bad = true
		}
	}
	if r.bad || len(r.p) != 0 || len(m.chunks) == 0 {
		return nil, nil, fmt.Errorf("%w: its members are not what they should be", ErrFormat)
	}
	return m, rest[n:], nil
}

// expander decompresses members, and compresses them again. Its buffers stay.
type expander struct {
	inflater     deflate.Inflater
	encoder      deflate.Encoder
	base, chunks []byte
	seed         maphash.Seed // of those that are found
}

// expandBase returns a base with its members decompressed. That is good until the
// next call.
func (e *expander) expandBase(base []byte, list []baseMember) ([]byte, error) {
	out := slices.Grow(e.base[:0], MaxPatchExpandedBase)
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

// expand finds the members in chunks that can be made again, and those in their
// base, and returns both with them decompressed; m is nil if there are none. Members
// that are in both stay as they are: they need not be made.
func (e *expander) expand(raw, base []byte) (m *members, expanded, expandedBase []byte, err error) {
	if !e.hasMember(raw) {
		return nil, nil, nil, nil
	}
	var found []span
	inBase, inRaw := make(map[uint64]bool), make(map[uint64]bool)
	for f := range e.inflater.Find(base, MaxPatchExpandedBase) {
		s := span{f.Offset, f.Length, len(f.Inflated), maphash.Bytes(e.seed, base[f.Offset:f.Offset+f.Length])}
		found = append(found, s)
		inBase[s.hash] = true
	}
	m = &members{length: len(raw)}
	at := 0
	e.chunks = slices.Grow(e.chunks[:0], MaxPatchExpanded)
	for f := range e.inflater.Find(raw, MaxPatchExpanded) {
		hash := maphash.Bytes(e.seed, raw[f.Offset:f.Offset+f.Length])
		longer := m.length - f.Length + len(f.Inflated)
		if inRaw[hash] = true; inBase[hash] || longer > MaxPatchExpanded || len(m.chunks) == MaxPatchMembers {
			continue
		}
		maker, ok := e.encoder.Maker(raw, f)
		if !ok {
			continue
		}
		m.chunks = append(m.chunks, chunkMember{f.Offset - at, len(f.Inflated), maker})
		m.length = longer
		e.chunks = append(append(e.chunks, raw[at:f.Offset]...), f.Inflated...)
		at = f.Offset + f.Length
	}
	e.chunks = append(e.chunks, raw[at:]...)
	if len(m.chunks) == 0 {
		return nil, nil, nil, nil
	}
	at = 0
	length := len(base)
	for _, s := range found {
		longer := length - s.length + s.inflated
		if inRaw[s.hash] || longer > MaxPatchExpandedBase || len(m.base) == MaxPatchMembers {
			continue
		}
		m.base = append(m.base, baseMember{s.offset - at, s.length})
		length = longer
		at = s.offset + s.length
	}
	expandedBase, err = e.expandBase(base, m.base)
	return m, e.chunks, expandedBase, err
}

// span is where a member lies, and what it decompresses to has so many bytes.
type span struct {
	offset, length, inflated int
	hash                     uint64 // of the member
}

// hasMember reports whether there is a member in p.
func (e *expander) hasMember(p []byte) bool {
	for range e.inflater.Find(p, MaxPatchExpanded) {
		return true
	}
	return false
}

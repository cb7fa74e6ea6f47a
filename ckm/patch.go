package ckm

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"
)

// PatchExt is the extension of a patch, which may lie beside a package.
const PatchExt = ".patch"

// PatchName returns the name of the patch beside a package.
func PatchName(name string, version uint32) string { return stem(name, version) + PatchExt }

// ParsePatchName takes a patch's file name apart. It reports false for any name that
// PatchName would not have made.
func ParsePatchName(file string) (name string, version uint32, ok bool) {
	base, ok := strings.CutSuffix(file, PatchExt)
	if !ok {
		return "", 0, false
	}
	name, version, _, ok = ParseFileName(base + DataExt)
	return name, version, ok
}

// PatchHeaderSize is how many bytes of a patch tell how many its head has.
const PatchHeaderSize = 96

// Limits of patches. Lengths are in bytes.
const (
	MaxPatchHead  = 64 << 20
	MaxPatchRaw   = MaxFrameLimit // of the chunks that a part makes
	MaxPatchBase  = 4 << 20       // of the chunks that it is made from
	MaxPatchRuns  = 1024
	maxPatchParts = MaxChunks
	patchWindow   = 8 << 20
)

var patchMagic = [8]byte{0x89, 'P', 'T', 'C', '\r', '\n', 0x1a, '\n'}

// Patch makes chunks of a package from chunks of the package of another version
// of the image, its base. It holds nothing that the package does not: who has no
// use for it takes the package's own frames.
type Patch struct {
	Package     Digest // package digest of the package
	Base        Digest // and of its base
	BaseVersion uint32
	Parts       []PatchPart // in ascending order of chunks
}

// PatchPart makes some neighbouring chunks of the package.
type PatchPart struct {
	First, Count uint32     // chunks of the package
	Base         []ChunkRun // chunks of the base, whose bytes, one after the other, it is made from
	Offset       uint64     // of its stored bytes in the patch
	Stored       uint32     // bytes
}

// ChunkRun is chunks with numbers one after the other.
type ChunkRun struct{ First, Count uint32 }

// EncodeHead returns all of the patch but the stored bytes of its parts, which
// follow without gaps, and sets their offsets. X and base are the two packages'
// indexes. The error wraps ErrFormat when the patch breaks a rule of the format.
func (p *Patch) EncodeHead(x, base *Index) ([]byte, error) {
	if err := p.validate(x, base); err != nil {
		return nil, fmt.Errorf("encoding patch: %w", err)
	}
	var table []byte
	at := uint32(0)
	for i := range p.Parts {
		e := &p.Parts[i]
		table = binary.AppendUvarint(table, uint64(e.First-at))
		table = binary.AppendUvarint(table, uint64(e.Count))
		table = binary.AppendUvarint(table, uint64(e.Stored))
		table = binary.AppendUvarint(table, uint64(len(e.Base)))
		from := int64(0)
		for _, r := range e.Base {
			table = binary.AppendVarint(table, int64(r.First)-from)
			table = binary.AppendUvarint(table, uint64(r.Count))
			from = int64(r.First) + int64(r.Count)
		}
		at = e.First + e.Count
	}
	size := PatchHeaderSize + len(table) + digestSize
	if size > MaxPatchHead {
		return nil, fmt.Errorf("encoding patch: %w: a head of %d bytes, the limit is %d", ErrFormat, size, MaxPatchHead)
	}
	b := make([]byte, 0, size)
	b = append(b, patchMagic[:]...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = append(b, make([]byte, 6)...) // reserved, incompatible features
	b = append(b, p.Package[:]...)
	b = append(b, p.Base[:]...)
	b = binary.LittleEndian.AppendUint32(b, p.BaseVersion)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.Parts)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(table)))
	b = append(b, make([]byte, PatchHeaderSize-len(b))...)
	b = append(b, table...)
	d := Sum(b)
	p.place(uint64(size))
	return append(b, d[:]...), nil
}

// place sets the parts' offsets: the first one's stored bytes follow the head.
func (p *Patch) place(offset uint64) {
	for i := range p.Parts {
		p.Parts[i].Offset = offset
		offset += uint64(p.Parts[i].Stored)
	}
}

// PatchHeader is what the first bytes of a patch tell.
type PatchHeader struct {
	Package, Base Digest
	BaseVersion   uint32
	Size          int // of the head, in bytes

	parts int
}

// ParsePatchHeader reads the first PatchHeaderSize bytes of a patch. The error
// wraps ErrFormat or ErrUnsupported.
func ParsePatchHeader(p []byte) (h PatchHeader, err error) {
	if len(p) < PatchHeaderSize || string(p[:8]) != string(patchMagic[:]) {
		return h, fmt.Errorf("%w: no patch header", ErrFormat)
	}
	if v := binary.LittleEndian.Uint16(p[8:]); v != Version {
		return h, fmt.Errorf("%w: format version %d of a patch, this program reads %d", ErrUnsupported, v, Version)
	}
	if bits := binary.LittleEndian.Uint32(p[12:]); bits != 0 {
		return h, fmt.Errorf("%w: incompatible features %#x of a patch", ErrUnsupported, bits)
	}
	h.Package, h.Base = Digest(p[16:48]), Digest(p[48:80])
	h.BaseVersion = binary.LittleEndian.Uint32(p[80:])
	h.parts = int(binary.LittleEndian.Uint32(p[84:]))
	table := uint64(binary.LittleEndian.Uint32(p[88:]))
	if binary.LittleEndian.Uint16(p[10:]) != 0 || binary.LittleEndian.Uint32(p[92:]) != 0 ||
		table > MaxPatchHead-PatchHeaderSize-uint64(digestSize) || uint64(h.parts)*6 > table {
		return h, fmt.Errorf("%w: the patch claims %d parts in %d bytes", ErrFormat, h.parts, table)
	}
	h.Size = PatchHeaderSize + int(table) + digestSize
	return h, nil
}

// DecodePatch decodes the head of a patch, as many bytes as its header says or
// more, for the packages with the indexes x and base. It accepts only what
// EncodeHead writes. The error wraps ErrFormat, ErrUnsupported, or ErrMismatch if
// the patch is for other packages.
func DecodePatch(head []byte, x, base *Index) (*Patch, error) {
	p, err := decodePatch(head, x, base)
	if err != nil {
		return nil, fmt.Errorf("decoding patch: %w", err)
	}
	return p, nil
}

func decodePatch(head []byte, x, base *Index) (*Patch, error) {
	h, err := ParsePatchHeader(head)
	if err != nil {
		return nil, err
	}
	if len(head) < h.Size {
		return nil, fmt.Errorf("%w: cut short at %d bytes", ErrFormat, len(head))
	}
	body, sum := head[:h.Size-digestSize], head[h.Size-digestSize:h.Size]
	if d := Sum(body); string(d[:]) != string(sum) {
		return nil, fmt.Errorf("%w: damaged in its first %d bytes", ErrFormat, h.Size)
	}
	p := &Patch{Package: h.Package, Base: h.Base, BaseVersion: h.BaseVersion, Parts: make([]PatchPart, h.parts)}
	r := reader{p: body[PatchHeaderSize:]}
	at := uint64(0)
	for i := range p.Parts {
		e := &p.Parts[i]
		first := at + r.uvarint(MaxChunks)
		e.First = uint32(first)
		e.Count = uint32(r.uvarint(MaxChunks))
		e.Stored = uint32(r.uvarint(math.MaxInt32))
		at = first + uint64(e.Count)
		n := r.uvarint(MaxPatchRuns)
		if r.bad || at > MaxChunks || n > uint64(len(r.p))/2 {
			return nil, fmt.Errorf("%w: part %d", ErrFormat, i)
		}
		e.Base = make([]ChunkRun, n)
		from := int64(0)
		for j := range e.Base {
			run := &e.Base[j]
			first := from + r.svarint()
			run.Count = uint32(r.uvarint(MaxChunks))
			if r.bad || first < 0 || first > MaxChunks {
				return nil, fmt.Errorf("%w: part %d", ErrFormat, i)
			}
			run.First = uint32(first)
			from = first + int64(run.Count)
		}
	}
	if r.bad || len(r.p) != 0 {
		return nil, fmt.Errorf("%w: its table does not fit its header", ErrFormat)
	}
	if err := p.validate(x, base); err != nil {
		return nil, err
	}
	p.place(uint64(h.Size))
	return p, nil
}

// validate checks a patch against the packages that it is for.
func (p *Patch) validate(x, base *Index) error {
	if p.Package != x.digest || p.Base != base.digest || p.BaseVersion != base.Version || x.Name != base.Name || x.digest == base.digest {
		return fmt.Errorf("%w: the patch is for other packages", ErrMismatch)
	}
	if len(p.Parts) > maxPatchParts {
		return fmt.Errorf("%w: %d parts", ErrFormat, len(p.Parts))
	}
	at := uint64(0)
	for i := range p.Parts {
		e := &p.Parts[i]
		raw, ok := x.runBytes(ChunkRun{e.First, e.Count})
		if !ok || uint64(e.First) < at || raw > MaxPatchRaw || e.Stored < 1 || uint64(e.Stored) > maxStored(raw) {
			return fmt.Errorf("%w: part %d makes chunks %d+%d from %d bytes", ErrFormat, i, e.First, e.Count, e.Stored)
		}
		at = uint64(e.First) + uint64(e.Count)
		if len(e.Base) < 1 || len(e.Base) > MaxPatchRuns || base.runsBytes(e.Base) > MaxPatchBase {
			return fmt.Errorf("%w: the base of part %d", ErrFormat, i)
		}
	}
	return nil
}

// runBytes returns how many bytes a run's chunks have, and whether there is such a
// run.
func (x *Index) runBytes(r ChunkRun) (uint64, bool) {
	if r.Count < 1 || uint64(r.First)+uint64(r.Count) > uint64(len(x.ids)) {
		return 0, false
	}
	return x.span(r.First, r.Count), true
}

// runsBytes returns how many bytes all runs have together, and more than any patch
// may have if one is not there, or goes on where the one before it ends.
func (x *Index) runsBytes(runs []ChunkRun) (sum uint64) {
	for i, r := range runs {
		n, ok := x.runBytes(r)
		if !ok || i > 0 && r.First == runs[i-1].First+runs[i-1].Count {
			return math.MaxUint64
		}
		if sum += n; sum > MaxPatchBase {
			return sum
		}
	}
	return sum
}

package ckm

import (
	"encoding/binary"
	"fmt"
)

const (
	indexHeaderSize = 64
	pageEntrySize   = 40
	digestSize      = len(Digest{})
	tailSize        = 4 + digestSize // after the pages, with an empty signature block
)

// Bits of a segment's first number, see doc/format.md, Map page.
const (
	segSplit     = 1 << 0
	segStay      = 0 << 1
	segSkip      = 1 << 1
	segSeek      = 2 << 1
	segPosition  = 3 << 1
	segChunk     = 1 << 3
	segCountBits = 4
)

// Encode returns the INDEX in its canonical form and sets the package digest.
// The error wraps ErrFormat when the index breaks a rule of the format.
func (x *Index) Encode() ([]byte, error) {
	x.mergeRuns()
	if err := x.validate(); err != nil {
		return nil, fmt.Errorf("encoding index: %w", err)
	}
	b := x.encode()
	if len(b) > MaxIndexSize {
		return nil, fmt.Errorf("encoding index: %w: %d bytes, the limit is %d", ErrFormat, len(b), MaxIndexSize)
	}
	return b, nil
}

// encode writes a valid index; it cannot fail.
func (x *Index) encode() []byte {
	var pages, table []byte
	page := func(start, items int) {
		table = binary.LittleEndian.AppendUint32(table, uint32(len(pages)-start))
		table = binary.LittleEndian.AppendUint32(table, uint32(items))
		d := Sum(pages[start:])
		table = append(table, d[:]...)
	}
	var chunkPages, mapPages uint32
	for f := 0; f < len(x.frames); chunkPages++ {
		end := x.pageEnd(f)
		start, first := len(pages), x.frames[f].First
		pages = x.appendChunkPage(pages, f, end)
		_, last := x.FrameChunks(end - 1)
		page(start, last-int(first))
		f = end
	}
	for s := 0; s < len(x.segments); mapPages++ {
		end := min(s+pageSegments, len(x.segments))
		start := len(pages)
		pages = x.appendMapPage(pages, x.segments[s:end])
		page(start, end-s)
		s = end
	}
	info := x.Info.append(nil)

	b := make([]byte, 0, indexHeaderSize+len(info)+len(table)+2*digestSize+len(pages)+4+len(x.Signatures))
	b = append(b, indexMagic[:]...)
	b = binary.LittleEndian.AppendUint16(b, Version)
	b = append(b, make([]byte, 6)...) // reserved, incompatible features
	b = binary.LittleEndian.AppendUint32(b, x.CompatibleFeatures)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(info)))
	b = binary.LittleEndian.AppendUint32(b, chunkPages)
	b = binary.LittleEndian.AppendUint32(b, mapPages)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.ids)))
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.frames)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(pages)))
	b = append(b, make([]byte, indexHeaderSize-len(b))...)
	b = append(b, info...)
	b = append(b, table...)
	x.digest = Sum(b)
	b = append(b, x.digest[:]...)
	b = append(b, pages...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(x.Signatures)))
	b = append(b, x.Signatures...)
	file := Sum(b)
	return append(b, file[:]...)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (in *Info) append(b []byte) []byte {
	b = appendString(b, in.Name)
	b = binary.AppendUvarint(b, uint64(in.Version))
	b = binary.AppendUvarint(b, uint64(in.Created))
	b = appendString(b, in.Creator)
	for _, n := range []uint32{in.ChunkMin, in.ChunkAvg, in.ChunkMax, in.FrameLimit} {
		b = binary.AppendUvarint(b, uint64(n))
	}
	b = binary.AppendUvarint(b, in.CKMLength)
	b = append(b, in.CKMBlake3[:]...)
	b = append(b, in.CKMSHA256[:]...)
	b = append(b, in.Content[:]...)
	b = binary.AppendUvarint(b, in.DataLength)
	b = binary.AppendUvarint(b, uint64(len(in.Files)))
	for _, f := range in.Files {
		b = appendString(b, f.Path)
		b = binary.AppendUvarint(b, f.Size)
		b = appendString(b, f.Format)
	}
	b = binary.AppendUvarint(b, uint64(len(in.Attributes)))
	for _, a := range in.Attributes {
		b = appendString(b, a.Key)
		b = appendString(b, a.Value)
	}
	return b
}

// pageEnd returns the end of the chunk page that begins with frame f.
func (x *Index) pageEnd(f int) int {
	chunks := 0
	for ; f < len(x.frames); f++ {
		first, end := x.FrameChunks(f)
		chunks += end - first
		for _, id := range x.ids[first:end] {
			if closesPage(id) {
				return f + 1
			}
		}
		if chunks >= pageChunks {
			return f + 1
		}
	}
	return f
}

func (x *Index) appendChunkPage(b []byte, f, end int) []byte {
	frames := x.frames[f:end]
	b = binary.AppendUvarint(b, uint64(len(frames)))
	for i := range frames {
		first, last := x.FrameChunks(f + i)
		b = binary.AppendUvarint(b, uint64(last-first))
	}
	for i := range frames {
		b = binary.AppendUvarint(b, uint64(frames[i].Stored))
	}
	for i := range frames {
		b = append(b, byte(frames[i].Codec))
	}
	for i := range frames {
		b = append(b, frames[i].Digest[:]...)
	}
	_, last := x.FrameChunks(end - 1)
	for c := int(frames[0].First); c < last; c++ {
		b = binary.AppendUvarint(b, uint64(x.ChunkLength(c)))
	}
	for c := int(frames[0].First); c < last; c++ {
		b = append(b, x.ids[c][:]...)
	}
	return b
}

func (x *Index) appendMapPage(b []byte, segments []Segment) []byte {
	var (
		file, chunk uint32
		at          uint64
	)
	for i := range segments {
		s := &segments[i]
		w := uint64(s.Count)
		if s.Extents != nil {
			w = uint64(len(s.Extents))
		}
		w <<= segCountBits
		if s.Extents != nil {
			w |= segSplit
		}
		switch {
		case s.File != file || s.Offset < at:
			w |= segSeek
		case s.Offset > at:
			w |= segSkip
		}
		if s.Chunk != chunk {
			w |= segChunk
		}
		b = binary.AppendUvarint(b, w)
		switch w & segPosition {
		case segSkip:
			b = binary.AppendUvarint(b, s.Offset-at)
		case segSeek:
			b = binary.AppendUvarint(b, uint64(s.File))
			b = binary.AppendUvarint(b, s.Offset)
		}
		if w&segChunk != 0 {
			b = binary.AppendUvarint(b, uint64(s.Chunk))
		}
		file, at, chunk = s.File, s.Offset, s.Chunk+s.Count
		if s.Extents == nil {
			at += x.span(s.Chunk, s.Count)
		}
		for j, e := range s.Extents {
			if j > 0 {
				b = binary.AppendVarint(b, int64(e.Offset)-int64(at))
			}
			b = binary.AppendUvarint(b, e.Length)
			at = e.Offset + e.Length
		}
	}
	return b
}

package ckm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
)

// validate checks everything that holds between the parts of an index.
func (x *Index) validate() error {
	if err := x.validateInfo(); err != nil {
		return err
	}
	if _, err := splitBlock(x.Signatures); err != nil {
		return err
	}
	if err := x.validateFrames(); err != nil {
		return err
	}
	return x.validateMap()
}

// validateInfo checks what the info section says on its own.
func (in *Info) validateInfo() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("%w: %s", ErrFormat, fmt.Sprintf(format, args...))
	}
	if err := CheckName(in.Name); err != nil {
		return bad("%v", err)
	}
	if in.Version < 1 || in.Version > maxVersion {
		return bad("version %d", in.Version)
	}
	if in.Created < 0 || in.Created >= 1<<40 || !isText(in.Creator, 256) {
		return bad("creation time or creator is out of bounds or not text")
	}
	if in.FrameLimit < 1 || in.FrameLimit > MaxFrameLimit {
		return bad("frame limit %d is out of bounds", in.FrameLimit)
	}
	if len(in.Files) < 1 || len(in.Files) > MaxFiles {
		return bad("%d files", len(in.Files))
	}
	if err := CheckPaths(in.Files); err != nil {
		return bad("%v", err)
	}
	var total uint64
	for _, f := range in.Files {
		if f.Size > MaxImageSize || total+f.Size > MaxImageSize || !isText(f.Format, 32) {
			return bad("file %q: size or format is out of bounds or not text", f.Path)
		}
		total += f.Size
	}
	if len(in.Attributes) > 64 {
		return bad("%d attributes", len(in.Attributes))
	}
	for i, a := range in.Attributes {
		if a.Key == "" || !isText(a.Key, 64) || !isText(a.Value, MaxAttributeValue) || i > 0 && in.Attributes[i-1].Key >= a.Key {
			return bad("attribute %q out of bounds, out of order or not text", a.Key)
		}
	}
	return nil
}

func (x *Index) validateFrames() error {
	bad := func(f int, format string, args ...any) error {
		return fmt.Errorf("%w: frame %d: %s", ErrFormat, f, fmt.Sprintf(format, args...))
	}
	if len(x.ids) > MaxChunks || len(x.ids) != len(x.ends) {
		return fmt.Errorf("%w: %d chunks with %d lengths", ErrFormat, len(x.ids), len(x.ends))
	}
	offset := uint64(HeaderSize)
	for i := range x.frames {
		f := &x.frames[i]
		first, end := x.FrameChunks(i)
		if end-first < 1 || end-first > MaxFrameChunks {
			return bad(i, "%d chunks", end-first)
		}
		raw := x.ends[end-1] - x.start(first)
		if raw < 1 || raw > uint64(x.FrameLimit) {
			return bad(i, "%d raw bytes, limit %d", raw, x.FrameLimit)
		}
		for c := first; c < end; c++ {
			if x.ends[c] <= x.start(c) {
				return bad(i, "chunk %d has no bytes", c)
			}
		}
		if f.Codec != CodecZstd {
			return fmt.Errorf("%w: frame %d has codec %d", ErrUnsupported, i, f.Codec)
		}
		if f.Stored < 1 || uint64(f.Stored) > maxStored(raw) || f.Offset != offset {
			return bad(i, "stored length %d at %d out of bounds", f.Stored, f.Offset)
		}
		offset += uint64(f.Stored)
	}
	if x.CKMLength != offset+TrailerSize {
		return fmt.Errorf("%w: CKM length %d, its parts make %d", ErrFormat, x.CKMLength, offset+TrailerSize)
	}
	if x.Content != x.contentDigest() {
		return fmt.Errorf("%w: content digest", ErrFormat)
	}
	var data uint64
	if n := len(x.ends); n > 0 {
		data = x.ends[n-1]
	}
	if x.DataLength != data {
		return fmt.Errorf("%w: data length %d, the chunks make %d", ErrFormat, x.DataLength, data)
	}
	return x.validateUnique()
}

// validateUnique refuses a package that holds a chunk twice.
func (x *Index) validateUnique() error {
	// Sorting by the first eight bytes finds all candidates at a quarter of
	// the cost of sorting whole IDs; equal prefixes are compared in full.
	type key struct {
		prefix uint64
		chunk  uint32
	}
	keys := make([]key, len(x.ids))
	for i := range keys {
		keys[i] = key{binary.BigEndian.Uint64(x.ids[i][:]), uint32(i)}
	}
	slices.SortFunc(keys, func(a, b key) int {
		if c := cmp.Compare(a.prefix, b.prefix); c != 0 {
			return c
		}
		return bytes.Compare(x.ids[a.chunk][:], x.ids[b.chunk][:])
	})
	for i := 1; i < len(keys); i++ {
		if a, b := keys[i-1].chunk, keys[i].chunk; x.ids[a] == x.ids[b] {
			return fmt.Errorf("%w: chunk %d and chunk %d are the same", ErrFormat, a, b)
		}
	}
	return nil
}

// maxStored is the longest that a frame of raw bytes may be when stored.
func maxStored(raw uint64) uint64 { return raw + raw/64 + 128 }

func (x *Index) validateMap() error {
	type span struct {
		file       uint32
		start, end uint64
	}
	var (
		spans []span
		next  uint32 // lowest chunk not yet used

		extents int // of all splits
	)
	chunks := uint32(len(x.ids))
	add := func(i int, file uint32, e Extent) error {
		size := x.Files[file].Size
		if e.Length < 1 || e.Length > size || e.Offset > size-e.Length {
			return fmt.Errorf("%w: segment %d reaches past the end of %q", ErrFormat, i, x.Files[file].Path)
		}
		// Neighbours in order make one span: most maps are nearly sequential.
		if n := len(spans); n > 0 && spans[n-1].file == file && spans[n-1].end == e.Offset {
			spans[n-1].end += e.Length
			return nil
		}
		spans = append(spans, span{file, e.Offset, e.Offset + e.Length})
		return nil
	}
	if len(x.segments) > MaxSegments {
		return fmt.Errorf("%w: %d segments, the limit is %d", ErrFormat, len(x.segments), MaxSegments)
	}
	for i := range x.segments {
		s := &x.segments[i]
		if s.Count < 1 || s.Count > MaxRunChunks || s.Chunk >= chunks || s.Count > chunks-s.Chunk || s.Chunk > next {
			return fmt.Errorf("%w: segment %d: chunks %d+%d out of bounds or out of order", ErrFormat, i, s.Chunk, s.Count)
		}
		if int64(s.File) >= int64(len(x.Files)) {
			return fmt.Errorf("%w: segment %d: file %d", ErrFormat, i, s.File)
		}
		next = max(next, s.Chunk+s.Count)
		want := x.span(s.Chunk, s.Count)
		if s.Extents == nil {
			if err := add(i, s.File, Extent{s.Offset, want}); err != nil {
				return err
			}
			continue
		}
		if len(s.Extents) < 2 || len(s.Extents) > MaxSplitExtents || s.Count != 1 {
			return fmt.Errorf("%w: segment %d: %d extents", ErrFormat, i, len(s.Extents))
		}
		if extents += len(s.Extents); extents > MaxSegments {
			return fmt.Errorf("%w: more than %d extents in splits", ErrFormat, MaxSegments)
		}
		var sum uint64
		for j, e := range s.Extents {
			if err := add(i, s.File, e); err != nil {
				return err
			}
			if sum += e.Length; sum > want || j > 0 && e.Offset == s.Extents[j-1].Offset+s.Extents[j-1].Length {
				return fmt.Errorf("%w: segment %d: extents do not fit chunk %d", ErrFormat, i, s.Chunk)
			}
		}
		if sum != want || s.Offset != s.Extents[0].Offset {
			return fmt.Errorf("%w: segment %d: extents do not fit chunk %d", ErrFormat, i, s.Chunk)
		}
	}
	if next != chunks {
		return fmt.Errorf("%w: chunk %d is never used", ErrFormat, next)
	}
	slices.SortFunc(spans, func(a, b span) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.start, b.start))
	})
	for i := 1; i < len(spans); i++ {
		if spans[i].file == spans[i-1].file && spans[i].start < spans[i-1].end {
			return fmt.Errorf("%w: two segments overlap at %d of %q", ErrFormat, spans[i].start, x.Files[spans[i].file].Path)
		}
	}
	return nil
}

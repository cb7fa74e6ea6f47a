package pack

import (
	"cmp"
	"slices"
	"sort"

	"prestage/ckm"
	"prestage/internal/chunk"
	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/volume"
)

// stream is what is cut into chunks by itself: the same bytes make the same
// chunks, wherever they lie in the image. It is a file of the machine inside,
// without what lies between its parts, or a part of the image that is none's.
type stream struct {
	file    uint32 // of the image
	extents []ckm.Extent
	joined  bool // small parts that have nothing to do with one another
	use     use
}

// use is what bytes of the image are for.
type use int

// Uses. Those of files are after the last.
const (
	inUse use = iota
	free
	fileUse // and the file's kind
)

func useOf(k volume.Kind) use {
	if k == volume.Ordinary {
		return inUse
	}
	return fileUse + use(k)
}

func (s *stream) size() (n int64) {
	for _, e := range s.extents {
		n += int64(e.Length)
	}
	return n
}

// partMin is the shortest part of a file but for its last one, so that the parts
// of a chunk are never too many for the format. No file system has shorter ones.
const partMin = 512

// mostParts is how many parts all streams may have together, within the limits
// of the format; else the image is cut as if nothing were known of it.
const mostParts = 1 << 23

// Rest is what no file claims: metadata, what lies behind the ends of files in
// their last blocks, and free space. Small parts of it are cut together.
const (
	restSmall  = holeMin             // bytes; larger parts are streams by themselves
	restJoined = chunk.Max           // bytes of small parts that are cut together, at most
	restParts  = ckm.MaxSplitExtents // in a stream
)

// plan divides the image into streams, in the order of the image. Each byte is
// in one of them, but for what is to be discarded.
func plan(files []*disk.File, m *fsmap.Map, discard Discard) []stream {
	if m == nil {
		m = &fsmap.Map{}
	}
	var streams []stream
	for _, f := range m.Files {
		if discard.Files[f.Kind] {
			continue
		}
		streams = appendFile(streams, files, f.Extents, useOf(f.Kind))
	}
	streams = withoutOverlaps(streams)
	parts := 0
	for _, s := range streams {
		parts += len(s.extents)
	}
	if parts > mostParts {
		return plan(files, nil, Discard{})
	}
	taken := make([][]ckm.Extent, len(files))
	for _, s := range streams {
		taken[s.file] = append(taken[s.file], s.extents...)
	}
	unused := make([][]ckm.Extent, len(files))
	away := make([][]ckm.Extent, len(files))
	claimed := make([][]ckm.Extent, len(files)) // also by files that are no streams
	add := func(to [][]ckm.Extent, list []fsmap.Extent) {
		for _, e := range list {
			if isInside(files, e) {
				to[e.File] = append(to[e.File], ckm.Extent{Offset: uint64(e.Offset), Length: uint64(e.Length)})
			}
		}
	}
	add(unused, m.Free)
	for _, f := range m.Files {
		if discard.Files[f.Kind] {
			add(away, f.Extents)
		} else {
			add(claimed, f.Extents)
		}
	}
	for i, f := range files {
		byOffset(taken[i])
		byOffset(unused[i])
		byOffset(away[i])
		byOffset(claimed[i])
		// What a file claims is kept, whatever else is said of it.
		unclaimed := func(list []ckm.Extent) []ckm.Extent {
			joined := gapsOf(gapsOf(list, uint64(f.Size)), uint64(f.Size))
			return gaps(joined, claimed[i])
		}
		rest := gaps(gapsOf(taken[i], uint64(f.Size)), unclaimed(away[i]))
		used := gaps(rest, unclaimed(unused[i]))
		streams = appendRest(streams, uint32(i), uint64(f.Size), used, inUse)
		if !discard.Free {
			streams = appendRest(streams, uint32(i), uint64(f.Size), gaps(rest, used), free)
		}
	}
	slices.SortFunc(streams, func(a, b stream) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.extents[0].Offset, b.extents[0].Offset))
	})
	return streams
}

func isInside(files []*disk.File, e fsmap.Extent) bool {
	return int64(e.File) < int64(len(files)) && e.Offset >= 0 && e.Length > 0 && e.Offset <= files[e.File].Size && e.Length <= files[e.File].Size-e.Offset
}

// appendFile adds the streams of a file: one, unless it lies in several files of
// the image. What does not lie in the image at all is nobody's.
func appendFile(streams []stream, files []*disk.File, extents []fsmap.Extent, u use) []stream {
	begin := len(streams)
	for i, e := range extents {
		if !isInside(files, e) || e.Length < partMin && i < len(extents)-1 {
			return streams[:begin]
		}
		x := ckm.Extent{Offset: uint64(e.Offset), Length: uint64(e.Length)}
		if n := len(streams); n > begin && streams[n-1].file == e.File {
			streams[n-1].extents = append(streams[n-1].extents, x)
		} else {
			streams = append(streams, stream{file: e.File, extents: []ckm.Extent{x}, use: u})
		}
	}
	return streams
}

// withoutOverlaps leaves out streams that claim bytes that another one claims:
// file systems can share them, and damaged ones do.
func withoutOverlaps(streams []stream) []stream {
	type claim struct {
		ckm.Extent
		stream int
	}
	var claims []claim
	for i, s := range streams {
		for _, e := range s.extents {
			claims = append(claims, claim{e, i})
		}
	}
	slices.SortFunc(claims, func(a, b claim) int {
		return cmp.Or(cmp.Compare(streams[a.stream].file, streams[b.stream].file), cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.stream, b.stream))
	})
	out := make(map[int]bool)
	end, file := uint64(0), uint32(0)
	for _, c := range claims {
		if f := streams[c.stream].file; f != file {
			end, file = 0, f
		}
		if out[c.stream] {
			continue
		}
		if c.Offset < end {
			out[c.stream] = true
			continue
		}
		end = c.Offset + c.Length
	}
	if len(out) == 0 {
		return streams
	}
	kept := streams[:0]
	for i, s := range streams {
		if !out[i] {
			kept = append(kept, s)
		}
	}
	return kept
}

func byOffset(list []ckm.Extent) {
	slices.SortFunc(list, func(a, b ckm.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
}

// gapsOf returns what of size bytes the extents, in ascending order, leave.
func gapsOf(extents []ckm.Extent, size uint64) []ckm.Extent {
	return gaps([]ckm.Extent{{Offset: 0, Length: size}}, extents)
}

// gaps returns what of the parts, which do not overlap, lies in none of the
// extents, which may; both ascend.
func gaps(parts, extents []ckm.Extent) (out []ckm.Extent) {
	for _, p := range parts {
		at, end := p.Offset, p.Offset+p.Length
		for len(extents) > 0 && extents[0].Offset < end && at < end {
			e := extents[0]
			if e.Offset > at {
				out = append(out, ckm.Extent{Offset: at, Length: e.Offset - at})
			}
			at = max(at, e.Offset+e.Length)
			if e.Offset+e.Length > end {
				break // it may reach into the next part
			}
			extents = extents[1:]
		}
		if at < end {
			out = append(out, ckm.Extent{Offset: at, Length: end - at})
		}
	}
	return out
}

// appendRest adds streams of what no file claims of one that has size bytes.
func appendRest(streams []stream, file uint32, size uint64, rest []ckm.Extent, u use) []stream {
	var joined []ckm.Extent
	var bytes uint64
	flush := func() {
		if len(joined) > 0 {
			streams = append(streams, stream{file, joined, true, u})
			joined, bytes = nil, 0
		}
	}
	for _, e := range rest {
		if e.Length >= restSmall || e.Length == size {
			flush()
			streams = append(streams, stream{file: file, extents: []ckm.Extent{e}, use: u})
			continue
		}
		if bytes+e.Length > restJoined || len(joined) == restParts {
			flush()
		}
		joined = append(joined, e)
		bytes += e.Length
	}
	flush()
	return streams
}

// Discard says what is left out of a package, and comes back as zeros.
type Discard struct {
	Free  bool                 // what nothing uses
	Files map[volume.Kind]bool // files of these kinds; their sizes stay
}

// slicer finds where bytes of a stream lie in the image's file.
type slicer struct {
	extents []ckm.Extent
	starts  []int64 // in the stream
}

func newSlicer(s *stream) slicer {
	c := slicer{extents: s.extents, starts: make([]int64, len(s.extents))}
	at := int64(0)
	for i, e := range s.extents {
		c.starts[i] = at
		at += int64(e.Length)
	}
	return c
}

// at returns where position pos of the stream lies, and how many bytes follow
// there without a gap.
func (c *slicer) at(pos int64) (off, length int64) {
	i, start := c.find(pos)
	return int64(c.extents[i].Offset) + pos - start, int64(c.extents[i].Length) - (pos - start)
}

func (c *slicer) find(pos int64) (i int, start int64) {
	i = sort.Search(len(c.starts), func(i int) bool { return c.starts[i] > pos }) - 1
	return i, c.starts[i]
}

// extent returns where a part of the stream lies if it is in one piece, or the
// parts in which it lies.
func (c *slicer) extent(pos, length int64) (off int64, split []ckm.Extent) {
	off, have := c.at(pos)
	if have >= length {
		return off, nil
	}
	i, start := c.find(pos)
	for first := true; length > 0; i, first = i+1, false {
		e := c.extents[i]
		if first {
			e.Offset, e.Length = e.Offset+uint64(pos-start), e.Length-uint64(pos-start)
		}
		e.Length = min(e.Length, uint64(length))
		length -= int64(e.Length)
		if n := len(split); n > 0 && split[n-1].Offset+split[n-1].Length == e.Offset {
			split[n-1].Length += e.Length
			continue
		}
		split = append(split, e)
	}
	if len(split) == 1 {
		return int64(split[0].Offset), nil
	}
	return off, split
}

package ckm

import (
	"cmp"
	"iter"
	"slices"
	"sort"
)

// Placement finds where chunks go, by their numbers.
type Placement struct {
	x       *Index
	byChunk []uint32 // numbers of segments, in order of their first chunks
}

// NewPlacement prepares x's map for lookups.
func NewPlacement(x *Index) *Placement {
	p := &Placement{x, make([]uint32, len(x.segments))}
	for i := range p.byChunk {
		p.byChunk[i] = uint32(i)
	}
	slices.SortStableFunc(p.byChunk, func(a, b uint32) int {
		return cmp.Compare(x.segments[a].Chunk, x.segments[b].Chunk)
	})
	return p
}

// Of returns the segments that place chunks [first, end), each cut down to
// those chunks. A chunk that is placed several times is in several segments.
func (p *Placement) Of(first, end int) iter.Seq[Segment] {
	return func(yield func(Segment) bool) {
		// No run is longer than MaxRunChunks, so none that reaches first
		// begins further away than that.
		i := sort.Search(len(p.byChunk), func(i int) bool {
			return int(p.x.segments[p.byChunk[i]].Chunk) > first-MaxRunChunks
		})
		for ; i < len(p.byChunk); i++ {
			s := p.x.segments[p.byChunk[i]]
			if int(s.Chunk) >= end {
				return
			}
			if int(s.Chunk+s.Count) <= first {
				continue
			}
			if skip := first - int(s.Chunk); skip > 0 {
				s.Offset += p.x.span(s.Chunk, uint32(skip))
				s.Chunk += uint32(skip)
				s.Count -= uint32(skip)
			}
			s.Count = min(s.Count, uint32(end)-s.Chunk)
			if !yield(s) {
				return
			}
		}
	}
}

// RunLength returns the length in bytes of count chunks from chunk on.
func (x *Index) RunLength(chunk, count uint32) int64 { return int64(x.span(chunk, count)) }

// Holes returns, for each file, the extents that no placement covers, in order.
func (x *Index) Holes() [][]Extent {
	used := make([][]Extent, len(x.Files))
	for i := range x.segments {
		s := &x.segments[i]
		u := used[s.File]
		switch n := len(u); {
		case s.Extents != nil:
			u = append(u, s.Extents...)
		case n > 0 && u[n-1].Offset+u[n-1].Length == s.Offset:
			u[n-1].Length += x.span(s.Chunk, s.Count)
		default:
			u = append(u, Extent{s.Offset, x.span(s.Chunk, s.Count)})
		}
		used[s.File] = u
	}
	holes := make([][]Extent, len(x.Files))
	for f, u := range used {
		slices.SortFunc(u, func(a, b Extent) int { return cmp.Compare(a.Offset, b.Offset) })
		var at uint64
		for _, e := range append(u, Extent{x.Files[f].Size, 0}) {
			if e.Offset > at {
				holes[f] = append(holes[f], Extent{at, e.Offset - at})
			}
			at = e.Offset + e.Length
		}
	}
	return holes
}

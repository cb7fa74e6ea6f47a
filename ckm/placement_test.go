package ckm_test

import (
	"cmp"
	"math/rand/v2"
	"slices"
	"testing"

	"prestage/ckm"
)

// TestPlacement looks up chunks in random packages and compares with the list
// of placements that they were made from.
func TestPlacement(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(3, 3))
			m := random(r, s)
			x := must(t, m.build())
			place := ckm.NewPlacement(x)
			for f := range x.Frames() {
				checkPlacement(t, m, x, place, f, f+1)
			}
			for range min(20, x.Frames()) {
				f := r.IntN(x.Frames())
				checkPlacement(t, m, x, place, f, f+1+r.IntN(x.Frames()-f))
			}
			checkHoles(t, m, x)
		})
	}
	for _, c := range goodCases() {
		if c.model.mapPages == nil {
			checkHoles(t, c.model, must(t, c.model.build()))
		}
	}
}

// checkPlacement looks up the chunks of some frames.
func checkPlacement(t *testing.T, m *model, x *ckm.Index, place *ckm.Placement, from, to int) {
	t.Helper()
	first, _ := x.FrameChunks(from)
	_, end := x.FrameChunks(to - 1)
	key := func(a, b mPlace) int {
		return cmp.Or(cmp.Compare(a.chunk, b.chunk), cmp.Compare(a.file, b.file), cmp.Compare(a.offset, b.offset))
	}
	var want, got []mPlace
	for _, p := range m.places {
		if int(p.chunk) >= first && int(p.chunk) < end {
			want = append(want, p)
		}
	}
	for s := range place.Of(first, end) {
		if s.Count < 1 || int(s.Chunk) < first || int(s.Chunk+s.Count) > end {
			t.Fatalf("chunks %d+%d are not among %d to %d", s.Chunk, s.Count, first, end)
		}
		for c := s.Chunk; c < s.Chunk+s.Count; c++ {
			got = append(got, mPlace{c, s.File, s.Offset + uint64(x.RunLength(s.Chunk, c-s.Chunk)), s.Extents})
		}
	}
	slices.SortFunc(want, key)
	slices.SortFunc(got, key)
	if !slices.EqualFunc(want, got, func(a, b mPlace) bool { return key(a, b) == 0 && slices.Equal(a.extents, b.extents) }) {
		t.Fatalf("frames %d to %d: %d placements, want %d", from, to, len(got), len(want))
	}
	for range place.Of(first, end) { // a loop that stops early
		break
	}
}

// checkHoles compares the holes with what the placements leave.
func checkHoles(t *testing.T, m *model, x *ckm.Index) {
	t.Helper()
	chunks := m.chunks()
	used := make([][]ckm.Extent, len(m.info.Files))
	for _, p := range m.places {
		extents := p.extents
		if extents == nil {
			extents = []ckm.Extent{{Offset: p.offset, Length: chunks[p.chunk].length}}
		}
		used[p.file] = append(used[p.file], extents...)
	}
	got := x.Holes()
	if len(got) != len(used) {
		t.Fatalf("holes of %d files, want %d", len(got), len(used))
	}
	var total uint64
	for f, extents := range used {
		slices.SortFunc(extents, func(a, b ckm.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
		var want []ckm.Extent
		at := uint64(0)
		for _, e := range append(extents, ckm.Extent{Offset: m.info.Files[f].Size}) {
			if e.Offset > at {
				want = append(want, ckm.Extent{Offset: at, Length: e.Offset - at})
				total += e.Offset - at
			}
			at = e.Offset + e.Length
		}
		if !slices.Equal(got[f], want) {
			t.Fatalf("file %d: holes %v, want %v", f, got[f], want)
		}
	}
	if total+x.PlacedSize() != x.ImageSize() {
		t.Fatalf("%d bytes of holes and %d placed, of %d", total, x.PlacedSize(), x.ImageSize())
	}
}

package ckm_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"prestage/ckm"
)

// shape says what a random package should have plenty of.
type shape struct {
	name       string
	placements int     // about how many
	length     int     // of chunks, at most
	files      int     // at most
	splits     float64 // share of placements that are splits
	again      float64 // share that begin with a chunk that was used before
	gaps       float64 // share that leave a hole before them
	frame      int     // chunks in a frame, at most
	open       bool    // no ID closes a page
}

var shapes = []shape{
	{name: "empty", files: 3},
	{name: "tiny", placements: 3, length: 100, files: 2, splits: 0.2, again: 0.2, gaps: 0.3, frame: 2},
	{name: "mixed", placements: 300, length: 5000, files: 5, splits: 0.1, again: 0.3, gaps: 0.3, frame: 6},
	{name: "sequential", placements: 3000, length: 200, files: 1, frame: 64},
	{name: "deduplicated", placements: 2000, length: 60, files: 3, again: 0.6, gaps: 0.01, frame: 9},
	{name: "split", placements: 150, length: 4000, files: 2, splits: 0.9, again: 0.3, gaps: 0.5, frame: 3},
	{name: "long pages", placements: 5000, length: 30, files: 1, again: 0.01, frame: 700, open: true},
	{name: "long map", placements: 9000, length: 9, files: 4, splits: 0.1, again: 0.2, gaps: 0.9, frame: 40},
	{name: "many files", placements: 600, length: 300, files: 400, again: 0.2, gaps: 0.2, frame: 5},
	{name: "huge", placements: 40, length: 1 << 20, files: 2, splits: 0.2, again: 0.2, gaps: 0.5, frame: 1},
}

// random makes a valid package of the shape.
func random(r *rand.Rand, s shape) *model {
	m := &model{info: ckm.Info{
		Name: fmt.Sprintf("image-%d", r.IntN(1e6)), Version: 1 + uint32(r.IntN(1<<31-1)), Created: r.Int64N(1 << 40), Creator: text(r, 256),
		ChunkMin: r.Uint32(), ChunkAvg: r.Uint32(), ChunkMax: r.Uint32(), FrameLimit: ckm.MaxFrameLimit,
	}}
	m.info.CKMBlake3, m.info.CKMSHA256 = randomID(r), randomID(r)
	m.compatible = r.Uint32() & r.Uint32() & r.Uint32()
	files := 1 + r.IntN(s.files)
	ends := make([]uint64, files)
	holes := make([][]ckm.Extent, files) // left open, to be filled out of order

	var lengths []uint64
	length := func(c int) uint64 {
		for c >= len(lengths) {
			lengths = append(lengths, 1+uint64(r.IntN(s.length)))
		}
		return lengths[c]
	}
	// room reserves n bytes of a file.
	room := func(file int, n uint64) uint64 {
		for i, h := range holes[file] {
			if h.Length >= n && r.IntN(2) == 0 {
				holes[file][i] = ckm.Extent{Offset: h.Offset + n, Length: h.Length - n}
				return h.Offset
			}
		}
		at := ends[file]
		if r.Float64() < s.gaps {
			gap := 1 + r.Uint64N(1<<r.IntN(40))
			holes[file] = append(holes[file], ckm.Extent{Offset: at, Length: gap})
			at += gap
		}
		ends[file] = at + n
		return at
	}
	file := 0
	for done := 0; done < s.placements; {
		if r.IntN(4) == 0 {
			file = r.IntN(files)
		}
		c := len(lengths)
		if c > 0 && r.Float64() < s.again {
			c = r.IntN(c)
		}
		if n := length(c); r.Float64() < s.splits && n > 2 {
			m.places = append(m.places, randomSplit(r, c, file, n, room(file, 3*n)))
			done++
			continue
		}
		count := 1
		if s.again > 0.2 || s.gaps < 0.2 {
			count += r.IntN(1 << r.IntN(10))
		}
		var total uint64
		for i := range count {
			total += length(c + i)
		}
		at := room(file, total)
		for i := range count {
			m.places = append(m.places, mPlace{chunk: uint32(c + i), file: uint32(file), offset: at})
			at += length(c + i)
		}
		done += count
	}
	for i, end := range ends {
		size := end
		if r.IntN(2) == 0 {
			size += r.Uint64N(1 << 48)
		}
		m.info.Files = append(m.info.Files, ckm.File{Path: fmt.Sprintf("d%d/f%d", i%7, i), Size: size, Format: text(r, 32)})
	}
	for c := 0; c < len(lengths); {
		n := 1 + r.IntN(min(s.frame, len(lengths)-c))
		raw := uint64(0)
		var f mFrame
		for ; n > 0 && raw+lengths[c] <= ckm.MaxFrameLimit; n-- {
			id := randomID(r)
			if s.open || r.IntN(3) > 0 {
				id[31] |= 4
			}
			f.chunks = append(f.chunks, mChunk{id, lengths[c]})
			raw += lengths[c]
			if c++; c == len(lengths) {
				break
			}
		}
		f.stored = make([]byte, 1+r.Uint64N(min(raw+raw/64+128, 5000)))
		for i := range f.stored {
			f.stored[i] = byte(r.Uint32())
		}
		m.frames = append(m.frames, f)
	}
	for i := range r.IntN(65) * r.IntN(2) {
		m.info.Attributes = append(m.info.Attributes, ckm.Attribute{Key: fmt.Sprintf("key %03d", i), Value: text(r, 1024)})
	}
	if r.IntN(3) == 0 { // a scheme that nobody knows, then a signature
		m.sigs = append([]byte{0, 0, 2, 0, 7, byte(r.Uint32())}, append([]byte{1, 0, 72, 0}, make([]byte, 72)...)...)
	}
	return m
}

// randomSplit cuts a chunk's n bytes into extents somewhere in the 3n bytes
// from at on, in any order.
func randomSplit(r *rand.Rand, c, file int, n, at uint64) mPlace {
	parts := 2 + r.IntN(min(int(n)-1, 40))
	if r.IntN(30) == 0 {
		parts = min(int(n), 1024)
	}
	// Distinct cut points of the chunk, and for each part its own place.
	cuts := map[uint64]bool{}
	for len(cuts) < parts-1 {
		cuts[1+r.Uint64N(n-1)] = true
	}
	points := append([]uint64{0}, n)
	for p := range cuts {
		points = append(points, p)
	}
	slices.Sort(points)
	extents := make([]ckm.Extent, parts)
	order := r.Perm(parts)
	for i := 0; i < parts; i++ {
		part := order[i]
		if i > 0 && (order[i-1] == part-1 || r.IntN(3) == 0) {
			at++ // extents that follow one another must not touch
		}
		extents[part] = ckm.Extent{Offset: at, Length: points[part+1] - points[part]}
		at += extents[part].Length
	}
	return mPlace{chunk: uint32(c), file: uint32(file), offset: extents[0].Offset, extents: extents}
}

func randomID(r *rand.Rand) (d ckm.Digest) {
	for i := range d {
		d[i] = byte(r.Uint32())
	}
	return d
}

func text(r *rand.Rand, limit int) string {
	b := []byte{}
	for range r.IntN(limit + 1) {
		b = append(b, byte(' '+r.IntN(95)))
	}
	return string(b)
}

// TestRandom checks on random packages that two writers agree to the byte,
// that reading gives back all that was written, and that the head agrees.
func TestRandom(t *testing.T) {
	for _, s := range shapes {
		t.Run(s.name, func(t *testing.T) {
			seeds := 8
			if s.placements < 1000 {
				seeds = 40
			}
			if testing.Short() {
				seeds /= 4
			}
			var closed, wide, splits, segments int
			for seed := range seeds {
				r := rand.New(rand.NewPCG(uint64(seed), 7))
				m := random(r, s)
				want := m.build()
				x := m.index(seed%2 == 0)
				p, err := x.Encode()
				if err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if !bytes.Equal(p, want) {
					t.Fatalf("seed %d: package ckm and the model write different bytes", seed)
				}
				y := must(t, p)
				sameIndex(t, x, y)
				again, err := y.Encode()
				if err != nil || !bytes.Equal(again, p) {
					t.Fatalf("seed %d: encoding again gives other bytes (%v)", seed, err)
				}
				checkHead(t, p, y)
				segments += len(y.Segments())
				samePlaces(t, m, y)
				closed += len(m.cutFrames())
				for _, s := range y.Segments() {
					if s.Count == ckm.MaxRunChunks {
						wide++
					}
					if s.Extents != nil {
						splits++
					}
				}
			}
			t.Logf("%d packages, %d chunk pages, %d full runs, %d splits", seeds, closed, wide, splits)
			if s.name == "sequential" && wide == 0 || s.name == "split" && splits == 0 || s.name == "long pages" && closed < 2*seeds || s.name == "long map" && segments < seeds*4096*3/2 {
				t.Error("the generator no longer makes what this shape is for")
			}
		})
	}
}

// TestRandomCoversMerges makes sure that the random packages have the rare
// thing: chunks used before that run on into new ones.
func TestRandomCoversMerges(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 7))
	x := must(t, random(r, shapes[4]).build())
	var seen uint32
	mixed := 0
	for _, s := range x.Segments() {
		if s.Chunk < seen && s.Chunk+s.Count > seen {
			mixed++
		}
		seen = max(seen, s.Chunk+s.Count)
	}
	if mixed == 0 {
		t.Error("no run goes from old chunks on into new ones")
	}
}

// sameIndex compares all that can be seen of two indexes.
func sameIndex(t testing.TB, x, y *ckm.Index) {
	t.Helper()
	eq := func(what string, a, b any) {
		t.Helper()
		if !reflect.DeepEqual(a, b) {
			t.Fatalf("%s: %v, want %v", what, b, a)
		}
	}
	eq("info", x.Info, y.Info)
	eq("compatible features", x.CompatibleFeatures, y.CompatibleFeatures)
	eq("signatures", string(x.Signatures), string(y.Signatures))
	eq("digest", x.Digest(), y.Digest())
	eq("trailer", x.Trailer(), y.Trailer())
	eq("image size", x.ImageSize(), y.ImageSize())
	eq("placed size", x.PlacedSize(), y.PlacedSize())
	eq("chunks", x.Chunks(), y.Chunks())
	eq("frames", x.Frames(), y.Frames())
	frame := -1
	for c := range x.Chunks() {
		eq("id", x.ID(c), y.ID(c))
		eq("chunk length", x.ChunkLength(c), y.ChunkLength(c))
		if frame+1 < x.Frames() && int(x.Frame(frame+1).First) == c {
			frame++
		}
		eq("frame of chunk", frame, y.FrameOf(c))
	}
	for f := range x.Frames() {
		eq("frame", x.Frame(f), y.Frame(f))
		eq("frame length", x.FrameLength(f), y.FrameLength(f))
		a, b := x.FrameChunks(f)
		c, d := y.FrameChunks(f)
		eq("frame chunks", []int{a, b}, []int{c, d})
	}
	eq("segments", len(x.Segments()), len(y.Segments()))
	for i := range x.Segments() {
		eq("segment", x.Segments()[i], y.Segments()[i])
	}
}

// samePlaces compares an index with the placements that went into it.
func samePlaces(t *testing.T, m *model, x *ckm.Index) {
	t.Helper()
	chunks := m.chunks()
	i := 0
	var placed uint64
	for _, s := range x.Segments() {
		at := s.Offset
		for c := s.Chunk; c < s.Chunk+s.Count; c++ {
			p := m.places[i]
			if p.chunk != c || p.file != s.File || p.offset != at || !slices.Equal(p.extents, s.Extents) {
				t.Fatalf("placement %d: %+v became %+v", i, p, s)
			}
			at += chunks[c].length
			placed += chunks[c].length
			i++
		}
	}
	if i != len(m.places) || placed != x.PlacedSize() {
		t.Fatalf("%d placements of %d bytes, want %d of %d", i, x.PlacedSize(), len(m.places), placed)
	}
}

// checkHead compares what the head alone says with what the whole says.
func checkHead(t *testing.T, p []byte, x *ckm.Index) {
	t.Helper()
	size, err := ckm.HeadSize(p[:64])
	if err != nil {
		t.Fatal(err)
	}
	h, err := ckm.DecodeHead(p[:size])
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(h.Info, x.Info) || h.Digest != x.Digest() || h.CompatibleFeatures != x.CompatibleFeatures ||
		int(h.Chunks) != x.Chunks() || int(h.Frames) != x.Frames() {
		t.Fatal("the head does not agree with the whole")
	}
	if _, err := ckm.DecodeHead(p[:size-1]); err == nil {
		t.Fatal("a head cut short was accepted")
	}
}

func TestSmall(t *testing.T) {
	m := small()
	p := m.build()
	x := must(t, p)
	samePlaces(t, m, x)
	checkHead(t, p, x)
	if got := len(x.Segments()); got != 7 {
		t.Errorf("%d segments, want 7", got)
	}
	y := m.index(false)
	if q, err := y.Encode(); err != nil || !bytes.Equal(p, q) {
		t.Fatalf("package ckm and the model write different bytes (%v)", err)
	}
	sameIndex(t, y, x)
}

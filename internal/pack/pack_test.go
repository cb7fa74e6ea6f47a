package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/progress"
	"prestage/internal/testenv"
)

// packFile packs one file and returns index and CKM.
func packFile(t *testing.T, path string, o Options) (*ckm.Index, []byte) {
	t.Helper()
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		defer f.Close()
	}
	var out bytes.Buffer
	if o.Meter == nil {
		o.Meter = progress.Discard
	}
	x, err := Write(context.Background(), &out, files, o)
	if err != nil {
		t.Fatal(err)
	}
	x.Name, x.Version = "test", 1
	if _, err := x.Encode(); err != nil {
		t.Fatal(err)
	}
	return x, out.Bytes()
}

// unpack builds an image's only file from its package, the simple way.
func unpack(t *testing.T, x *ckm.Index, data []byte) []byte {
	t.Helper()
	image := make([]byte, x.Files[0].Size)
	raw := map[int][]byte{}
	for f := range x.Frames() {
		fr := x.Frame(f)
		p, err := x.DecodeFrame(f, nil, data[fr.Offset:fr.Offset+uint64(fr.Stored)])
		if err != nil {
			t.Fatal(err)
		}
		first, end := x.FrameChunks(f)
		for c := first; c < end; c++ {
			raw[c], p = p[:x.ChunkLength(c)], p[x.ChunkLength(c):]
		}
	}
	for _, s := range x.Segments() {
		at := s.Offset
		if s.Extents != nil {
			p := raw[int(s.Chunk)]
			for _, e := range s.Extents {
				p = p[copy(image[e.Offset:e.Offset+e.Length], p):]
			}
			continue
		}
		for c := s.Chunk; c < s.Chunk+s.Count; c++ {
			at += uint64(copy(image[at:], raw[int(c)]))
		}
	}
	return image
}

func write(t *testing.T, data []byte, sparse bool) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(int64(len(data))); err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(data); i += block {
		p := data[i:min(i+block, len(data))]
		if sparse && bytes.Equal(p, zeros[:len(p)]) {
			continue
		}
		if _, err := f.WriteAt(p, int64(i)); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// layouts are images with zeros in all the places where a scanner may stumble.
func layouts() map[string][]byte {
	zero := func(n int) []byte { return make([]byte, n) }
	data := func(n int) []byte { return testenv.Random(byte(n), n) }
	cat := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	m := map[string][]byte{
		"empty":                   nil,
		"one byte":                {7},
		"one zero byte":           {0},
		"zeros only":              zero(3<<20 + 5),
		"zeros shorter than hole": zero(holeMin - 1),
		"zeros of a hole":         zero(holeMin),
		"data only":               data(5<<20 + 123),
		"hole first":              cat(zero(holeMin), data(100_000)),
		"short zeros first":       cat(zero(holeMin-block), data(100_000)),
		"hole last":               cat(data(100*block), zero(holeMin+17)),
		"hole last, unaligned":    cat(data(100_001), zero(3*holeMin)),
		"short zeros last":        cat(data(100*block), zero(holeMin-1)),
		"short zeros inside":      cat(data(40*block), zero(holeMin-block), data(40*block)),
		"hole inside":             cat(data(40*block), zero(holeMin), data(40*block)),
		"unaligned zeros inside":  cat(data(40*block+1), zero(holeMin+block-2), data(40*block+1)),
		"window of data, hole":    cat(data(windowSize), zero(holeMin), data(windowSize-holeMin), zero(windowSize)),
		"repeats":                 cat(data(1<<20), zero(holeMin), data(1<<20), data(1<<20)),
	}
	seeds := uint64(12)
	if testing.Short() {
		seeds = 3
	}
	for seed := range seeds {
		r := rand.New(rand.NewPCG(seed, 1))
		var p []byte
		for len(p) < 9<<20 {
			n := 1 << r.IntN(21)
			if r.IntN(2) == 0 {
				n = n / block * block
			}
			if r.IntN(2) == 0 {
				p = append(p, zero(n)...)
			} else {
				p = append(p, testenv.Text(byte(seed), n)...)
			}
		}
		m[fmt.Sprintf("random %d", seed)] = p
	}
	return m
}

func TestRoundTripAndSparsenessDoesNotMatter(t *testing.T) {
	for name, image := range layouts() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			full, fullData := packFile(t, write(t, image, false), Options{})
			sparse, sparseData := packFile(t, write(t, image, true), Options{})
			if full.Digest() != sparse.Digest() || !bytes.Equal(fullData, sparseData) {
				t.Errorf("the same bytes make another package when they are stored sparsely")
			}
			if !bytes.Equal(unpack(t, full, fullData), image) {
				t.Errorf("what was packed is not what is unpacked")
			}
			checkHoles(t, full, image)
		})
	}
}

// checkHoles compares the package's holes with the rule of doc/format.md,
// written down a second time in the simplest way.
func checkHoles(t *testing.T, x *ckm.Index, image []byte) {
	t.Helper()
	var want []ckm.Extent
	for i := 0; i < len(image); {
		j := i
		for j < len(image) && isZero(image[j:min(j+block, len(image))]) {
			j = min(j+block, len(image))
		}
		if j-i >= holeMin {
			want = append(want, ckm.Extent{Offset: uint64(i), Length: uint64(j - i)})
		}
		if j == i {
			j += block
		}
		i = j
	}
	if got := x.Holes()[0]; fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("holes are %v, should be %v", got, want)
	}
}

func TestNoChunkTwice(t *testing.T) {
	part := testenv.Random(9, 4<<20)
	image := bytes.Join([][]byte{part, make([]byte, holeMin), part, make([]byte, holeMin), part}, nil)
	_, data := packFile(t, write(t, image, false), Options{})
	if len(data) > len(part)*11/10 {
		t.Errorf("three copies of %d bytes make a package of %d", len(part), len(data))
	}
}

// A frame must not mix chunks that the previous version has with chunks that it
// lacks, and what it lacks lies together: a client that has that version fetches
// nothing but those, in few ranges.
func TestNewChunksLieTogether(t *testing.T) {
	old := testenv.Text(1, 40<<20)
	for name, c := range map[string]struct {
		length int // of what is new in each MiB
		runs   int // of frames that hold it
	}{
		"little": {40_000, 1},
		"much":   {700_000, 2}, // 28 MB, so that it is held twice
	} {
		t.Run(name, func(t *testing.T) {
			image := bytes.Clone(old)
			for i := 1 << 20; i < len(image); i += 1 << 20 {
				copy(image[i:], testenv.Random(byte(i>>21), c.length)) // each in two places
			}
			previous, _ := packFile(t, write(t, old, false), Options{})
			x, data := packFile(t, write(t, image, false), Options{Previous: previous})
			if !bytes.Equal(unpack(t, x, data), image) {
				t.Fatal("what was packed is not what is unpacked")
			}
			if raw, err := x.Encode(); err != nil {
				t.Fatal(err)
			} else if _, err := ckm.Decode(raw); err != nil {
				t.Fatal(err)
			}
			has := map[ckm.ID]bool{}
			for c := range previous.Chunks() {
				has[previous.ID(c)] = true
			}
			runs, last := map[bool]int{}, -1
			for f := range x.Frames() {
				first, end := x.FrameChunks(f)
				if last < 0 || has[x.ID(first)] != has[x.ID(last)] {
					runs[has[x.ID(first)]]++
				}
				for c := first; c < end; c++ {
					if has[x.ID(c)] != has[x.ID(first)] {
						t.Fatalf("frame %d mixes chunks of both kinds", f)
					}
				}
				last = first
			}
			if runs[false] != c.runs || runs[true] == 0 {
				t.Errorf("frames of what is new lie in %d places, should in %d; of what is not, in %d", runs[false], c.runs, runs[true])
			}
		})
	}
}

func TestSourceThatChangesIsRefused(t *testing.T) {
	path := write(t, testenv.Random(3, 6<<20), false)
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	if err := os.WriteFile(path, []byte("shorter"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := Write(context.Background(), &bytes.Buffer{}, files, Options{Meter: progress.Discard}); err == nil {
		t.Error("a file that was changed while it was read was packed")
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, os.ErrDeadlineExceeded
	}
	return len(p), nil
}

// What no index could hold is found before anything is packed.
func TestCollidingPathsAreRefusedFirst(t *testing.T) {
	for _, paths := range [][]string{{"a.vhd", "A.VHD"}, {"a", "a"}, {"A", "a/b"}, {"a/b", "A"}, {"a:b"}, {"nul"}} {
		var files []*disk.File
		for _, p := range paths {
			files = append(files, &disk.File{Path: p})
		}
		var out bytes.Buffer
		_, err := Write(context.Background(), &out, files, Options{Meter: progress.Discard})
		if err == nil || errors.Is(err, ckm.ErrFormat) || out.Len() != 0 {
			t.Errorf("%q: %v after %d bytes", paths, err, out.Len())
		}
	}
}

func TestWriteErrorEndsPacking(t *testing.T) {
	path := write(t, testenv.Random(4, 8<<20), false)
	for _, room := range []int{0, 31, 100, 1 << 20, 7 << 20} {
		files, err := disk.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Write(context.Background(), &failingWriter{room}, files, Options{Meter: progress.Discard}); err == nil {
			t.Errorf("packing succeeded though only %d bytes could be written", room)
		}
		files[0].Close()
	}
}

func TestChunkTable(t *testing.T) {
	table := newChunkTable()
	want := map[ckm.ID]uint32{}
	r := rand.New(rand.NewPCG(1, 2))
	for range 50_000 {
		// Few different prefixes, so that IDs collide in the table.
		id := ckm.ID{0: byte(r.IntN(8)), 31: byte(r.IntN(256)), 30: byte(r.IntN(40))}
		n, isNew := table.add(id)
		if old, seen := want[id]; seen == isNew || seen && old != n || isNew && n != uint32(len(want)) {
			t.Fatalf("id %s: got %d, new %v; want %d, seen %v", id, n, isNew, old, seen)
		}
		want[id] = n
	}
}

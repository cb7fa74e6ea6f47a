package pack

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// scattered is an image with files in fragments, as a file system leaves them:
// their parts and their last blocks' ends. Every file has a name for its content.
type scattered struct {
	image []byte
	m     fsmap.Map
}

// scatter lays files out in blocks of an image, in an order that only seed
// determines. What is free holds rubbish.
func scatter(seed uint64, contents [][]byte) *scattered {
	r := rand.New(rand.NewPCG(seed, 2))
	type part struct{ file, from, to int }
	var parts []part
	for f, c := range contents {
		for at := 0; at < len(c); {
			n := block * (1 + r.IntN(40))
			parts = append(parts, part{f, at, min(at+n, len(c))})
			at += n
		}
	}
	s := &scattered{m: fsmap.Map{Files: make([]fsmap.File, len(contents))}}
	r.Shuffle(len(parts), func(i, j int) { parts[i], parts[j] = parts[j], parts[i] })
	at := map[part]int{}
	for _, p := range parts {
		if r.IntN(3) == 0 { // metadata, or free
			n := block * (1 + r.IntN(12))
			if r.IntN(2) == 0 {
				s.m.Free = append(s.m.Free, fsmap.Extent{Offset: int64(len(s.image)), Length: int64(n)})
			}
			s.image = append(s.image, testenv.Random(byte(r.Uint32()), n)...)
		}
		at[p] = len(s.image)
		s.image = append(s.image, contents[p.file][p.from:p.to]...)
		s.image = append(s.image, make([]byte, (block-len(s.image)%block)%block)...)
	}
	slices.SortFunc(parts, func(a, b part) int { return a.from - b.from })
	for _, p := range parts {
		f := &s.m.Files[p.file]
		f.Extents = append(f.Extents, fsmap.Extent{Offset: int64(at[p]), Length: int64(p.to - p.from)})
	}
	return s
}

func contents(seed byte) (list [][]byte) {
	r := rand.New(rand.NewPCG(uint64(seed), 3))
	for i := range 60 {
		n := r.IntN(1 << r.IntN(21))
		c := testenv.Text(seed+byte(i), n)
		if i%7 == 0 && n > 100_000 { // zeros inside
			clear(c[30_000:90_000])
		}
		list = append(list, c)
	}
	return list
}

// The same files make the same chunks wherever their parts lie.
func TestFilesMakeTheSameChunksAnywhere(t *testing.T) {
	list := contents(1)
	a, b := scatter(1, list), scatter(2, list)
	packed := func(s *scattered) (*ckm.Index, []byte) {
		x, data := packFile(t, write(t, s.image, false), Options{Map: &s.m, Discard: Discard{Free: true}})
		want := bytes.Clone(s.image)
		for _, e := range s.m.Free {
			clear(want[e.Offset:e.End()])
		}
		if !bytes.Equal(unpack(t, x, data), want) {
			t.Error("what is unpacked is not what was packed without what is free")
		}
		return x, data
	}
	x, _ := packed(a)
	y, _ := packed(b)
	var total, same uint64
	for c := range y.Chunks() {
		total += uint64(y.ChunkLength(c))
		for d := range x.Chunks() {
			if x.ID(d) == y.ID(c) {
				same += uint64(y.ChunkLength(c))
				break
			}
		}
	}
	content := uint64(0)
	for _, c := range list {
		content += uint64(len(c))
	}
	// What is not a file's is rubbish here, and other rubbish there.
	if same < content*9/10 {
		t.Errorf("of %d bytes in files %d are in chunks that both have", content, same)
	}
	blind, _ := packFile(t, write(t, b.image, false), Options{})
	if blind.DataLength <= y.DataLength {
		t.Errorf("with free space left out there are %d bytes of data, %d with it", y.DataLength, blind.DataLength)
	}
}

// Whatever is said of an image, every byte of it comes back that was not said to
// be discarded, and nothing of a file that is kept is discarded.
func TestNoMapLosesBytes(t *testing.T) {
	seeds := uint64(40)
	if testing.Short() {
		seeds = 8
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(seed, 4))
			image := layouts()["random 2"]
			extent := func() fsmap.Extent {
				unit := []int{1, 512, block}[r.IntN(3)]
				e := fsmap.Extent{Offset: int64(r.IntN(len(image)) / unit * unit), Length: int64(r.IntN(1<<r.IntN(21)) / unit * unit)}
				if r.IntN(100) == 0 {
					e.File = uint32(r.IntN(3))
				}
				if r.IntN(100) == 0 {
					e.Offset = -e.Offset
				}
				if r.IntN(100) == 0 {
					e.Length = 1<<63 - 1
				}
				return e
			}
			var m fsmap.Map
			for range r.IntN(300) {
				f := fsmap.File{Kind: volume.Kind(r.IntN(3))}
				for range r.IntN(12) {
					f.Extents = append(f.Extents, extent())
				}
				m.Files = append(m.Files, f)
			}
			for range r.IntN(50) {
				m.Free = append(m.Free, extent())
			}
			x, data := packFile(t, write(t, image, seed%2 == 0), Options{Map: &m})
			if !bytes.Equal(unpack(t, x, data), image) {
				t.Error("what was packed is not what is unpacked")
			}
			d := Discard{Free: true, Files: map[volume.Kind]bool{volume.Swap: true}}
			path := write(t, image, false)
			x, data = packFile(t, path, Options{Map: &m, Discard: d})
			files, err := disk.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer files[0].Close()
			want := make([]byte, len(image))
			for _, s := range plan(files, &m, d) {
				for _, e := range s.extents {
					copy(want[e.Offset:e.Offset+e.Length], image[e.Offset:])
				}
			}
			if !bytes.Equal(unpack(t, x, data), want) {
				t.Error("what is unpacked is not what was planned")
			}
			checkPlan(t, files, &m, d, plan(files, &m, d))
		})
	}
}

// checkPlan holds a plan against the map, byte by byte.
func checkPlan(t *testing.T, files []*disk.File, m *fsmap.Map, d Discard, streams []stream) {
	t.Helper()
	times := make([]byte, files[0].Size)
	last := uint64(0)
	for _, s := range streams {
		if s.extents[0].Offset < last {
			t.Fatal("the streams are not in the image's order")
		}
		last = s.extents[0].Offset
		for _, e := range s.extents {
			for i := e.Offset; i < e.Offset+e.Length; i++ {
				times[i]++
			}
		}
	}
	away := make([]bool, files[0].Size)
	set := func(list []fsmap.Extent, to bool) {
		for _, e := range list {
			if isInside(files, e) {
				for i := e.Offset; i < e.End(); i++ {
					away[i] = to
				}
			}
		}
	}
	if d.Free {
		set(m.Free, true)
	}
	for _, f := range m.Files {
		if d.Files[f.Kind] {
			set(f.Extents, true)
		}
	}
	for _, f := range m.Files {
		if !d.Files[f.Kind] { // whatever is said of it elsewhere
			set(f.Extents, false)
		}
	}
	for i, n := range times {
		if n > 1 || n == 0 && !away[i] {
			t.Fatalf("byte %d is in %d streams, and it was said to be discarded: %v", i, n, away[i])
		}
	}
}

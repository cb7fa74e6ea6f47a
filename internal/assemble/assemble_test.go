package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// made is a package with a map that no packer writes yet: chunks in several
// extents, out of order, placed more than once, over two files.
type made struct {
	x     *ckm.Index
	data  []byte   // the CKM
	files [][]byte // the image
}

func makePackage(t *testing.T, seed uint64) made {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 7))
	x := &ckm.Index{Info: ckm.Info{Name: "made", Version: 1, Created: 1, ChunkMin: 1, ChunkAvg: 2, ChunkMax: 3, FrameLimit: 256 << 10}}
	const units, unit = 600, 1000 // each file is that many units of that many bytes; extents are whole units
	m := made{x: x}
	var free [][]int // by file: units that nothing covers yet, in random order
	for f := range 2 {
		x.Files = append(x.Files, ckm.File{Path: fmt.Sprintf("d%d/disk.img", f), Size: units * unit, Format: "raw"})
		m.files = append(m.files, make([]byte, units*unit))
		free = append(free, r.Perm(units))
	}
	var out bytes.Buffer
	w, err := ckm.NewWriter(&out, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(ckm.LevelFast)
	chunk := uint32(0)
	for range 60 {
		var raw []byte
		var ids []ckm.ID
		var lengths []int
		for range 1 + r.IntN(4) {
			n := 1 + r.IntN(5)
			p := testenv.Text(byte(chunk), n*unit)
			if r.IntN(3) == 0 { // zero blocks within a chunk
				clear(p[:len(p)/2])
			}
			p[len(p)-1], p[len(p)-2] = byte(chunk), byte(chunk>>8)+1
			raw, ids, lengths = append(raw, p...), append(ids, ckm.Sum(p)), append(lengths, len(p))
			for range 1 + r.IntN(2) {
				f := r.IntN(2)
				if len(free[f]) < n {
					f = 1 - f
				}
				var extents []ckm.Extent
				for i, u := range free[f][:n] {
					copy(m.files[f][u*unit:], p[i*unit:(i+1)*unit])
					e := ckm.Extent{Offset: uint64(u * unit), Length: unit}
					if k := len(extents); k > 0 && extents[k-1].Offset+extents[k-1].Length == e.Offset {
						extents[k-1].Length += unit
						continue
					}
					extents = append(extents, e)
				}
				free[f] = free[f][n:]
				x.PlaceSplit(chunk, uint32(f), extents)
			}
			chunk++
		}
		if err := w.WriteFrame(c.Append(nil, raw), ckm.CodecZstd, ids, lengths); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Encode(); err != nil {
		t.Fatal(err)
	}
	m.data = out.Bytes()
	return m
}

// source is a CKM in a file, as a source.
func source(t *testing.T, name string, data []byte) Source {
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, data, 0o644); err != nil {
		t.Fatal(err)
	}
	return Source{Name: name, Open: func(context.Context) (repo.Data, error) { return repo.OpenFile(path) }}
}

func assembleImage(t *testing.T, m made, dir string, sources ...Source) (*Fetcher, error) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	f := &Fetcher{Index: m.x, Sources: sources, Meter: progress.Discard}
	return f, f.Image(t.Context(), root)
}

func checkFiles(t *testing.T, m made, dir string) {
	t.Helper()
	for i, f := range m.x.Files {
		got, err := os.ReadFile(filepath.Join(dir, f.Path))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, m.files[i]) {
			t.Errorf("%s is not what was packed", f.Path)
		}
	}
}

func TestImage(t *testing.T) {
	for seed := range uint64(5) {
		m := makePackage(t, seed)
		dir := t.TempDir()
		if _, err := assembleImage(t, m, dir, source(t, "good", m.data)); err != nil {
			t.Fatal(err)
		}
		checkFiles(t, m, dir)
	}
}

// A file that is missing is no fault of the others.
func TestMissingFile(t *testing.T) {
	m := makePackage(t, 12)
	dir := t.TempDir()
	if _, err := assembleImage(t, m, dir, source(t, "good", m.data)); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, m.x.Files[0].Path)); err != nil {
		t.Fatal(err)
	}
	target, err := OpenTarget(dir, m.x, false)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	var mu sync.Mutex
	found := map[int]int{}
	if err := target.Check(t.Context(), func(int64) {}, func(f Fault) {
		mu.Lock()
		defer mu.Unlock()
		found[f.file]++
	}); err != nil {
		t.Fatal(err)
	}
	if found[0] == 0 || found[1] != 0 {
		t.Errorf("faults by file: %v", found)
	}
}

// What is there already is checked and not fetched again; what is wrong is.
func TestImageGoesOnFromWhatIsThere(t *testing.T) {
	m := makePackage(t, 11)
	dir := t.TempDir()
	if _, err := assembleImage(t, m, dir, source(t, "good", m.data)); err != nil {
		t.Fatal(err)
	}
	f, err := assembleImage(t, m, dir, source(t, "good", m.data))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range f.Fetched {
		if n != 0 {
			t.Errorf("%d bytes were fetched though all was there", n)
		}
	}
	// Garbage in chunks and holes, and files of other lengths.
	path := filepath.Join(dir, m.x.Files[0].Path)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for off := int64(500); off < 600_000; off += 100_000 {
		if _, err := file.WriteAt([]byte("garbage"), off); err != nil {
			t.Fatal(err)
		}
	}
	file.Close()
	if err := os.Truncate(filepath.Join(dir, m.x.Files[1].Path), 123_456); err != nil {
		t.Fatal(err)
	}
	if f, err = assembleImage(t, m, dir, source(t, "good", m.data)); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, dir)
	if f.Fetched[0] == 0 || f.Fetched[0] == int64(len(m.data)-ckm.HeaderSize-ckm.TrailerSize) {
		t.Errorf("%d of %d bytes were fetched", f.Fetched[0], len(m.data))
	}
}

// A source that lacks something costs only what it lacks.
func TestSourcesComplementOneAnother(t *testing.T) {
	m := makePackage(t, 21)
	first, second := bytes.Clone(m.data), bytes.Clone(m.data)
	n := m.x.Frames()
	for f := range n { // each has two thirds of the frames, together all
		at := m.x.Frame(f).Offset + uint64(m.x.Frame(f).Stored)/2
		switch f % 3 {
		case 0:
			first[at] ^= 1
		case 1:
			second[at] ^= 1
		}
	}
	dir := t.TempDir()
	absent := Source{Name: "absent", Open: func(context.Context) (repo.Data, error) { return nil, repo.ErrNotFound }}
	short := source(t, "short", first[:m.x.Frame(n-5).Offset])
	f, err := assembleImage(t, m, dir, absent, short, source(t, "second", second), source(t, "good", m.data))
	if err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, dir)
	var lost int64 // frames that only the last source can have
	for i := n - 5; i < n; i++ {
		if i%3 == 1 {
			lost += int64(m.x.Frame(i).Stored)
		}
	}
	if f.Fetched[0] != 0 || f.Fetched[1] == 0 || f.Fetched[2] == 0 || f.Fetched[3] != lost {
		t.Errorf("fetched %v, the last should supply %d", f.Fetched, lost)
	}
	_, err = assembleImage(t, m, t.TempDir(), source(t, "first", first))
	if !errors.Is(err, ErrIncomplete) {
		t.Errorf("frames that no source has: %v", err)
	}
}

func TestMend(t *testing.T) {
	m := makePackage(t, 31)
	dir := t.TempDir()
	if _, err := assembleImage(t, m, dir, source(t, "good", m.data)); err != nil {
		t.Fatal(err)
	}
	mend := func() []Fault {
		t.Helper()
		target, err := OpenTarget(dir, m.x, true)
		if err != nil {
			t.Fatal(err)
		}
		defer target.Close()
		f := &Fetcher{Index: m.x, Sources: []Source{source(t, "good", m.data)}, Meter: progress.Discard}
		faults, err := f.Mend(t.Context(), target)
		if err != nil {
			t.Fatal(err)
		}
		checkFiles(t, m, dir)
		return faults
	}
	if faults := mend(); len(faults) > 0 {
		t.Errorf("a whole image has faults: %v", faults)
	}
	holes := m.x.Holes()
	at := int64(holes[0][0].Offset) + 3
	damage := func(file int, off int64) {
		t.Helper()
		f, err := os.OpenFile(filepath.Join(dir, m.x.Files[file].Path), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte{0xa5}, off); err != nil {
			t.Fatal(err)
		}
	}
	damage(0, at)
	if faults := mend(); len(faults) != 1 || faults[0].Chunk != -1 || faults[0].Offset != at {
		t.Errorf("a hole with a byte at %d: %v", at, faults)
	}
	seg := m.x.Segments()[5]
	damage(int(seg.File), int64(seg.Offset)+1)
	if faults := mend(); len(faults) != 1 || faults[0].Chunk != int(seg.Chunk) {
		t.Errorf("a byte of chunk %d: %v", seg.Chunk, faults)
	}
	if err := os.Remove(filepath.Join(dir, m.x.Files[1].Path)); err != nil {
		t.Fatal(err)
	}
	if faults := mend(); len(faults) == 0 {
		t.Error("a missing file is no fault")
	}
	if err := os.Truncate(filepath.Join(dir, m.x.Files[0].Path), 700_000); err != nil {
		t.Fatal(err)
	}
	if faults := mend(); len(faults) != 1 {
		t.Errorf("a file that is too long: %v", faults)
	}
}

func TestPlacedSize(t *testing.T) {
	m := makePackage(t, 41)
	var holes uint64
	for _, f := range m.x.Holes() {
		for _, h := range f {
			holes += h.Length
		}
	}
	if m.x.PlacedSize()+holes != m.x.ImageSize() {
		t.Errorf("%d placed and %d in holes do not make %d", m.x.PlacedSize(), holes, m.x.ImageSize())
	}
}

func TestCancelled(t *testing.T) {
	m := makePackage(t, 51)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f := &Fetcher{Index: m.x, Sources: []Source{source(t, "good", m.data)}, Meter: progress.Discard}
	err := f.Frames(ctx, []int{0, 1, 2}, func(int, []byte) error { return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error is %v", err)
	}
}

// The limit is for sources that cost somebody else something.
func TestLimitSparesFreeSources(t *testing.T) {
	m := makePackage(t, 61)
	fetch := func(free bool) error {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		src := source(t, "good", m.data)
		src.Free = free
		// At this rate all frames would take hours, and WaitN says so at once.
		f := &Fetcher{Index: m.x, Sources: []Source{src}, Meter: progress.Discard, Limit: rate.NewLimiter(10, 10)}
		need := make([]int, m.x.Frames())
		for i := range need {
			need[i] = i
		}
		return f.Frames(ctx, need, func(int, []byte) error { return nil })
	}
	if err := fetch(true); err != nil {
		t.Errorf("a free source: %v", err)
	}
	if err := fetch(false); err == nil {
		t.Error("the limit was not kept")
	}
}

// badSector is a file that cannot be read at one place.
type badSector struct {
	*bytes.Reader
	at int64
}

func (b badSector) ReadAt(p []byte, off int64) (int, error) {
	if b.at >= off && b.at < off+int64(len(p)) {
		return 0, errors.New("input/output error")
	}
	return b.Reader.ReadAt(p, off)
}

// A place that cannot be read is damage like other damage: it is named, and
// spoils its own frame alone.
func TestUnreadablePlaceIsOneBadFrame(t *testing.T) {
	m := makePackage(t, 71)
	const frame = 17
	r := badSector{bytes.NewReader(m.data), int64(m.x.Frame(frame).Offset) + 3}
	bad := make(chan int, m.x.Frames())
	framed, err := CheckCKM(t.Context(), m.x, r, int64(len(m.data)), func(int64) {}, func(f int) { bad <- f })
	if err != nil || !framed || len(bad) != 1 || <-bad != frame {
		t.Errorf("framed %v, %d bad frames, %v", framed, len(bad), err)
	}
}

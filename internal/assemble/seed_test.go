package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"prestage/ckm"
	"prestage/internal/progress"
	"prestage/internal/repo"
)

// unpacked returns a folder with the image.
func unpacked(t *testing.T, m made) string {
	t.Helper()
	dir := t.TempDir()
	for i, f := range m.x.Files {
		path := filepath.Join(dir, filepath.FromSlash(f.Path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, m.files[i], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// seeded builds the image with seeds and checks it.
func seeded(t *testing.T, m made, seeds ...Seed) *Fetcher {
	t.Helper()
	f := &Fetcher{Index: m.x, Sources: []Source{source(t, "source", m.data)}, Seeds: seeds, Meter: progress.Discard}
	buildAndCheck(t, m, f, t.TempDir())
	return f
}

func buildAndCheck(t *testing.T, m made, f *Fetcher, dir string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := f.Image(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	checkFiles(t, m, dir)
}

// shared returns how many bytes of m's chunks the package other has, how many of
// them are in frames with others, and how many stored bytes those frames have.
func shared(m, other made) (raw, mixed, rest int64) {
	has := map[ckm.ID]bool{}
	for c := range other.x.Chunks() {
		has[other.x.ID(c)] = true
	}
	for f := range m.x.Frames() {
		first, end := m.x.FrameChunks(f)
		needed, before := false, raw
		for c := first; c < end; c++ {
			if has[m.x.ID(c)] {
				raw += int64(m.x.ChunkLength(c))
			} else {
				needed = true
			}
		}
		if needed {
			rest += int64(m.x.Frame(f).Stored)
			mixed += raw - before
		}
	}
	return raw, mixed, rest
}

func TestSeeds(t *testing.T) {
	for n := range uint64(6) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			m, old := makePackage(t, 2*n+1), makePackage(t, 2*n+2)
			raw, mixed, rest := shared(m, old)
			if raw == 0 || rest == 0 {
				t.Fatalf("the packages share %d bytes, %d are new", raw, rest)
			}
			folder := t.TempDir()
			if err := os.WriteFile(filepath.Join(folder, "made_1.ckm"), old.data, 0o644); err != nil {
				t.Fatal(err)
			}
			for name, s := range map[string]Seed{
				"image":   ImageSeed(unpacked(t, old), old.x),
				"package": PackageSeed(repo.NewFolder(folder), old.x),
			} {
				f := seeded(t, m, s)
				// Frames that must be fetched bring other chunks along, meanwhile.
				if f.Reused[0] > raw || f.Reused[0] < raw-mixed || f.Fetched[0] != rest {
					t.Errorf("%s: %d bytes were reused and %d fetched, should be %d and %d", name, f.Reused[0], f.Fetched[0], raw, rest)
				}
				if reused, fetched := f.Estimate(); reused[0] != raw || fetched != rest {
					t.Errorf("%s: %d and %d bytes were estimated, should be %d and %d", name, reused[0], fetched, raw, rest)
				}
			}
			if f := seeded(t, m, ImageSeed(unpacked(t, m), m.x), ImageSeed(unpacked(t, old), old.x)); f.Fetched[0] != 0 || f.Reused[1] != 0 {
				t.Errorf("%d bytes were fetched of an image that is here, %d taken from elsewhere", f.Fetched[0], f.Reused[1])
			}
		})
	}
}

// TestChangedSeeds has seeds that are not what they were.
func TestChangedSeeds(t *testing.T) {
	m, old := makePackage(t, 5), makePackage(t, 6)
	raw, _, _ := shared(m, old)
	r := rand.New(rand.NewPCG(1, 2))
	damage := func(p []byte) {
		for range 30 {
			p[r.IntN(len(p))] ^= 0xff
		}
	}
	dir := unpacked(t, old)
	first := filepath.Join(dir, filepath.FromSlash(old.x.Files[0].Path))
	b := bytes.Clone(old.files[0])
	damage(b)
	if err := os.WriteFile(first, b[:len(b)*3/4], 0o644); err != nil {
		t.Fatal(err)
	}
	if f := seeded(t, m, ImageSeed(dir, old.x)); f.Reused[0] == 0 || f.Reused[0] >= raw {
		t.Errorf("a changed image supplied %d bytes of %d", f.Reused[0], raw)
	}
	if err := os.Remove(first); err != nil {
		t.Fatal(err)
	}
	if f := seeded(t, m, ImageSeed(dir, old.x)); f.Reused[0] == 0 || f.Reused[0] >= raw {
		t.Errorf("an image without a file supplied %d bytes of %d", f.Reused[0], raw)
	}
	if f := seeded(t, m, ImageSeed(filepath.Join(dir, "absent"), old.x)); f.Reused[0] != 0 {
		t.Errorf("an image that is gone supplied %d bytes", f.Reused[0])
	}
	folder := t.TempDir()
	p := bytes.Clone(old.data)
	damage(p)
	if err := os.WriteFile(filepath.Join(folder, "made_1.ckm"), p[:len(p)*3/4], 0o644); err != nil {
		t.Fatal(err)
	}
	if f := seeded(t, m, PackageSeed(repo.NewFolder(folder), old.x)); f.Reused[0] == 0 || f.Reused[0] >= raw {
		t.Errorf("a changed package supplied %d bytes of %d", f.Reused[0], raw)
	}
	if f := seeded(t, m, PackageSeed(repo.NewFolder(t.TempDir()), old.x)); f.Reused[0] != 0 {
		t.Errorf("a package that is gone supplied %d bytes", f.Reused[0])
	}
}

// liar says that it has all chunks, hands over other bytes, right ones twice, and
// fails in the end.
type liar struct{ m made }

func (l liar) String() string          { return "a liar" }
func (l liar) Holds() iter.Seq[uint64] { return prefixes(l.m.x) }
func (l liar) Chunks(_ context.Context, wanted func(uint64) (int, bool), use func([]byte) error) error {
	for c := range l.m.x.Chunks() {
		if _, ok := wanted(l.m.x.ID(c).Prefix()); !ok {
			return errors.New("a chunk is not wanted that nobody had")
		}
		for _, p := range [][]byte{nil, {1, 2, 3}, make([]byte, l.m.x.ChunkLength(c))} {
			if err := use(p); err != nil {
				return err
			}
		}
	}
	return errors.New("it has other things to do")
}

func TestLyingSeed(t *testing.T) {
	m := makePackage(t, 3)
	f := seeded(t, m, liar{m}, ImageSeed(unpacked(t, m), m.x))
	if f.Reused[0] != 0 || f.Fetched[0] != 0 {
		t.Errorf("%d bytes were taken from it, %d fetched", f.Reused[0], f.Fetched[0])
	}
}

// TestFreeSourcesFirst has a source on this machine: seeds are for what it lacks.
func TestFreeSourcesFirst(t *testing.T) {
	m := makePackage(t, 4)
	here := source(t, "here", m.data)
	here.Free = true
	f := &Fetcher{Index: m.x, Sources: []Source{here, source(t, "there", m.data)}, Seeds: []Seed{ImageSeed(unpacked(t, m), m.x)}, Meter: progress.Discard}
	buildAndCheck(t, m, f, t.TempDir())
	if f.Reused != nil || f.Fetched[0] == 0 {
		t.Errorf("reused %v, fetched %v", f.Reused, f.Fetched)
	}
	cut := source(t, "cut", m.data[:len(m.data)/2])
	cut.Free = true
	f.Sources[0] = cut
	buildAndCheck(t, m, f, t.TempDir())
	if f.Reused[0] == 0 || f.Fetched[0] == 0 || f.Fetched[1] != 0 {
		t.Errorf("reused %v, fetched %v", f.Reused, f.Fetched)
	}
}

// TestCopyFrom starts with a copy of an old version, where it can be shared.
func TestCopyFrom(t *testing.T) {
	m, old := makePackage(t, 5), makePackage(t, 6)
	dir := unpacked(t, old)
	f := &Fetcher{Index: m.x, Sources: []Source{source(t, "source", m.data)}, CopyFrom: dir, Meter: progress.Discard}
	buildAndCheck(t, m, f, t.TempDir())
	f.CopyFrom = filepath.Join(dir, "absent")
	buildAndCheck(t, m, f, t.TempDir())
}

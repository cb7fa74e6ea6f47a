package ownfiles

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/pack"
	"prestage/internal/progress"
	"prestage/internal/testenv"
)

func write(t *testing.T, path string, p []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, p, 0o644); err != nil {
		t.Fatal(err)
	}
}

// packed returns the index of an image that is the bytes.
func packed(t *testing.T, p []byte) *ckm.Index {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	write(t, path, p)
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	var out bytes.Buffer
	x, err := pack.Write(t.Context(), &out, files, pack.Options{Meter: progress.Discard})
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// taken returns the chunks of x that the seed hands over, in bytes, and sees that
// each is right.
func taken(t *testing.T, s *Seed) (n int64) {
	t.Helper()
	left := map[uint64]bool{}
	for c := range s.Image.Chunks() {
		left[s.Image.ID(c).Prefix()] = true
	}
	got := make(chan int64, 1e6)
	err := s.Chunks(t.Context(), func(p uint64) (int, bool) { return 0, left[p] }, func(p []byte) error {
		if left[ckm.Sum(p).Prefix()] {
			got <- int64(len(p))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	close(got)
	for m := range got {
		n += m
	}
	return n
}

func TestSeed(t *testing.T) {
	dir, cache := t.TempDir(), filepath.Join(t.TempDir(), "cache")
	content := testenv.Random(1, 3<<20)
	copy(content[1<<20:], make([]byte, 200<<10)) // a hole
	write(t, filepath.Join(dir, "a", "image of it"), content)
	write(t, filepath.Join(dir, "other"), testenv.Text(2, 500_000))
	write(t, filepath.Join(dir, "tiny"), []byte("tiny"))
	if err := os.Symlink(filepath.Join(dir, "other"), filepath.Join(dir, "link")); err != nil {
		t.Log(err)
	}
	x := packed(t, content)
	seed := func(folders ...string) *Seed {
		return &Seed{Cache: cache, Folders: folders, Image: x, Meter: progress.Discard}
	}
	if n := taken(t, seed()); n != 0 {
		t.Errorf("%d bytes from nowhere", n)
	}
	want := int64(x.PlacedSize())
	if n := taken(t, seed(dir, dir)); n != want {
		t.Errorf("%d bytes were taken of %d", n, want)
	}
	if n := taken(t, seed()); n != want {
		t.Errorf("%d bytes were taken of %d, from what is kept", n, want)
	}
	known := Load(cache)
	if len(known.Files) != 2 {
		t.Errorf("%d files are known", len(known.Files))
	}
	held := 0
	for range seed().Holds() {
		held++
	}
	if held != known.chunks {
		t.Errorf("%d chunks are held, %d known", held, known.chunks)
	}

	// A file that was changed is not taken for what it was, but read anew.
	path := filepath.Join(dir, "a", "image of it")
	changed := bytes.Clone(content)
	changed[2_500_000] ^= 1
	write(t, path, changed)
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if n := taken(t, seed()); n != 0 {
		t.Errorf("%d bytes were taken of a file that was changed", n)
	}
	if n := taken(t, seed(dir)); n == 0 || n >= want {
		t.Errorf("%d bytes were taken of a file that was changed in a byte", n)
	}
	// One that was changed and does not show it hands over what is not wanted.
	changed[100] ^= 1
	write(t, path, changed)
	if err := os.Chtimes(path, later, later); err != nil {
		t.Fatal(err)
	}
	if n := taken(t, seed()); n == 0 || n >= want {
		t.Errorf("%d bytes were taken of a file that was changed in secret", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if n := taken(t, seed()); n != 0 {
		t.Errorf("%d bytes were taken of a file that is gone", n)
	}
	if err := os.WriteFile(cache, []byte("prestage own files 1\nand more, which is longer than a sum is, by far"), 0o600); err != nil {
		t.Fatal(err)
	}
	if x := Load(cache); len(x.Files) != 0 {
		t.Error("a damaged index is believed")
	}
}

func TestEstimate(t *testing.T) {
	dir := t.TempDir()
	x := packed(t, testenv.Random(1, 4<<20))
	write(t, filepath.Join(dir, "1"), testenv.Random(2, 2<<20))
	if n, err := Estimate(t.Context(), []string{dir}, Wanted(x)); n != 0 || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	s := &Seed{Cache: filepath.Join(t.TempDir(), "cache"), Folders: []string{dir}, Image: x, Meter: progress.Discard}
	if taken(t, s) != 0 || len(Load(s.Cache).Files) != 0 {
		t.Error("what is worth nothing was read and kept")
	}
	write(t, filepath.Join(dir, "2"), testenv.Random(1, 4<<20))
	if n, err := Estimate(t.Context(), []string{dir}, Wanted(x)); n != int64(x.PlacedSize()) || err != nil {
		t.Errorf("%d bytes of %d, %v", n, x.PlacedSize(), err)
	}
}

func TestRefreshEnds(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "1"), testenv.Random(2, 2<<20))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	x := &Index{Files: []File{{Path: "before"}}}
	if err := x.Refresh(ctx, []string{dir}, progress.Discard); err == nil || !reflect.DeepEqual(x.Files, []File{{Path: "before"}}) {
		t.Errorf("%v, %v", err, x.Files)
	}
	Background(func() {
		if err := x.Refresh(t.Context(), []string{dir, filepath.Join(dir, "absent")}, progress.Discard); err != nil || len(x.Files) != 1 {
			t.Errorf("%v, %v", err, x.Files)
		}
	})
}

package durable

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func names(t *testing.T, dir string) (list []string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// Sweep removes what nobody writes any more, and nothing else.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	alive, err := CreateTemp(dir, "file")
	must(t, err)
	defer alive.Close()
	dead, err := CreateTemp(dir, "file")
	must(t, err)
	must(t, dead.Close())
	other, err := CreateTemp(dir, "other")
	must(t, err)
	must(t, other.Close())
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	must(t, os.WriteFile(filepath.Join(dir, ".prestage-mine.file.partial"), nil, 0o644))
	Sweep(dir, "file")
	for _, f := range []*os.File{alive, other} {
		if _, err := os.Stat(f.Name()); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(dead.Name()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead writer's file is still there: %v", err)
	}
	if got := names(t, dir); len(got) != 4 {
		t.Errorf("the folder holds %v", got)
	}
	if !IsTemp(filepath.Base(alive.Name())) || IsTemp("file") {
		t.Error("IsTemp does not know an unfinished file")
	}
}

func TestMkdirAll(t *testing.T) {
	dir := t.TempDir()
	for range 2 {
		must(t, MkdirAll(filepath.Join(dir, "a", "b", "c"), 0o755))
	}
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	if err := MkdirAll(filepath.Join(dir, "file", "b"), 0o755); err == nil {
		t.Error("a folder was made in a file")
	}
	must(t, SyncTree(dir))
}

func TestFlusherLosesNothing(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "file"))
	must(t, err)
	defer f.Close()
	fl := NewFlusher(f)
	p := make([]byte, 1<<20)
	for i := range 3 * flushEvery / len(p) {
		p[0] = byte(i)
		n, err := f.WriteAt(p, int64(i*len(p)))
		must(t, err)
		fl.Wrote(n)
	}
	fl.Close()
	for i := range 3 * flushEvery / len(p) {
		b := make([]byte, 1)
		_, err := f.ReadAt(b, int64(i*len(p)))
		must(t, err)
		if b[0] != byte(i) {
			t.Fatalf("block %d begins with %d", i, b[0])
		}
	}
}

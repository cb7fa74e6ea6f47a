//go:build linux

// Package fstest is what the tests of file systems have in common: volumes that
// this machine's own system fills, and its opinion on what lies where.
package fstest

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// Run runs a program that must succeed, and returns what it says.
func Run(t testing.TB, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// Make makes a volume of size bytes with a program that takes the options and a
// file.
func Make(t testing.TB, size int64, mkfs ...string) string {
	t.Helper()
	testenv.Need(t, mkfs[0])
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	Run(t, append(mkfs, image)...)
	return image
}

// Mounted calls fill with the volume mounted, and unmounts it. The volume is
// mounted for the calling goroutine and the programs it starts alone.
func Mounted(t testing.TB, image string, fill func(dir string)) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "mount")
	OwnMounts(t)
	dir := t.TempDir()
	Run(t, "mount", "-o", "loop", image, dir)
	done := false
	unmount := func() {
		if !done {
			done = true
			Run(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	fill(dir)
	unmount()
}

// OwnMounts gives the calling goroutine mounts of its own, until it ends. A mount
// namespace that another test makes meanwhile would otherwise have a copy of a
// volume that is mounted here, and would keep it mounted after its unmounting.
func OwnMounts(t testing.TB) {
	t.Helper()
	runtime.LockOSThread() // for good: the thread ends with the goroutine
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal("own mounts:", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal("own mounts:", err)
	}
}

// Fill makes files of all kinds and sizes, in fragments.
func Fill(t *testing.T, dir string, files int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("file %d", i)) }
	for i := range files {
		must(os.MkdirAll(filepath.Dir(name(i)), 0o755))
		must(os.WriteFile(name(i), testenv.Random(byte(i), 1+i*977%30_000), 0o644))
	}
	for i := 0; i < files; i += 2 {
		must(os.Remove(name(i)))
	}
	many := filepath.Join(dir, "many", "entries", "in", "a folder")
	must(os.MkdirAll(many, 0o755))
	for i := range files {
		must(os.WriteFile(filepath.Join(many, fmt.Sprintf("%d, and a long name: %s", i, strings.Repeat("x", i%180))), []byte("content"), 0o644))
	}
	must(os.WriteFile(filepath.Join(dir, "large"), testenv.Random(1, 5<<20+123), 0o644)) // in what the others left
	must(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644))
	must(os.WriteFile(filepath.Join(dir, "tiny"), []byte("tiny"), 0o644))
	must(os.Symlink(strings.Repeat("long/", 50), filepath.Join(dir, "link")))
	must(os.Link(name(1), filepath.Join(dir, "hard link")))
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(err)
	for _, at := range []int64{0, 100_000, 9 << 20} {
		_, err = f.WriteAt(testenv.Random(byte(at), 10_000), at)
		must(err)
	}
	must(f.Truncate(20 << 20))
	must(f.Close())
	f, err = os.Create(filepath.Join(dir, "allocated"))
	must(err)
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, 1<<20); err == nil {
		_, err = f.WriteAt(testenv.Random(77, 100_000), 50_000)
		must(err)
	} else if !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err)
	}
	must(f.Close())
}

// Compare holds what is read of a volume against the files as the system shows
// them, and against what is free by another opinion, in ascending order.
func Compare(t *testing.T, image string, open func(io.ReaderAt, int64) (volume.FileSystem, error), free []volume.Extent) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v, err := open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint64]*volume.File{}
	if err := v.Files(t.Context(), func(f *volume.File) error { found[f.ID] = f; return nil }); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	named := names(t, v)
	Mounted(t, image, func(dir string) {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			st, err := os.Stat(p)
			if err != nil {
				return err
			}
			id := st.Sys().(*syscall.Stat_t).Ino
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			f := found[id]
			seen[id] = true
			if rel, err := filepath.Rel(dir, p); err != nil || named != nil && !slices.Contains(named[id], rel) {
				t.Errorf("%s has the names %q", p, named[id])
			}
			if f == nil {
				if len(bytes.Trim(content, "\x00")) > 200 { // more than an inode holds
					t.Errorf("%s was not found", p)
				}
				return nil
			}
			// What is not stored is zero: the stored bytes in order are the content
			// without some zeros.
			var stored []byte
			for _, e := range f.Extents {
				stored = append(stored, b[e.Offset:e.End()]...)
			}
			if f.Size != int64(len(content)) || !bytes.Equal(nonZero(stored), nonZero(content)) || len(stored) > len(content) {
				t.Errorf("%s: %d bytes in %d extents of %d bytes are not its content", p, len(stored), len(f.Extents), f.Size)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	for id := range found {
		if !seen[id] {
			t.Errorf("inode %d is no file", id)
		}
	}
	var got []volume.Extent
	if err := v.Free(t.Context(), func(e volume.Extent) error { got = append(got, e); return nil }); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(got, Join(free)) {
		t.Errorf("%v is free, should be %v", got, Join(free))
	}
}

// names returns the names of all files, nil of a file system that cannot tell.
func names(t *testing.T, v volume.FileSystem) map[uint64][]string {
	t.Helper()
	n, ok := v.(volume.Namer)
	if !ok {
		return nil
	}
	list := map[uint64][]string{}
	if err := n.Names(t.Context(), func(id uint64, path string) error { list[id] = append(list[id], path); return nil }); err != nil {
		t.Fatal(err)
	}
	return list
}

// Join makes one of extents that follow each other.
func Join(list []volume.Extent) (joined []volume.Extent) {
	for _, e := range list {
		if n := len(joined); n > 0 && joined[n-1].End() == e.Offset {
			joined[n-1].Length += e.Length
		} else {
			joined = append(joined, e)
		}
	}
	return joined
}

func nonZero(p []byte) []byte { return bytes.ReplaceAll(p, []byte{0}, nil) }

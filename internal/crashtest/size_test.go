//go:build linux

package crashtest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestage/internal/testenv"
)

// sparse makes an image of size bytes with data scattered over it.
func sparse(t *testing.T, path string, size int64, pieces, length int) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(1, 2))
	for i := range pieces {
		at := r.Int64N(size - int64(length) + 1)
		switch i {
		case 0:
			at = 0
		case 1:
			at = size - int64(length)
		}
		if _, err := f.WriteAt(testenv.Random(byte(i), length), at); err != nil {
			t.Fatal(err)
		}
	}
}

// sameSparse compares two files where either has data, and what they take up.
func sameSparse(a, b string) error {
	x, err := os.Open(a)
	if err != nil {
		return err
	}
	defer x.Close()
	y, err := os.Open(b)
	if err != nil {
		return err
	}
	defer y.Close()
	sx, err := x.Stat()
	if err != nil {
		return err
	}
	sy, err := y.Stat()
	if err != nil {
		return err
	}
	if sx.Size() != sy.Size() {
		return fmt.Errorf("%s has %d bytes, %s %d", a, sx.Size(), b, sy.Size())
	}
	if bx, by := sx.Sys().(*syscall.Stat_t).Blocks, sy.Sys().(*syscall.Stat_t).Blocks; bx > by+2048 {
		return fmt.Errorf("%s takes up %d blocks, %s %d", a, bx, b, by)
	}
	for _, f := range []*os.File{x, y} {
		for at := int64(0); at < sx.Size(); {
			data, err := unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
			if errors.Is(err, unix.ENXIO) {
				break
			}
			if err != nil {
				return err
			}
			end, err := unix.Seek(int(f.Fd()), data, unix.SEEK_HOLE)
			if err != nil {
				return err
			}
			p, q := make([]byte, end-data), make([]byte, end-data)
			if _, err := x.ReadAt(p, data); err != nil {
				return err
			}
			if _, err := y.ReadAt(q, data); err != nil {
				return err
			}
			if !bytes.Equal(p, q) {
				return fmt.Errorf("%s differs from %s between %d and %d", a, b, data, end)
			}
			at = end
		}
	}
	return nil
}

// TestSizes takes images of extreme sizes all the way.
func TestSizes(t *testing.T) {
	t.Parallel()
	for name, make := range map[string]func(path string){
		"empty":    func(path string) { sparse(t, path, 0, 0, 0) },
		"one byte": func(path string) { sparse(t, path, 1, 1, 1) },
		"hole":     func(path string) { sparse(t, path, 1<<40+1, 0, 0) },
		"1 TiB":    func(path string) { sparse(t, path, 1<<40, 40, 256<<10) },
		"short holes": func(path string) {
			f, err := os.Create(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			for i := range int64(1000) {
				if _, err := f.WriteAt(testenv.Random(byte(i), 4<<10), i*12<<10); err != nil {
					t.Fatal(err)
				}
			}
		},
		"odd": func(path string) { sparse(t, path, 1<<40-1, 100, 33_333) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			image := filepath.Join(w.dir, "disk.img")
			make(image)
			start := time.Now()
			w.must("setup", w.parent)
			w.must("pack", image, "--name", "vm")
			w.must("push", "vm")
			w.must("install", "vm", "--offline")
			w.must("verify", "vm")
			if took := time.Since(start); took > 2*time.Minute {
				t.Errorf("it took %v", took)
			}
			if err := sameSparse(filepath.Join(w.medv, "vm", "1", "disk.img"), image); err != nil {
				t.Error(err)
			}
			w.finished()
			if err := errors.Join(w.checkImages(), w.checkStaged()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestLargerThanDisk installs an image that is larger than the disk, which its
// data is not.
func TestLargerThanDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image, store := filepath.Join(w.dir, "disk.img"), filepath.Join(w.dir, "store")
	sparse(t, image, 1<<40, 16, 64<<10)
	tmpfs(t, store, 8<<20)
	w.must("pack", image, "--name", "vm")
	w.must("install", "vm", "--store", store)
	if err := sameSparse(filepath.Join(store, "vm", "1", "disk.img"), image); err != nil {
		t.Error(err)
	}
}

//go:build linux

package crashtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/testenv"
)

// tmpfs mounts a disk of size bytes at dir.
func tmpfs(t *testing.T, dir string, size int) {
	t.Helper()
	testenv.NeedRoot(t)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=755", size)); err != nil {
		t.Fatalf("mounting a disk at %s: %v", dir, err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

func free(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Bfree) * st.Bsize
}

// fill leaves no byte free on a disk, and returns what takes that back.
func fill(t *testing.T, dir string) (undo func()) {
	t.Helper()
	path := filepath.Join(dir, "filler")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for p := make([]byte, 1<<20); len(p) > 0; {
		if _, err := f.Write(p); errors.Is(err, syscall.ENOSPC) {
			p = p[:len(p)/2]
		} else if err != nil {
			t.Fatal(err)
		}
	}
	return func() { removeAll(t, path) }
}

// filling is a command that writes to a disk of its own.
type filling struct {
	*world
	disk  string
	args  []string
	done  func() error
	again func() // makes the command have all to do
}

// tooSmall runs the command on a disk that it cannot fit on.
func (f filling) tooSmall(says ...string) {
	f.t.Helper()
	before := free(f.t, f.disk)
	for range 2 {
		f.refused(1, says, f.args...)
		if after := free(f.t, f.disk); after < before-64<<10 {
			f.t.Errorf("%v: %d bytes were free, and %d are after it has failed", f.args, before, after)
		}
		f.finished()
		if err := f.checkAll(); err != nil {
			f.t.Error(err)
		}
	}
}

// meanwhile fills the disk while the command writes to it.
func (f filling) meanwhile() {
	t := f.t
	t.Helper()
	before := free(t, f.disk)
	for try := 1; ; try++ {
		p := f.start(f.args...)
		eventually(t, "writing", func() bool {
			select {
			case <-p.ended:
				return true
			default:
				return free(t, f.disk) < before-1<<20
			}
		})
		p.pause()
		undo := fill(t, f.disk)
		p.resume()
		r := p.wait()
		if r.code == 0 && try < 10 { // it was faster
			undo()
			f.again()
			continue
		}
		r.check(t, 1, []string{"no space left on device", "make room", f.dir}, f.args...)
		f.finished()
		if err := f.checkAll(); err != nil {
			t.Error(err)
		}
		undo()
		if after := free(t, f.disk); after < before-64<<10 {
			t.Errorf("%v: %d bytes were free, and %d are after it has failed", f.args, before, after)
		}
		break
	}
	f.must(f.args...)
	f.finished()
	if err := errors.Join(f.checkAll(), f.done()); err != nil {
		t.Error(err)
	}
}

const tooLittle, enough = 4 << 20, 40 << 20

func TestDiskFullPack(t *testing.T) {
	t.Parallel()
	for _, size := range []int{tooLittle, enough} {
		w := newWorld(t)
		tmpfs(t, w.images, size)
		f := filling{w, w.images, []string{"pack", diskImage(t, 1, large), "--name", "vm"},
			func() error { return w.checkPackage("vm", 1) },
			func() {
				w.must("remove", "vm")
				w.packages = map[string]string{}
				removeAll(t, filepath.Join(w.images, "catalog.json"))
			},
		}
		if size == tooLittle { // how small the package will be is not known before
			f.tooSmall("no space left on device", "make room", w.images)
		} else {
			f.meanwhile()
		}
	}
}

// needAndFree is how a command that knows before it starts says so.
var needAndFree = regexp.MustCompile(`needs? \d+ bytes|\d+ bytes are needed`)

func TestDiskFullPush(t *testing.T) {
	t.Parallel()
	for _, size := range []int{tooLittle, enough} {
		w := newWorld(t)
		tmpfs(t, w.parent, size)
		w.must("pack", diskImage(t, 1, large), "--name", "vm")
		w.must("setup", w.parent)
		f := filling{w, w.parent, []string{"push", "vm", "--limit", "8MiB"},
			func() error { return w.checkOrigin("vm", 1) },
			func() { w.must("remove", "--staged", "vm") },
		}
		if size == tooLittle {
			f.tooSmall("the disk is full", w.staged, fmt.Sprintf("%d are free", free(t, w.parent)), "make room")
			f.refusedBefore()
		} else {
			f.meanwhile()
		}
	}
}

func TestDiskFullInstall(t *testing.T) {
	t.Parallel()
	for _, size := range []int{tooLittle, enough} {
		w := newWorld(t)
		store := filepath.Join(w.dir, "store")
		tmpfs(t, store, size)
		w.must("pack", diskImage(t, 1, large), "--name", "vm")
		w.must("setup", w.parent)
		w.must("push", "vm")
		f := filling{w, store, []string{"install", "vm", "--store", store, "--limit", "8MiB"},
			func() error { return checkInstalled(filepath.Join(store, "vm", "1")) },
			func() { removeAll(t, filepath.Join(store, "vm")) },
		}
		if size == tooLittle {
			f.tooSmall("not enough space", store, fmt.Sprintf("%d are free", free(t, store)), "make room")
			f.refusedBefore()
		} else {
			f.meanwhile()
		}
	}
}

// refusedBefore checks that the command says what it needs and writes nothing.
func (f filling) refusedBefore() {
	f.t.Helper()
	same := unchanged(f.t, f.disk)
	if r := f.run(f.args...); !needAndFree.MatchString(r.err) {
		f.t.Errorf("it does not say how much it needs: %v", r)
	}
	same()
}

// TestDiskFullRelocate has no room for the new settings, nor for new folders.
func TestDiskFullRelocate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tmpfs(t, filepath.Dir(w.config), 64<<10)
	w.must("setup", w.parent)
	place := filepath.Join(w.dir, "data2")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	undo := fill(t, filepath.Dir(w.config))
	keeps := unchanged(t, w.config)
	w.refused(1, []string{"no space left on device", filepath.Dir(w.config)}, "relocate", place)
	keeps()
	if err := w.checkSettings(); err != nil {
		t.Error(err)
	}
	undo()
	w.must("relocate", place)
}

// TestRemoveFromFullDisk makes room where there is none.
func TestRemoveFromFullDisk(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	tmpfs(t, w.images, enough)
	for range 2 {
		w.must("pack", diskImage(t, 1, large), "--name", "vm")
	}
	removeAll(t, filepath.Join(w.images, "catalog.json")) // the numbers are not on record
	fill(t, w.images)
	before := free(t, w.images)
	w.must("remove", "vm")
	if free(t, w.images) < before+1<<20 {
		t.Error("nothing was freed")
	}
	w.must("remove", "vm")
	removeAll(t, filepath.Join(w.images, "filler"))
	w.must("pack", diskImage(t, 2, large), "--name", "vm")
	if !exists(filepath.Join(w.images, "vm_3.index")) {
		t.Error("a number was used again")
	}
}

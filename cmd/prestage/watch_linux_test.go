package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// watcher looks at pre-stage folders, all the time, as their clients do: wherever
// an INDEX can be seen, the CKM that belongs to it must be there, whole, and both
// read-only.
type watcher struct {
	t       *testing.T
	folders map[string]string // by the name of the machine
	known   []known
	stop    chan struct{}
	done    sync.WaitGroup

	samples int
	seen    map[string]int // by the name of the machine, how often there was an INDEX
	right   map[string]bool
}

// known is a package that somebody pushes.
type known struct{ index, data []byte }

// watch begins to watch folders in which there may be packages of repositories.
func watch(t *testing.T, folders map[string]string, repos ...string) *watcher {
	t.Helper()
	w := &watcher{t: t, folders: folders, stop: make(chan struct{}), seen: map[string]int{}, right: map[string]bool{}}
	for _, repo := range repos {
		list, err := filepath.Glob(filepath.Join(repo, "*.index"))
		if err != nil || len(list) == 0 {
			t.Fatalf("no packages in %s: %v", repo, err)
		}
		for _, index := range list {
			x, err := os.ReadFile(index)
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(dataOf(index))
			if err != nil {
				t.Fatal(err)
			}
			w.known = append(w.known, known{x, data})
		}
	}
	w.done.Go(func() {
		for {
			for name, folder := range w.folders {
				w.look(name, folder)
			}
			w.samples++
			select {
			case <-w.stop:
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	})
	return w
}

// end stops watching. Every machine that is named must have had a package.
func (w *watcher) end(names ...string) {
	w.t.Helper()
	close(w.stop)
	w.done.Wait()
	for _, name := range names {
		if w.seen[name] == 0 {
			w.t.Errorf("%s: in %d looks no package was ever seen", name, w.samples)
		}
	}
}

func dataOf(index string) string { return index[:len(index)-len(".index")] + ".ckm" }

func (w *watcher) look(name, folder string) {
	list, _ := filepath.Glob(filepath.Join(folder, "*.index"))
	for _, index := range list {
		before, x, err := w.read(index)
		if err != nil {
			continue // it has just been put aside
		}
		err = w.check(index, x)
		// What was replaced meanwhile was not one package at one time.
		if after, e := os.Stat(index); e == nil && os.SameFile(before, after) {
			w.seen[name]++
			if err != nil {
				w.t.Errorf("%s: a client sees %s, but %v", name, filepath.Base(index), err)
			}
		}
	}
}

func (w *watcher) read(path string) (fs.FileInfo, []byte, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	st, err := os.Stat(path)
	return st, b, err
}

func (w *watcher) check(index string, x []byte) error {
	data := dataOf(index)
	for _, path := range []string{index, data} {
		if err := isSealed(path); err != nil {
			return err
		}
	}
	for _, k := range w.known {
		if !bytes.Equal(x, k.index) {
			continue
		}
		st, err := os.Stat(data)
		if err != nil {
			return err
		}
		// Long files are read again only if they may have changed.
		sys := st.Sys().(*syscall.Stat_t)
		id := fmt.Sprint(index, sys.Ino, sys.Size, sys.Mtim, sys.Ctim, len(x))
		if w.right[id] {
			return nil
		}
		b, err := os.ReadFile(data)
		if err == nil && !bytes.Equal(b, k.data) {
			err = fmt.Errorf("its CKM is not whole: %d bytes, should be %d", len(b), len(k.data))
		}
		w.right[id] = err == nil
		return err
	}
	return errors.New("it is nobody's INDEX")
}

// isSealed is an error if a file is not marked read-only: in what Samba keeps of
// its attributes (MS-FSCC 2.6), or else in its mode.
func isSealed(path string) error {
	b := make([]byte, 64)
	n, err := unix.Getxattr(path, "user.DOSATTRIB", b)
	if err == nil && n >= 16 {
		if binary.LittleEndian.Uint32(b[12:])&1 == 0 {
			return fmt.Errorf("%s is not read-only", filepath.Base(path))
		}
		return nil
	}
	st, err := os.Stat(path)
	if err == nil && st.Mode().Perm()&0o222 != 0 {
		err = fmt.Errorf("%s has mode %v", filepath.Base(path), st.Mode())
	}
	return err
}

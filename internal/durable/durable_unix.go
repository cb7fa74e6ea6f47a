//go:build unix

package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// hold marks a file as in work, for as long as it is open, and reports false on
// file systems that have no such marks. It may have to wait for a Sweep that is
// just about to remove the file.
func hold(f *os.File) bool {
	for {
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); !errors.Is(err, syscall.EINTR) {
			return err == nil
		}
	}
}

// removeUnheld removes a file that nobody holds.
func removeUnheld(path string) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
		os.Remove(path)
	}
}

func rename(from, to string) error { return os.Rename(from, to) }

func openShared(path string) (*os.File, error) { return os.Open(path) }

func removeFile(path string) error { return os.Remove(path) }

// createLock has nothing to do: flock makes files for their owner alone.
func createLock(string) error { return nil }

func removeTree(path string) error { return os.RemoveAll(path) }

// renameOpen renames first: until then the file is held.
func renameOpen(f *os.File, to string) error {
	if err := rename(f.Name(), to); err != nil {
		return err
	}
	return f.Close()
}

// linkNew is renameNew by two steps, for systems and file systems that have no
// rename that refuses to replace. A crash between them leaves both names.
// Where there are no hard links either, or none to folders, looking first must
// do: it keeps from replacing what is there, not what comes at that moment.
func linkNew(from, to string) error {
	err := os.Link(from, to)
	switch {
	case err == nil:
		return os.Remove(from)
	case !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.ENOTSUP) && !errors.Is(err, syscall.ENOSYS):
		return err
	}
	if _, err := os.Lstat(to); !errors.Is(err, fs.ErrNotExist) {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: fs.ErrExist}
	}
	return os.Rename(from, to)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	// Some network file systems cannot sync folders and say EINVAL: there is
	// nothing more that can be done on them.
	if err := d.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("syncing folder %q: %w", dir, err)
	}
	return nil
}

func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// Package durable makes files appear, or replace others, whole or not at all,
// also across a crash or a power cut.
//
// The order of system calls is the same everywhere: write aside, in the same
// file system; sync the file; rename; sync the folder. A name that can be seen
// therefore always has its bytes.
package durable

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	tempPrefix = ".prestage-"
	tempSuffix = ".partial"
)

// CreateTemp creates an unfinished file in dir that will become name. The
// caller renames or removes it; IsTemp tells what a crash has left, and Sweep
// removes it. As long as the file is open, Sweep leaves it alone.
func CreateTemp(dir, name string) (*os.File, error) {
	for {
		f, err := os.CreateTemp(dir, tempPrefix+"*."+name+tempSuffix)
		if err != nil || !hold(f) {
			return f, err
		}
		if _, err := os.Lstat(f.Name()); err == nil {
			return f, nil
		}
		f.Close() // swept before it was held
	}
}

// Sweep removes the unfinished files that will not become name any more: those
// of writers that were killed. It does what it can.
func Sweep(dir, name string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		number, ours := strings.CutSuffix(e.Name(), "."+name+tempSuffix)
		number, named := strings.CutPrefix(number, tempPrefix)
		if ours && named && strings.Trim(number, "0123456789") == "" && e.Type().IsRegular() {
			RemoveUnheld(filepath.Join(dir, e.Name()))
		}
	}
}

// IsTemp reports whether file is the name of an unfinished file of CreateTemp
// or WriteFile.
func IsTemp(file string) bool {
	return strings.HasPrefix(file, tempPrefix) && strings.HasSuffix(file, tempSuffix)
}

// RemoveUnheld removes an unfinished file, unless somebody has it open.
func RemoveUnheld(path string) { removeUnheld(path) }

// WriteFile replaces the file at path by one with the given bytes and mode.
// A reader sees the old file or the new one.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	Sweep(filepath.Dir(path), filepath.Base(path))
	f, err := CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		Sweep(filepath.Dir(path), filepath.Base(path)) // it may have come to be all the same
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(data); err != nil {
		return err
	}
	if err = f.Chmod(mode); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("syncing %q: %w", f.Name(), err)
	}
	return ReplaceOpen(f, path)
}

// ReplaceOpen is Replace for a synced file of CreateTemp that is still open, and
// closes it when it has succeeded.
func ReplaceOpen(f *os.File, to string) error {
	if err := renameOpen(f, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// SyncClose brings a file's bytes to the disk and closes it.
func SyncClose(f *os.File) error {
	if err := f.Sync(); err != nil {
		f.Close()
		return fmt.Errorf("syncing %q: %w", f.Name(), err)
	}
	return f.Close()
}

// Replace renames the synced file or folder from to to, replacing a file that
// may be there, and makes the renaming durable. Both are in one file system.
func Replace(from, to string) error {
	if err := rename(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// Publish is Replace for a name that must not exist yet: when it does, the
// error wraps fs.ErrExist and nothing has changed.
func Publish(from, to string) error {
	if err := renameNew(from, to); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(to))
}

// OpenShared opens a file for reading and lets others replace or remove it
// meanwhile, as they always can on POSIX systems.
func OpenShared(path string) (*os.File, error) { return openShared(path) }

// Remove removes a file, whether or not it is marked read-only, or an empty
// folder, and syncs the folder above. On Windows it waits a while for others to
// close the file.
func Remove(path string) error {
	if err := removeFile(path); err != nil {
		return err
	}
	return SyncDir(filepath.Dir(path))
}

// RemoveTree removes what is at path, and all in it if it is a folder. It
// follows no links. Nothing at path is no error.
func RemoveTree(path string) error { return removeTree(path) }

// MkdirAll makes the folder path and those above it that are missing, durably.
func MkdirAll(path string, mode os.FileMode) error {
	if st, err := os.Stat(path); err == nil && st.IsDir() {
		return nil
	}
	above := filepath.Dir(filepath.Clean(path))
	if above != filepath.Clean(path) {
		if err := MkdirAll(above, mode); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(path, mode); err != nil {
		return err
	}
	return SyncDir(above)
}

// SyncTree makes the entries of a folder, and of all folders in it, durable.
func SyncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			err = SyncDir(path)
		}
		return err
	})
}

// LockWait is how often a lock that somebody else holds is tried again.
const LockWait = 50 * time.Millisecond

// Lock waits until nobody else holds the lock file at path, or ctx ends. A file
// that is not there is made for its owner alone.
func Lock(ctx context.Context, path string) (unlock func(), err error) {
	if st, err := os.Lstat(path); err == nil && !st.Mode().IsRegular() {
		return nil, fmt.Errorf("%q is not a regular file; remove it", path)
	}
	if err := createLock(path); err != nil {
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	l := flock.New(path)
	if _, err := l.TryLockContext(ctx, LockWait); err != nil {
		return nil, fmt.Errorf("locking %q: %w", path, err)
	}
	return func() { l.Unlock() }, nil
}

// SyncDir makes the creation, renaming and removal of a folder's entries
// durable.
func SyncDir(dir string) error { return syncDir(dir) }

// IsDiskFull reports whether err says that a disk, or a quota, is full.
func IsDiskFull(err error) bool { return isDiskFull(err) }

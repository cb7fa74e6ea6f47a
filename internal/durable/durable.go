// Package durable makes files appear, or replace others, whole or not at all,
// also across a crash or a power cut.
//
// The order of system calls is the same everywhere: write aside, in the same
// file system; sync the file; rename; sync the folder. A name that can be seen
// therefore always has its bytes.
package durable

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const (
	tempPrefix = ".prestage-"
	tempSuffix = ".partial"
)

// CreateTemp creates an unfinished file in dir that will become name. The
// caller renames or removes it; IsTemp tells what a crash has left.
func CreateTemp(dir, name string) (*os.File, error) {
	return os.CreateTemp(dir, tempPrefix+"*."+name+tempSuffix)
}

// IsTemp reports whether file is the name of an unfinished file of CreateTemp
// or WriteFile.
func IsTemp(file string) bool {
	return strings.HasPrefix(file, tempPrefix) && strings.HasSuffix(file, tempSuffix)
}

// WriteFile replaces the file at path by one with the given bytes and mode.
// A reader sees the old file or the new one.
func WriteFile(path string, data []byte, mode os.FileMode) (err error) {
	f, err := CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
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
	if err = SyncClose(f); err != nil {
		return err
	}
	return Replace(f.Name(), path)
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

// SyncDir makes the creation, renaming and removal of a folder's entries
// durable.
func SyncDir(dir string) error { return syncDir(dir) }

// IsDiskFull reports whether err says that a disk, or a quota, is full.
func IsDiskFull(err error) bool { return isDiskFull(err) }

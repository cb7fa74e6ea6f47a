//go:build unix

package durable

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

func rename(from, to string) error { return os.Rename(from, to) }

// linkNew is renameNew by two steps, for systems and file systems that have no
// rename that refuses to replace. A crash between them leaves both names.
func linkNew(from, to string) error {
	if err := os.Link(from, to); err != nil {
		return err
	}
	return os.Remove(from)
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

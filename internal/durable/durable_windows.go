package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

func rename(from, to string) error { return move(from, to, windows.MOVEFILE_REPLACE_EXISTING) }

func renameNew(from, to string) error { return move(from, to, 0) }

// move returns when the renaming is on the disk, which is what syncing the
// folder is for elsewhere.
func move(from, to string, flags uint32) error {
	f, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return err
	}
	t, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return err
	}
	if err := windows.MoveFileEx(f, t, flags|windows.MOVEFILE_WRITE_THROUGH); err != nil {
		return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
	}
	return nil
}

// syncDir has nothing to do: every move was written through.
func syncDir(string) error { return nil }

func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

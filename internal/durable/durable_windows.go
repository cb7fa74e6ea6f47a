package durable

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// hold has nothing to do: nobody can remove a file that is open.
func hold(*os.File) bool { return true }

func removeUnheld(path string) { os.Remove(path) }

// renameOpen closes first: an open file cannot be renamed.
func renameOpen(f *os.File, to string) error {
	if err := f.Close(); err != nil {
		return err
	}
	return rename(f.Name(), to)
}

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

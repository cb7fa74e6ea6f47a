package durable

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
	"unsafe"

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

// Somebody else may have a file open for a moment: virus scanners look at each
// new one. So long an act is tried again that finds a file held. "Access denied"
// may be that, or a right that nobody will give: it is waited for less.
const (
	heldWait   = 10 * time.Second
	deniedWait = 2 * time.Second
	heldStep   = 20 * time.Millisecond
)

// whileHeld tries do until nobody holds the file, or it has taken too long.
func whileHeld(do func() error) error {
	start := time.Now()
	for step := heldStep; ; step = min(2*step, time.Second) {
		err := do()
		wait := heldWait
		switch {
		case errors.Is(err, windows.ERROR_ACCESS_DENIED):
			wait = deniedWait
		case !isHeld(err):
			return err
		}
		if time.Since(start) > wait {
			return fmt.Errorf("%w: another program has it open, or it may not be changed; close what uses it and try again", err)
		}
		time.Sleep(step)
	}
}

func isHeld(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_LOCK_VIOLATION) ||
		errors.Is(err, windows.ERROR_USER_MAPPED_FILE)
}

// move returns when the renaming is on the disk, which is what syncing the
// folder is for elsewhere.
func move(from, to string, flags uint32) error {
	err := whileHeld(func() error { return moveOnce(from, to, flags) })
	if err == nil {
		return nil
	}
	return &os.LinkError{Op: "rename", Old: from, New: to, Err: err}
}

func moveOnce(from, to string, flags uint32) error {
	f, err := windows.UTF16PtrFromString(from)
	if err != nil {
		return err
	}
	t, err := windows.UTF16PtrFromString(to)
	if err != nil {
		return err
	}
	replace := flags&windows.MOVEFILE_REPLACE_EXISTING != 0
	if replace && filepath.IsAbs(to) && renamePOSIX(f, to) == nil {
		return nil
	}
	err = windows.MoveFileEx(f, t, flags|windows.MOVEFILE_WRITE_THROUGH)
	if !replace || !errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return err
	}
	// That is the answer for a file that somebody has open, and for one that
	// is marked read-only.
	if isOpen(t) {
		return windows.ERROR_SHARING_VIOLATION
	}
	attr, statErr := windows.GetFileAttributes(t)
	if statErr != nil || attr&windows.FILE_ATTRIBUTE_READONLY == 0 || attr&windows.FILE_ATTRIBUTE_DIRECTORY != 0 {
		return err
	}
	if e := windows.SetFileAttributes(t, attr&^windows.FILE_ATTRIBUTE_READONLY); e != nil {
		return err
	}
	if err = windows.MoveFileEx(f, t, flags|windows.MOVEFILE_WRITE_THROUGH); err != nil {
		windows.SetFileAttributes(t, attr) // it stays, and as it was
	}
	return err
}

// isOpen reports whether somebody has a file open: then it cannot be had alone.
func isOpen(path *uint16) bool {
	h, err := windows.CreateFile(path, windows.GENERIC_READ, 0, nil, windows.OPEN_EXISTING, windows.FILE_FLAG_OPEN_REPARSE_POINT|windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	if err == nil {
		windows.CloseHandle(h)
	}
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION)
}

// What FILE_RENAME_INFORMATION's flags mean (ntifs.h).
const (
	renameReplace         = 0x1
	renamePOSIXSemantics  = 0x2
	renameIgnoresReadOnly = 0x40
)

// renamePOSIX replaces a file that others have open, if they let it be deleted,
// or that is marked read-only: they keep what they have open. Windows 10 1809
// and later can do it, on NTFS.
func renamePOSIX(from *uint16, to string) error {
	h, err := windows.CreateFile(from, windows.DELETE|windows.SYNCHRONIZE|windows.FILE_READ_ATTRIBUTES, shareAll, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_OPEN_REPARSE_POINT|windows.FILE_FLAG_BACKUP_SEMANTICS|windows.FILE_FLAG_WRITE_THROUGH, 0)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	name, err := windows.UTF16FromString(to)
	if err != nil {
		return err
	}
	// struct FILE_RENAME_INFORMATION: Flags, RootDirectory, FileNameLength in
	// bytes, FileName.
	const head = 2*unsafe.Sizeof(uintptr(0)) + 4
	buf := make([]byte, int(head)+2*len(name))
	*(*uint32)(unsafe.Pointer(&buf[0])) = renameReplace | renamePOSIXSemantics | renameIgnoresReadOnly
	*(*uint32)(unsafe.Pointer(&buf[2*unsafe.Sizeof(uintptr(0))])) = uint32(2 * (len(name) - 1)) // without the zero
	copy(unsafe.Slice((*uint16)(unsafe.Pointer(&buf[head])), len(name)), name)
	return windows.SetFileInformationByHandle(h, windows.FileRenameInfoEx, &buf[0], uint32(len(buf)))
}

const shareAll = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE

// openShared lets others replace and remove the file while it is read, which
// os.Open does not.
func openShared(path string) (*os.File, error) {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	h, err := windows.CreateFile(p, windows.GENERIC_READ, shareAll, nil, windows.OPEN_EXISTING, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

// removeFile removes a file, marked read-only or not, when nobody holds it.
func removeFile(path string) error {
	st, err := os.Lstat(path)
	if err == nil && st.IsDir() {
		return os.Remove(path) // one that is not empty stays so
	}
	removeErr := whileHeld(func() error { return os.Remove(path) })
	if removeErr != nil && err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o200 == 0 {
		os.Chmod(path, st.Mode()) // it stays, and as it was
	}
	return removeErr
}

// removeTree is os.RemoveAll, which nobody can lead astray by links, and waits
// for files that others hold.
func removeTree(path string) error {
	err := whileHeld(func() error { return os.RemoveAll(path) })
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) {
		return removeByPath(path) // Wine 8 cannot remove by handle
	}
	return err
}

func removeByPath(path string) error {
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && st.IsDir() {
		var entries []os.DirEntry
		entries, err = os.ReadDir(path)
		for _, e := range entries {
			err = errors.Join(err, removeByPath(filepath.Join(path, e.Name())))
		}
	}
	if err != nil {
		return err
	}
	return removeFile(path)
}

// createLock makes a lock file that its owner and administrators alone can open:
// whoever can open a file can lock it, for ever.
func createLock(path string) error {
	sd, err := windows.SecurityDescriptorFromString("D:P(A;;FA;;;OW)(A;;FA;;;SY)(A;;FA;;;BA)")
	if err != nil {
		return err
	}
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	sa := &windows.SecurityAttributes{SecurityDescriptor: sd}
	sa.Length = uint32(unsafe.Sizeof(*sa))
	h, err := windows.CreateFile(p, windows.GENERIC_READ|windows.GENERIC_WRITE, shareAll, sa, windows.CREATE_NEW, windows.FILE_ATTRIBUTE_NORMAL, 0)
	if errors.Is(err, windows.ERROR_FILE_EXISTS) || errors.Is(err, windows.ERROR_ALREADY_EXISTS) {
		return nil
	}
	if err != nil {
		return err
	}
	return windows.CloseHandle(h)
}

// syncDir has nothing to do: moves are written through, and what else happens in
// a folder reaches the disk in its order.
func syncDir(string) error { return nil }

func isDiskFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

package localhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"golang.org/x/sys/windows"

	"prestage/internal/acl"
)

const foldsCase = true

const otherKind = "a junction or another reparse point"

const becomePrivileged = `start the command prompt with "Run as administrator" and try again`

// privileged reports whether this program may set rights: those of
// administrators may, once they were started as such.
var privileged = sync.OnceValue(func() bool { return windows.GetCurrentProcessToken().IsElevated() })

// needPrivilege is an error when this program may not set rights.
func needPrivilege() error {
	if privileged() {
		return nil
	}
	return explain(fmt.Errorf("%w: rights of folders and files are set by administrators alone", fs.ErrPermission))
}

// MakeFolder implements host.Host. A new folder has its rights from the first
// moment on.
func (h *Host) MakeFolder(ctx context.Context, path string, rights acl.List) error {
	if err := needPrivilege(); err != nil {
		return err
	}
	want := rights.Folder()
	err := createFolder(path, want)
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if deviations, err := h.CheckFolder(ctx, path, rights); err != nil || len(deviations) == 0 {
		return err
	}
	// Other rights do not reach who has a folder open already. So one that
	// somebody else has made is made anew, if there is nothing in it.
	if isForeign(path) && os.Remove(path) == nil {
		return createFolder(path, want)
	}
	return setSecurity(path, want)
}

// CheckFolder implements host.Host.
func (h *Host) CheckFolder(_ context.Context, path string, rights acl.List) ([]string, error) {
	if _, err := lookFor(path, true); err != nil {
		return nil, err
	}
	return deviations(path, rights.Folder())
}

// Seal implements host.Host.
func (h *Host) Seal(ctx context.Context, path string, rights acl.List) error {
	if err := needPrivilege(); err != nil {
		return err
	}
	if _, err := lookFor(path, false); err != nil {
		return err
	}
	if dev, err := deviations(path, rights.File()); err != nil || len(dev) > 0 {
		if err := setSecurity(path, rights.File()); err != nil {
			return err
		}
	}
	return setReadOnly(path)
}

func setReadOnly(path string) error {
	p, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return err
	}
	attr, err := windows.GetFileAttributes(p)
	if err == nil && attr&windows.FILE_ATTRIBUTE_READONLY == 0 {
		err = windows.SetFileAttributes(p, attr&^windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_ATTRIBUTE_READONLY)
	}
	if err != nil {
		return &fs.PathError{Op: "marking read-only", Path: path, Err: err}
	}
	return nil
}

// CheckSealed implements host.Host.
func (h *Host) CheckSealed(_ context.Context, path string, rights acl.List) ([]string, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return []string{"it is not a file but " + describe(st.Mode())}, nil
	}
	dev, err := deviations(path, rights.File())
	if err == nil && st.Mode().Perm()&0o200 != 0 {
		dev = append(dev, "it is not marked read-only")
	}
	return dev, err
}

// InUse implements host.Host: a file that nobody has open can be opened by us
// alone.
func (h *Host) InUse(_ context.Context, path string) (bool, error) {
	handle, err := openHandle(path, windows.GENERIC_READ, 0, 0)
	if errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	return false, windows.CloseHandle(handle)
}

// openNoFollow opens a file, or the link that it is, which the caller refuses.
// Readers let others replace the file; writers let nobody else write.
func openNoFollow(path string, flags int) (*os.File, error) {
	access, share, how := uint32(windows.GENERIC_READ), uint32(shareAll), uint32(windows.OPEN_EXISTING)
	if flags&os.O_RDWR != 0 {
		access, share = access|windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_DELETE
	}
	if flags&os.O_CREATE != 0 {
		how = windows.OPEN_ALWAYS
	}
	p, err := windows.UTF16PtrFromString(path)
	if err == nil {
		var handle windows.Handle
		handle, err = windows.CreateFile(p, access, share, nil, how, windows.FILE_ATTRIBUTE_NORMAL|windows.FILE_FLAG_OPEN_REPARSE_POINT, 0)
		if err == nil {
			return os.NewFile(uintptr(handle), path), nil
		}
	}
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		if st, statErr := os.Lstat(path); statErr == nil && st.IsDir() {
			return nil, fmt.Errorf("%q is not a regular file", path)
		}
	}
	return nil, &fs.PathError{Op: "open", Path: path, Err: err}
}

const shareAll = windows.FILE_SHARE_READ | windows.FILE_SHARE_WRITE | windows.FILE_SHARE_DELETE

// openHandle opens a file or a folder, or the link that it is.
func openHandle(path string, access, share, flags uint32) (windows.Handle, error) {
	p, err := windows.UTF16PtrFromString(path)
	var h windows.Handle
	if err == nil {
		h, err = windows.CreateFile(p, access, share, nil, windows.OPEN_EXISTING,
			flags|windows.FILE_FLAG_OPEN_REPARSE_POINT|windows.FILE_FLAG_BACKUP_SEMANTICS, 0)
	}
	if err != nil {
		return 0, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return h, nil
}

// syncFile has nothing to do for a file that is open for reading alone: its
// buffers cannot be flushed, and dropCache brings them to the disk.
func syncFile(f *file) error {
	if !f.writes {
		return nil
	}
	return f.File.Sync()
}

// dropCache asks that reads come from the disk. Windows writes out and forgets
// what it has of a file in memory when the last that uses it so is closed while
// the file is open without buffering; so that is what is done to a file that was
// opened for reading. As long as others have it open, it remains a wish.
func dropCache(f *file) error {
	if f.writes {
		return nil
	}
	h, err := openHandle(f.Name(), windows.GENERIC_READ, shareAll, windows.FILE_FLAG_NO_BUFFERING)
	if err != nil {
		return nil // a file system without such opening
	}
	defer windows.CloseHandle(h)
	before, err := f.Stat()
	if err != nil {
		return err
	}
	again, err := openAgain(f.File)
	if err != nil {
		return err
	}
	f.File = again
	if after, err := f.Stat(); err != nil || !os.SameFile(before, after) {
		return fmt.Errorf("%q was replaced while it was read; try again", f.Name())
	}
	return nil
}

func openAgain(f *os.File) (*os.File, error) {
	if err := f.Close(); err != nil {
		return nil, err
	}
	return openNoFollow(f.Name(), os.O_RDONLY)
}

// isLockedRemotely reports whether somebody has the lock file open. One that is
// left of a connection that has ended is removed.
func isLockedRemotely(path string) bool {
	return errors.Is(os.Remove(path), windows.ERROR_SHARING_VIOLATION)
}

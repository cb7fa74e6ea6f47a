package localhost

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

func owner(st fs.FileInfo) int { return int(st.Sys().(*syscall.Stat_t).Uid) }

// dropCache asks that reads come from the disk. It is a wish: a file system
// may ignore it, and memory that somebody uses stays.
func dropCache(f *file) error {
	err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return nil
	}
	return err
}

// InUse implements host.Host: a write lease is granted only on a file that
// nobody else has open.
func (h *Host) InUse(_ context.Context, path string) (bool, error) {
	f, err := openNoFollow(path, os.O_RDONLY)
	if err != nil {
		return false, err
	}
	defer f.Close()
	_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_WRLCK)
	switch {
	case err == nil:
		_, err = unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
		return false, err
	case errors.Is(err, unix.EAGAIN):
		return true, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSYS):
		return false, nil // a file system without leases, or another user's file: nobody can tell
	}
	return false, err
}

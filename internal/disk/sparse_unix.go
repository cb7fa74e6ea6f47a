//go:build unix

package disk

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// NextData returns the offset of the first byte of f at or after off that may
// be other than zero, or size when there is none before it.
func NextData(f *os.File, off, size int64) (int64, error) {
	if off >= size {
		return size, nil
	}
	n, err := unix.Seek(int(f.Fd()), off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, unix.ENXIO): // nothing but a hole up to the end
		return size, nil
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.ESPIPE):
		return off, nil // a file system or a device that cannot tell
	case err != nil:
		return 0, &os.PathError{Op: "seek", Path: f.Name(), Err: err}
	}
	return min(n, size), nil
}

// MakeSparse lets holes of f, which is open for writing, take no space. On POSIX
// systems they take none wherever the file system can do it.
func MakeSparse(*os.File) error { return nil }

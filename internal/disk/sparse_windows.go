package disk

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/windows"
)

// fileRange is FILE_ALLOCATED_RANGE_BUFFER (winioctl.h).
type fileRange struct{ Offset, Length int64 }

// NextData returns the offset of the first byte of f at or after off that may
// be other than zero, or size when there is none before it.
func NextData(f *os.File, off, size int64) (int64, error) {
	if off >= size {
		return size, nil
	}
	ask := fileRange{off, size - off}
	var answer fileRange
	var n uint32
	err := windows.DeviceIoControl(windows.Handle(f.Fd()), windows.FSCTL_QUERY_ALLOCATED_RANGES,
		(*byte)(unsafe.Pointer(&ask)), uint32(unsafe.Sizeof(ask)), (*byte)(unsafe.Pointer(&answer)), uint32(unsafe.Sizeof(answer)), &n, nil)
	switch {
	case errors.Is(err, windows.ERROR_INVALID_FUNCTION), errors.Is(err, windows.ERROR_NOT_SUPPORTED), errors.Is(err, windows.ERROR_INVALID_PARAMETER):
		return off, nil // a file system or a device that cannot tell
	case err != nil && !errors.Is(err, windows.ERROR_MORE_DATA): // more ranges follow than the one that counts
		return 0, &os.PathError{Op: "asking for the ranges of", Path: f.Name(), Err: err}
	case n == 0: // nothing but a hole up to the end
		return size, nil
	}
	return min(max(answer.Offset, off), size), nil
}

// MakeSparse lets holes of f, which is open for writing, take no space. Where
// the file system has no sparse files they take it, and are right all the same.
func MakeSparse(f *os.File) error {
	var n uint32
	err := windows.DeviceIoControl(windows.Handle(f.Fd()), windows.FSCTL_SET_SPARSE, nil, 0, nil, 0, &n, nil)
	if errors.Is(err, windows.ERROR_INVALID_FUNCTION) || errors.Is(err, windows.ERROR_NOT_SUPPORTED) || errors.Is(err, windows.ERROR_INVALID_PARAMETER) {
		return nil
	}
	if err != nil {
		return &os.PathError{Op: "making sparse", Path: f.Name(), Err: err}
	}
	return nil
}

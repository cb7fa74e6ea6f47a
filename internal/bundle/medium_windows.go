package bundle

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"
)

// mediumSize returns the size in bytes of the file system that dir is on, or 0
// when that does not tell it.
func mediumSize(dir string) (int64, error) {
	p, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var total uint64
	if err := windows.GetDiskFreeSpaceEx(p, nil, &total, nil); err != nil {
		return 0, &os.PathError{Op: "GetDiskFreeSpaceEx", Path: dir, Err: err}
	}
	return blocks(total, 1), nil
}

// isRoot reports whether dir is the root of a drive or of a share: it cannot be
// replaced by another folder.
func isRoot(dir string) bool { return dir == filepath.Dir(dir) }

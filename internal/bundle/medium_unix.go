//go:build unix

package bundle

import (
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// mediumSize returns the size in bytes of the file system that dir is on, or 0
// when that does not tell it.
func mediumSize(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return blocks(uint64(st.Blocks), uint64(st.Bsize)), nil
}

// isRoot reports whether dir is where a file system is mounted: it cannot be
// replaced by another folder.
func isRoot(dir string) bool {
	here, errHere := os.Lstat(dir)
	above, errAbove := os.Lstat(filepath.Dir(dir))
	if errHere != nil || errAbove != nil {
		return false
	}
	return dir == filepath.Dir(dir) || here.Sys().(*syscall.Stat_t).Dev != above.Sys().(*syscall.Stat_t).Dev
}

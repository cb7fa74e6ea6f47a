//go:build unix

package durable

import (
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// FreeSpace returns how many bytes this user can still write in dir.
func FreeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	blocks := uint64(st.Bavail)
	if os.Geteuid() == 0 {
		blocks = uint64(st.Bfree) // root may use what is kept back for it
	}
	return int64(min(blocks, math.MaxInt64/uint64(st.Bsize)) * uint64(st.Bsize)), nil
}

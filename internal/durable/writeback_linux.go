package durable

import (
	"os"

	"golang.org/x/sys/unix"
)

// startWriteback starts writing what is dirty. An error would come again with
// Sync, where it counts.
func startWriteback(f *os.File) {
	_ = unix.SyncFileRange(int(f.Fd()), 0, 0, unix.SYNC_FILE_RANGE_WRITE)
}

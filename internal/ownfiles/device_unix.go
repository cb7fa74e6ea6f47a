//go:build unix

package ownfiles

import (
	"os"
	"syscall"
)

// Defaults are the folders that hold the operating system's files.
func Defaults() []string { return []string{"/usr", "/opt"} }

// deviceOf returns the file system that a folder is on.
func deviceOf(path string) (uint64, bool) {
	st, err := os.Lstat(path)
	if err != nil {
		return 0, false
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return uint64(s.Dev), true
}

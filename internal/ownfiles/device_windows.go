package ownfiles

import "os"

// Defaults are the folders that hold the operating system's files.
func Defaults() (list []string) {
	for _, name := range []string{"SystemRoot", "ProgramFiles", "ProgramFiles(x86)"} {
		if dir := os.Getenv(name); dir != "" {
			list = append(list, dir)
		}
	}
	return list
}

// deviceOf cannot tell: WalkDir follows no links, which other volumes are reached
// by.
func deviceOf(string) (uint64, bool) { return 0, false }

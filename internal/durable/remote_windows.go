package durable

import (
	"path/filepath"

	"golang.org/x/sys/windows"
)

// Remote reports whether a folder may lie on another machine.
func Remote(dir string) bool {
	path, err := filepath.Abs(dir)
	if err != nil {
		return true
	}
	root, err := windows.UTF16PtrFromString(filepath.VolumeName(path) + `\`)
	if err != nil {
		return true
	}
	switch windows.GetDriveType(root) {
	case windows.DRIVE_FIXED, windows.DRIVE_REMOVABLE, windows.DRIVE_CDROM, windows.DRIVE_RAMDISK:
		return false
	}
	return true
}

package sshhost

import "golang.org/x/sys/windows"

// errDiskFull is what this system, not the machine, calls a full disk.
const errDiskFull = windows.ERROR_DISK_FULL

//go:build !windows

package sshhost

import "syscall"

// errDiskFull is what this system, not the machine, calls a full disk.
const errDiskFull = syscall.ENOSPC

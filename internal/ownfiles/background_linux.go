package ownfiles

import "golang.org/x/sys/unix"

// lowerPriority makes the calling thread idle. Where that fails it is as it was.
func lowerPriority() {
	unix.Setpriority(unix.PRIO_PROCESS, 0, 19)
	const whoProcess, classIdle = 1, 3 << 13 // ioprio_set(2)
	unix.Syscall(unix.SYS_IOPRIO_SET, whoProcess, 0, classIdle)
}

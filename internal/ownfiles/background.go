package ownfiles

import "runtime"

// Background calls f on a thread of its own that yields processors and disks to
// all others, where the system can do that.
func Background(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// It is not unlocked: the thread ends with its priority.
		runtime.LockOSThread()
		lowerPriority()
		f()
	}()
	<-done
}

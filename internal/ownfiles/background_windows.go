package ownfiles

import "golang.org/x/sys/windows"

var setThreadPriority = windows.NewLazySystemDLL("kernel32.dll").NewProc("SetThreadPriority")

// lowerPriority puts the calling thread into background mode. Where that fails it
// is as it was.
func lowerPriority() {
	const backgroundBegin = 0x10000 // THREAD_MODE_BACKGROUND_BEGIN
	setThreadPriority.Call(uintptr(windows.CurrentThread()), backgroundBegin)
}

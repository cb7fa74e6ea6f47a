//go:build unix

package view

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"
)

func prepare(*os.File) (restore func(), err error) { return func() {}, nil }

func notifyResumed(c chan os.Signal) { signal.Notify(c, unix.SIGCONT) }

func stopNotifying(c chan os.Signal) { signal.Stop(c) }

// ours reports whether the terminal is for us now: in the background of a shell
// it is for others.
func (t *terminal) ours() bool {
	group, err := unix.IoctlGetInt(int(t.file.Fd()), unix.TIOCGPGRP)
	return err != nil || group == unix.Getpgrp()
}

//go:build unix

package pgtest

import (
	"os"
	"os/exec"
	"syscall"
)

// ordinary is the user that has the server run when root tests: nobody.
const ordinary = 65534

func own(dir string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	return os.Chown(dir, ordinary, ordinary)
}

func asOrdinary(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinary, Gid: ordinary}}
	}
}

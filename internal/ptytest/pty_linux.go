package ptytest

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Terminal is a pseudo terminal with a program on it.
type Terminal struct {
	*Screen
	Keyboard io.Writer
	master   *os.File
	drained  chan struct{}

	mu  sync.Mutex
	raw bytes.Buffer // all that was written
}

// Start starts cmd on a new terminal of its own, which is what all of its
// standard files are that are nil. It ends with the test.
func Start(t *testing.T, cmd *exec.Cmd, width, height int) *Terminal {
	t.Helper()
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatalf("opening a pseudo terminal: %v", err)
	}
	master := os.NewFile(uintptr(fd), "/dev/ptmx")
	p := &Terminal{Screen: NewScreen(width, height), Keyboard: master, master: master, drained: make(chan struct{})}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(fd, unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer slave.Close()
	p.SetSize(t, width, height)
	cmd.Stdin = slave
	if cmd.Stdout == nil {
		cmd.Stdout = slave
	}
	if cmd.Stderr == nil {
		cmd.Stderr = slave
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.drained)
		buf := make([]byte, 64<<10)
		for {
			n, err := master.Read(buf) // fails once the program has ended
			p.mu.Lock()
			p.raw.Write(buf[:n])
			p.mu.Unlock()
			p.Screen.Write(buf[:n])
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
	})
	return p
}

// SetSize changes the size, as a person does with a window.
func (p *Terminal) SetSize(t *testing.T, width, height int) {
	t.Helper()
	p.Resize(width, height)
	if err := unix.IoctlSetWinsize(int(p.master.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(width), Row: uint16(height)}); err != nil {
		t.Fatal(err)
	}
}

// Await waits until what the screen shows holds; what is its name.
func (p *Terminal) Await(t *testing.T, what string, holds func(text string) bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !holds(p.Text()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s does not come about; the screen shows\n%s", what, p.Text())
		}
	}
}

// AwaitText waits until the screen shows a text.
func (p *Terminal) AwaitText(t *testing.T, text string) {
	t.Helper()
	p.Await(t, fmt.Sprintf("%q", text), func(s string) bool { return strings.Contains(s, text) })
}

// Drained waits until all that the program wrote is on the screen. The program
// must have ended.
func (p *Terminal) Drained() { <-p.drained }

// Raw returns all that was written so far.
func (p *Terminal) Raw() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.raw.String()
}

// Echo reports whether the terminal shows what is typed.
func (p *Terminal) Echo(t *testing.T) bool {
	t.Helper()
	s, err := unix.IoctlGetTermios(int(p.master.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return s.Lflag&unix.ECHO != 0
}

//go:build linux

package sshhost

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestage/internal/host"
	"prestage/internal/localhost"
	"prestage/internal/settings"
	"prestage/internal/testenv"
)

// A network that is cut says nothing: bytes vanish, connections stay.
type network struct {
	net.Listener
	cut chan struct{}
}

func newNetwork(t *testing.T, to string) *network {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	n := &network{l, make(chan struct{})}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			a, err := l.Accept()
			if err != nil {
				return
			}
			b, err := net.Dial("tcp", to)
			if err != nil {
				a.Close()
				continue
			}
			t.Cleanup(func() { a.Close(); b.Close() })
			go n.copy(a, b)
			go n.copy(b, a)
		}
	}()
	return n
}

func (n *network) copy(to, from net.Conn) {
	p := make([]byte, 32<<10)
	for {
		m, err := from.Read(p)
		select {
		case <-n.cut:
			return
		default:
		}
		if err != nil {
			to.Close()
			return
		}
		if _, err := to.Write(p[:m]); err != nil {
			return
		}
	}
}

// through has the machine reached over the network.
func (n *network) through(t *testing.T, s *sshd, silence time.Duration) func(o *Options) {
	_, port, _ := net.SplitHostPort(n.Addr().String())
	b, err := os.ReadFile(s.known)
	must(t, err)
	known := s.put(t, "known_network", strings.ReplaceAll(string(b), s.port, port), 0o644)
	return func(o *Options) { o.Port, o.KnownHosts, o.Silence = port, []string{known}, silence }
}

// within fails the test when do takes longer.
func within(t *testing.T, limit time.Duration, what string, do func()) {
	t.Helper()
	start := time.Now()
	do()
	if took := time.Since(start); took > limit {
		t.Errorf("%s took %v", what, took)
	}
}

// unreachable wants all that is done to fail soon, and to say why.
func unreachable(t *testing.T, h *Host, why string) {
	t.Helper()
	dir := os.TempDir()
	for name, do := range map[string]func() error{
		"Stat":      func() error { _, err := h.Stat(t.Context(), dir); return err },
		"OpenWrite": func() error { _, err := h.OpenWrite(t.Context(), filepath.Join(dir, "x")); return err },
		"Lock":      func() error { _, err := h.Lock(t.Context(), filepath.Join(dir, "x")); return err },
		"Settings":  func() error { _, err := h.Settings(t.Context()); return err },
		"FreeSpace": func() error { _, err := h.FreeSpace(t.Context(), dir); return err },
		"sync":      func() error { return h.syncFolder(t.Context(), dir) },
	} {
		within(t, 20*time.Second, name, func() {
			if err := do(); !errors.Is(err, host.ErrUnreachable) || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: error %v", name, err)
			}
		})
	}
}

func TestMachineStops(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, func(o *Options) { o.Silence = 2 * time.Second })
	time.Sleep(5 * time.Second)
	if _, err := h.Stat(t.Context(), s.dir); err != nil {
		t.Fatalf("an idle connection: %v", err)
	}
	for _, pid := range s.children(t) {
		must(t, syscall.Kill(pid, syscall.SIGSTOP))
	}
	unreachable(t, h, "has not answered for 2s")
}

func TestMachineEnds(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	for _, pid := range s.children(t) {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	unreachable(t, h, "the connection has ended")
}

func TestClose(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	must(t, h.Close())
	if _, err := h.Stat(t.Context(), s.dir); !errors.Is(err, fs.ErrClosed) || errors.Is(err, host.ErrUnreachable) {
		t.Errorf("after closing: %v", err)
	}
}

// A write that was cut is never taken for one that was done, nor what is there
// for a short file.
func TestCutWhileWriting(t *testing.T) {
	for name, silent := range map[string]bool{"killed": false, "network": true} {
		t.Run(name, func(t *testing.T) {
			s := startSSHD(t, 0)
			n := newNetwork(t, s.address)
			h := s.dial(t, n.through(t, s, 3*time.Second))
			p := filepath.Join(t.TempDir(), "data")
			f, err := h.OpenWrite(t.Context(), p)
			must(t, err)
			data := testenv.Random(1, 1<<20)
			for i := range 200 {
				if i == 20 && silent {
					close(n.cut)
				} else if i == 20 {
					for _, pid := range s.children(t) {
						must(t, syscall.Kill(pid, syscall.SIGKILL))
					}
				}
				if _, err = f.WriteAt(data, int64(i)<<20); err != nil {
					break
				}
			}
			if !errors.Is(err, host.ErrUnreachable) {
				t.Errorf("writing: %v", err)
			}
			if _, err := f.ReadAt(make([]byte, 10), 0); !errors.Is(err, host.ErrUnreachable) {
				t.Errorf("reading: %v", err)
			}
			if err := f.Sync(); !errors.Is(err, host.ErrUnreachable) {
				t.Errorf("syncing: %v", err)
			}
			if err := f.Close(); !errors.Is(err, host.ErrUnreachable) {
				t.Errorf("closing: %v", err)
			}
		})
	}
}

func TestReadOfEndedConnection(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	p := s.put(t, "data", string(testenv.Random(1, 3<<20)), 0o644)
	f, err := h.Open(t.Context(), p)
	must(t, err)
	b := make([]byte, 1<<20)
	if n, err := f.ReadAt(b, 5<<19); n != 1<<19 || err != io.EOF {
		t.Errorf("at the end: %d, %v", n, err)
	}
	for _, pid := range s.children(t) {
		must(t, syscall.Kill(pid, syscall.SIGKILL))
	}
	for _, size := range []int{10, 1 << 20} {
		if _, err := f.ReadAt(b[:size], 0); !errors.Is(err, host.ErrUnreachable) {
			t.Errorf("after the end: %v", err)
		}
	}
}

func TestDiskFull(t *testing.T) {
	s := startSSHD(t, 4<<20)
	h := s.dial(t, nil)
	disk := filepath.Join(s.dir, "disk")
	free, err := h.FreeSpace(t.Context(), disk)
	if err != nil || free < 3<<20 || free > 4<<20 {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	p := filepath.Join(disk, "data")
	f, err := h.OpenWrite(t.Context(), p)
	must(t, err)
	data := testenv.Random(1, 1<<20)
	for i := range 6 {
		if _, err = f.WriteAt(data, int64(i)<<20); err != nil {
			break
		}
	}
	if e := f.Sync(); err == nil {
		err = e
	}
	f.Close()
	if !errors.Is(err, host.ErrDiskFull) {
		t.Errorf("a full disk: %v", err)
	}
	must(t, h.Remove(t.Context(), p))
}

// Programs on the machine and we keep one another out.
func TestLockWithLocal(t *testing.T) {
	s := startSSHD(t, 0)
	remote, local := s.dial(t, nil), localhost.New(settings.File("unused"))
	p := filepath.Join(t.TempDir(), "lock")
	type locker interface {
		Lock(ctx context.Context, path string) (func(), error)
	}
	for _, pair := range [][2]locker{{remote, local}, {local, remote}, {remote, s.dial(t, nil)}} {
		unlock, err := pair[0].Lock(t.Context(), p)
		must(t, err)
		short, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		if _, err := pair[1].Lock(short, p); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("locked twice: %v", err)
		}
		cancel()
		unlock()
		again, err := pair[1].Lock(t.Context(), p)
		must(t, err)
		again()
	}
	if st, err := os.Stat(p); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("the lock file: %v, %v", st, err)
	}
	link := p + ".link"
	must(t, os.Symlink(p, link))
	if _, err := remote.Lock(t.Context(), link); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("a link was locked: %v", err)
	}
	if _, err := remote.Lock(t.Context(), filepath.Join(p, "no", "lock")); err == nil {
		t.Error("a file in a file was locked")
	}
	if _, err := remote.Lock(t.Context(), filepath.Join(t.TempDir(), "no", "lock")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a lock in a folder that is not there: %v", err)
	}
}

// A lock of somebody who is gone does not last, and who has lost it does not go on.
func TestLockEnds(t *testing.T) {
	s := startSSHD(t, 0)
	n := newNetwork(t, s.address)
	h := s.dial(t, n.through(t, s, 2*time.Second))
	p := filepath.Join(t.TempDir(), "lock")
	_, err := h.Lock(t.Context(), p)
	must(t, err)
	local := localhost.New(settings.File("unused"))
	held, cancel := context.WithTimeout(t.Context(), 12*time.Second) // longer than it would last by itself
	defer cancel()
	if _, err := local.Lock(held, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("the lock did not last: %v", err)
	}
	within(t, 30*time.Second, "the lock's end", func() {
		close(n.cut)
		unlock, err := local.Lock(t.Context(), p)
		must(t, err)
		unlock()
	})

	h = s.dial(t, nil)
	_, err = h.Lock(t.Context(), p)
	must(t, err)
	out, _, err := h.try(t.Context(), `find -L /proc/[0-9]*/fd -maxdepth 1 -inum "$(stat -c %i "$1")" 2>/dev/null`, p)
	must(t, err)
	killed := 0
	for _, fd := range strings.Fields(out) {
		pid := strings.Split(fd, "/")[2]
		if _, err := h.run(t.Context(), `kill -9 "$1"`, pid); err == nil || h.conn.why() != nil {
			killed++
		}
	}
	if killed == 0 {
		t.Fatalf("nobody holds the lock: %q", out)
	}
	within(t, 30*time.Second, "noticing that", func() {
		for end := time.Now().Add(time.Minute); h.conn.why() == nil && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	})
	unreachable(t, h, "was lost")
}

//go:build linux

package nettest

import (
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// answers reports whether the machine says at once that nobody listens there.
func (m *Machine) answers() bool {
	_, err := m.Dial(net.JoinHostPort(m.Address, "9"), 200*time.Millisecond)
	return errors.Is(err, syscall.ECONNREFUSED)
}

// Faults happen to the machine they are meant for, and to no other.
func TestFaults(t *testing.T) {
	n := New(t)
	a, b := n.Add(t, "a"), n.Add(t, "b")
	for _, m := range []*Machine{a, b} {
		m.wait(t, "it answers", m.answers)
	}
	for name, fault := range map[string][2]func(testing.TB){"unplug": {a.Unplug, a.Plug}, "cut": {a.Cut, a.Heal}} {
		fault[0](t)
		if a.answers() {
			t.Errorf("%s: it answers", name)
		}
		if !b.answers() {
			t.Errorf("%s: the other one does not answer", name)
		}
		fault[1](t)
		a.wait(t, "it answers after "+name, a.answers)
	}
	many := func(m *Machine) (count int) {
		for range 20 {
			if m.answers() {
				count++
			}
		}
		return count
	}
	b.Cut(t)
	a.Lose(t, 0.3)
	if k := many(a); k < 2 || k > 18 {
		t.Errorf("of 20 connections, with half of them lost, %d succeed", k)
	}
	a.Heal(t)
	if k := many(a); k != 20 {
		t.Errorf("of 20 connections, after healing, %d succeed", k)
	}
	if b.answers() {
		t.Error("healing one machine healed the other")
	}
}

// What runs on a machine ends with it, and with the network; and nobody else
// sees any of it.
func TestEnd(t *testing.T) {
	var dir string
	var pids []int
	before := mounts(t)
	t.Run("network", func(t *testing.T) {
		n := New(t)
		dir = n.Dir
		a, b := n.Add(t, "a"), n.Add(t, "b")
		for _, m := range []*Machine{a, b} {
			m.SetUpSSH(t)
			m.SmallDisk(t, m.Path("data"), 1<<20)
			m.ServeSSH(t)
		}
		// Elsewhere somebody may have this address; but it is not our server.
		if c, err := net.DialTimeout("tcp", a.Address+":22", 100*time.Millisecond); err == nil {
			c.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
			if n, _ := c.Read(make([]byte, 4)); n > 0 {
				t.Error("the machine can be reached from outside of its network")
			}
			c.Close()
		}
		if err := os.WriteFile(b.Seen(b.Path("data", "full")), make([]byte, 2<<20), 0o644); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("a small disk: %v", err)
		}
		if left, _ := os.ReadDir(b.Path("data")); len(left) != 0 {
			t.Error("the small disk is seen by all")
		}
		if len(a.Processes(t)) == 0 || len(b.Processes(t)) == 0 {
			t.Errorf("processes %v, %v", a.Processes(t), b.Processes(t))
		}
		if h := a.Holding(t, a.Path("server.out")); len(h) == 0 || len(b.Holding(t, a.Path("server.out"))) != 0 {
			t.Errorf("the server's output is held by %v", h)
		}
		a.Halt(t)
		if p := a.Processes(t); len(p) != 0 {
			t.Errorf("after halting: %v", p)
		}
		a.ServeSSH(t)
		pids = append(a.Processes(t), b.Processes(t)...)
	})
	if len(pids) < 2 { // a connection may have one too
		t.Fatalf("processes %v", pids)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is still there: %v", pid, err)
		}
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", dir, err)
	}
	if after := mounts(t); !slices.Equal(after, before) {
		t.Errorf("mounts are left: %q, before %q", after, before)
	}
}

// mounts returns what is mounted, but for what tests of other packages mount in
// their own temporary folders meanwhile.
func mounts(t *testing.T) []string {
	t.Helper()
	all, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	return slices.DeleteFunc(strings.Split(string(all), "\n"), func(line string) bool {
		return strings.Contains(line, " "+os.TempDir()+"/") && !strings.Contains(line, dirPrefix)
	})
}

// The next test removes what one that was killed has left, and nothing that is
// in use.
func TestLeftovers(t *testing.T) {
	testenv.NeedRoot(t)
	n := New(t)
	left, err := os.MkdirTemp("", dirPrefix+"99999999-") // no process has this number
	must(t, err)
	New(t)
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", left, err)
	}
	if _, err := os.Stat(n.Dir); err != nil {
		t.Error(err)
	}
}

package service

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// systemd is told when the work is ready, and when it is about to end.
func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	defer conn.Close()
	told := func() string {
		t.Helper()
		must(t, conn.SetReadDeadline(time.Now().Add(10*time.Second)))
		b := make([]byte, 100)
		n, err := conn.Read(b)
		must(t, err)
		return string(b[:n])
	}
	t.Setenv("NOTIFY_SOCKET", path)
	ctx, cancel := context.WithCancel(t.Context())
	err = Run(ctx, func(ctx context.Context, ready func()) error {
		if v, found := os.LookupEnv("NOTIFY_SOCKET"); found {
			t.Errorf("what the work starts could speak for it, at %s", v)
		}
		ready()
		if got := told(); got != "READY=1" {
			t.Errorf("got %q", got)
		}
		cancel()
		if got := told(); got != "STOPPING=1" {
			t.Errorf("got %q", got)
		}
		return errors.New("the end")
	})
	if err == nil || err.Error() != "the end" {
		t.Errorf("Run ended with: %v", err)
	}
}

func TestJournalIsKnown(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
	must(t, err)
	defer f.Close()
	st, err := f.Stat()
	must(t, err)
	sys := st.Sys().(*syscall.Stat_t)
	for stream, want := range map[string]bool{
		fmt.Sprintf("%d:%d", sys.Dev, sys.Ino): true, fmt.Sprintf("%d:%d", sys.Dev, sys.Ino+1): false, "": false, ":": false, "x": false,
	} {
		if leadsToJournal(f, stream) != want {
			t.Errorf("JOURNAL_STREAM=%q: want %v", stream, want)
		}
	}
}

// systemd has no complaint about the unit. TestSystemdService runs one.
func TestUnit(t *testing.T) {
	testenv.Need(t, "systemd-analyze")
	dir := filepath.Join(t.TempDir(), "a folder, 100% $HOME's")
	must(t, os.Mkdir(dir, 0o755))
	if _, err := Agent.Unit([]string{filepath.Join(dir, "prestage")}); err == nil {
		t.Error("a program was accepted that systemd cannot start")
	}
	dir = filepath.Join(t.TempDir(), "a folder, 100%")
	must(t, os.Mkdir(dir, 0o755))
	program := filepath.Join(dir, "prestage")
	must(t, os.WriteFile(program, []byte("#!/bin/sh\n"), 0o755))
	for _, service := range []Service{Agent, Server} {
		for _, args := range [][]string{{"agent", "run"}, {"agent", "run", "--config", `/a b/100% $HOME 'x' "y" \z;`, ""}} {
			text, err := service.Unit(append([]string{program}, args...))
			must(t, err)
			if strings.Contains(text, "\nNice=10\nIOSchedulingClass=idle\n") != service.yields {
				t.Errorf("how %s treats others: %s", service.Name, text)
			}
			path := filepath.Join(t.TempDir(), service.UnitName)
			must(t, os.WriteFile(path, []byte(text), 0o644))
			out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
			if err != nil || strings.Contains(string(out), service.UnitName) {
				t.Errorf("systemd-analyze: %v\n%s\n%s", err, out, text)
			}
		}
	}
	if _, err := Agent.Unit([]string{"/usr/bin/prestage", "a\nb"}); err == nil {
		t.Error("a word of two lines was accepted")
	}
}

// Without systemd, or without root, installing says what to do instead.
func TestNoSystemd(t *testing.T) {
	if _, err := os.Stat(systemdDir); err == nil && os.Geteuid() == 0 {
		return // TestSystemdService installs
	}
	err := Agent.Install(t.Context(), Config{Command: []string{"/usr/bin/prestage", "agent", "run"}})
	if err == nil || !strings.Contains(err.Error(), "prestage agent run") && !strings.Contains(err.Error(), "sudo") {
		t.Errorf("Install: %v", err)
	}
	if _, err := os.Lstat(Agent.unitPath()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a unit was written: %v", err)
	}
	if _, err := Agent.Uninstall(t.Context()); err == nil {
		t.Error("Uninstall succeeded")
	}
}

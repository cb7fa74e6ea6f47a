package service

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"prestage/internal/durable"
)

// unitPath is where an administrator's units are.
func (s Service) unitPath() string { return "/etc/systemd/system/" + s.UnitName }

// systemdDir is where systemd shows that it runs the machine, see sd_booted(3).
const systemdDir = "/run/systemd/system"

func (s Service) check() error {
	if os.Geteuid() != 0 {
		return errors.New("a service is installed and removed by root; run it with sudo")
	}
	if st, err := os.Stat(systemdDir); err != nil || !st.IsDir() {
		return fmt.Errorf(`systemd does not run this machine; have "prestage %s" started by what does`, s.Verb)
	}
	return nil
}

func (s Service) install(ctx context.Context, c Config) error {
	text, err := s.Unit(c.Command)
	if err != nil {
		return err
	}
	if err := s.check(); err != nil {
		return err
	}
	if err := durable.WriteFile(s.unitPath(), []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the unit: %w", err)
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	enable := "enable"
	if c.Demand {
		enable = "disable"
	}
	if err := systemctl(ctx, enable, s.UnitName); err != nil {
		return err
	}
	if c.Hold {
		return nil
	}
	if err := systemctl(ctx, "restart", s.UnitName); err != nil {
		return fmt.Errorf("%w; \"journalctl -u %s\" tells more", err, s.UnitName)
	}
	return nil
}

func (s Service) uninstall(ctx context.Context) (found bool, err error) {
	if err := s.check(); err != nil {
		return false, err
	}
	if _, err := os.Lstat(s.unitPath()); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	if err := systemctl(ctx, "disable", "--now", s.UnitName); err != nil {
		return true, err
	}
	if err := durable.Remove(s.unitPath()); err != nil {
		return true, err
	}
	return true, systemctl(ctx, "daemon-reload")
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", append([]string{"--quiet"}, args...)...).CombinedOutput()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
}

func run(ctx context.Context, work Work) error {
	// Nothing that the work starts is to speak for it.
	socket := os.Getenv("NOTIFY_SOCKET")
	os.Unsetenv("NOTIFY_SOCKET")
	stopping := context.AfterFunc(ctx, func() { notify(socket, "STOPPING=1") })
	defer stopping()
	return work(ctx, func() { notify(socket, "READY=1") })
}

// notify tells systemd, see sd_notify(3). Nobody listening is no trouble to the
// work.
func notify(socket, state string) {
	if socket == "" {
		return
	}
	conn, err := net.Dial("unixgram", socket)
	if err != nil {
		return
	}
	defer conn.Close()
	conn.Write([]byte(state))
}

func (s Service) runControlled(Work) error {
	return fmt.Errorf("--service is for the service control manager of Windows: %w", errors.ErrUnsupported)
}

// Log returns a handler that writes messages to a file: as the journal reads
// them when the file leads there, else with their time.
func Log(f *os.File) slog.Handler {
	return &lines{w: f, journal: leadsToJournal(f, os.Getenv("JOURNAL_STREAM"))}
}

// leadsToJournal compares a file with what systemd says of the journal's stream,
// see systemd.exec(5): the variable is handed on to programs that write
// elsewhere.
func leadsToJournal(f *os.File, stream string) bool {
	st, err := f.Stat()
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return ok && stream == fmt.Sprintf("%d:%d", sys.Dev, sys.Ino)
}

func (s Service) eventLog() (slog.Handler, error) {
	return nil, fmt.Errorf("the event log: %w", errors.ErrUnsupported)
}

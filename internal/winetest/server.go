//go:build linux

package winetest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// startServer starts the wineserver of the prefix. It stays until it is told to
// stop, so that services live on. It writes every request to the file trace if
// that has a name.
func (p *Prefix) startServer(trace string) error {
	if trace == "" {
		return p.wine("wineserver", "-p")
	}
	f, err := os.Create(trace)
	if err != nil {
		return err
	}
	defer f.Close()
	return p.wineTo(f, "wineserver", "-p", "-d1")
}

// stopServer ends all programs of the prefix, services too.
func (p *Prefix) stopServer() error {
	if err := p.wine("wineserver", "-k"); err != nil {
		return err
	}
	return p.wine("wineserver", "-w")
}

// traced runs do with a wineserver that writes down every request and returns
// what it wrote. Only one that is started for it can.
func (p *Prefix) traced(do func()) (string, error) {
	p.running.Lock()
	defer p.running.Unlock()
	dir, err := os.MkdirTemp(p.dir, "trace-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := p.stopServer(); err != nil {
		return "", err
	}
	trace := filepath.Join(dir, "trace")
	if err := p.startServer(trace); err != nil {
		return "", err
	}
	do()
	if err := p.stopServer(); err != nil {
		return "", err
	}
	if err := p.startServer(""); err != nil {
		return "", err
	}
	text, err := os.ReadFile(trace)
	return string(text), err
}

// wine runs one of Wine's own programs.
func (p *Prefix) wine(args ...string) error {
	f, err := os.CreateTemp(p.dir, "output-")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	return p.wineTo(f, args...)
}

// wineTo is wine with its standard error to a file. A pipe would not end before
// the wineserver does, which may be started by any of them.
func (p *Prefix) wineTo(f *os.File, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir, cmd.Env, cmd.Stderr = p.dir, environment(p.dir), f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Run(); err != nil {
		said, _ := os.ReadFile(f.Name())
		return fmt.Errorf("%s: %w\n%s", strings.Join(args, " "), err, said)
	}
	return nil
}

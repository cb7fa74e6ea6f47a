//go:build linux

package winetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Command is a Windows program to be run.
type Command struct {
	// Dir is where it runs, as a path of this machine; the default is the
	// folder windows of drive C.
	Dir string
	// Args are the program, as the path of an .exe on this machine or as the
	// name of a command of Windows (msiexec, reg, cmd), and its arguments. They
	// arrive as they are.
	Args []string
	// Line is put at the end of the command line without a change, for programs
	// with quoting of their own: msiexec wants PROPERTY="a value".
	Line string
	// Env is set beside what every Windows program finds.
	Env []string
	// Timeout is how long it may take. The default is two minutes.
	Timeout time.Duration
	// Debug is Wine's WINEDEBUG. With +server in it, all programs and services
	// of the prefix are ended, and Result.Trace holds what was asked of the
	// system, by all of them, until the program ended.
	Debug string
}

// Result is how a program ended.
type Result struct {
	Stdout, Stderr string
	Code           int // all 32 bits of it
	Trace          string
}

func (r Result) String() string {
	return fmt.Sprintf("exit code %d\n%s%s", r.Code, r.Stdout, r.Stderr)
}

// request is what winrun is asked to do.
type request struct {
	Args           []string
	Line           string
	Dir            string
	Env            []string
	Stdout, Stderr string
	Seconds        float64
	Result         string
}

// outcome is what winrun answers.
type outcome struct {
	Code  uint32
	Error string
}

// Run runs a program to its end. To be killed for taking too long, or not to
// start at all, fails the test; an exit code does not.
func (p *Prefix) Run(t testing.TB, c Command) Result {
	t.Helper()
	winrun, err := build("prestage/internal/winetest/winrun")
	if err != nil {
		t.Fatal(err)
	}
	var r Result
	if strings.Contains(c.Debug, "+server") {
		c.Debug = "" // the server writes; the program need not
		var trace string
		trace, err = p.traced(func() { r, err = p.run(winrun, c) })
		r.Trace = trace
	} else {
		p.running.RLock()
		defer p.running.RUnlock()
		r, err = p.run(winrun, c)
	}
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", strings.Join(c.Args, " "), c.Line, err, r.Stdout, r.Stderr)
	}
	return r
}

// run hands the command to winrun, which knows the true exit code and builds
// the command line itself.
func (p *Prefix) run(winrun string, c Command) (Result, error) {
	dir, err := os.MkdirTemp(p.dir, "run-")
	if err != nil {
		return Result{}, err
	}
	defer os.RemoveAll(dir)
	if c.Timeout == 0 {
		c.Timeout = 2 * time.Minute
	}
	if c.Dir == "" {
		c.Dir = p.Unix(`C:\windows`)
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	q := request{
		Args: append([]string{}, c.Args...), Line: c.Line, Dir: p.Windows(c.Dir), Env: c.Env,
		Stdout: p.Windows(at("stdout")), Stderr: p.Windows(at("stderr")),
		Seconds: c.Timeout.Seconds(), Result: p.Windows(at("result")),
	}
	if strings.Contains(q.Args[0], "/") {
		q.Args[0] = p.Windows(q.Args[0])
	}
	text, err := json.Marshal(q)
	if err != nil {
		return Result{}, err
	}
	if err := os.WriteFile(at("request"), text, 0o644); err != nil {
		return Result{}, err
	}
	var o outcome
	var runErr error
	for range 3 {
		o, runErr = outcome{}, p.start(at("wine"), c.Timeout+30*time.Second, c.Debug, winrun, p.Windows(at("request")))
		text, err = os.ReadFile(at("result"))
		if err == nil {
			err = json.Unmarshal(text, &o)
		}
		if said, _ := os.ReadFile(at("wine")); !notStarted(o, runErr, err, len(said) > 0) {
			break
		}
	}

	var r Result
	for name, to := range map[string]*string{"stdout": &r.Stdout, "stderr": &r.Stderr} {
		text, err := os.ReadFile(at(name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return r, err
		}
		*to = string(text)
	}
	said, _ := os.ReadFile(at("wine")) // Wine's own messages, those of Debug
	r.Stderr += string(said)
	if runErr != nil {
		return r, runErr
	}
	if err != nil {
		return r, fmt.Errorf("no answer from Wine: %w", err)
	}
	if o.Error != "" {
		return r, errors.New(o.Error)
	}
	r.Code = int(o.Code)
	return r, nil
}

// notStarted reports whether Wine did not start winrun, and said nothing at all,
// or did not start winrun's program. Both happen on a busy machine, now and then:
// the new process ends before Wine's server has heard of it.
func notStarted(o outcome, run, answer error, said bool) bool {
	if answer != nil {
		return run != nil && !said
	}
	return strings.HasSuffix(o.Error, "Internal error.") // ERROR_INTERNAL_ERROR of CreateProcess
}

// start runs a program with wine, everything it says going to a file.
func (p *Prefix) start(output string, limit time.Duration, debug string, args ...string) error {
	f, err := os.Create(output)
	if err != nil {
		return err
	}
	defer f.Close()
	cmd := exec.Command("wine", args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, f, f
	cmd.Env = environment(p.dir)
	if debug != "" {
		cmd.Env = append(cmd.Env, "WINEDEBUG="+debug)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	// winrun ends the program in time; this is for a Wine that hangs.
	late := time.AfterFunc(limit, func() { cmd.Process.Kill() })
	defer late.Stop()
	return cmd.Wait()
}

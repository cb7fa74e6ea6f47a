package sshhost

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// A shell is a root shell on the machine, which reads its commands from in.
type shell struct {
	session *ssh.Session
	in      io.WriteCloser
	out     *bufio.Reader
	said    *remarks
}

// maxOutput is how much a command may say, in bytes.
const maxOutput = 64 << 10

// quote makes s one word of a POSIX shell, whatever it holds.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// checkPath refuses what would mean something else to the machine.
func checkPath(p string) error {
	if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
		return fmt.Errorf("%q is not an absolute path", p)
	}
	return nil
}

// command is a script with its arguments: $1, $2, ….
func command(script string, args []string) string {
	var b strings.Builder
	b.WriteString("set --")
	for _, a := range args {
		b.WriteString(" " + quote(a))
	}
	return b.String() + "\n" + script + "\n"
}

// send has the shell run a script with its own input and output.
func (s *shell) send(script string, args ...string) error {
	_, err := io.WriteString(s.in, "{ "+command(script, args)+"}\n")
	return err
}

// line reads a line that the shell writes, without its end.
func (s *shell) line() (string, error) {
	var line []byte
	for len(line) < maxOutput {
		part, err := s.out.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return string(bytes.TrimSuffix(line, []byte("\n"))), nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return "", err
		}
	}
	return "", errors.New("it says too much")
}

func (s *shell) close() { s.session.Close() }

// startShell starts a root shell, by sudo if need be. A password goes over
// sudo's standard input, when and only when it asks for one.
func (h *Host) startShell(ctx context.Context) (_ *shell, err error) {
	session, err := h.client.NewSession()
	if err != nil {
		return nil, h.explain(err)
	}
	defer func() {
		if err != nil {
			session.Close()
		}
	}()
	s := &shell{session: session, said: &remarks{prompt: []byte("[" + h.nonce + "]"), prompts: make(chan struct{}, 8)}}
	if s.in, err = session.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := session.StdoutPipe()
	if err != nil {
		return nil, err
	}
	s.out, session.Stderr = bufio.NewReaderSize(out, 32<<10), s.said
	// Whatever the user's own shell is, it understands this.
	line := "sh -c " + quote("LC_ALL=C; PATH=$PATH:/usr/sbin:/sbin; export LC_ALL PATH; echo "+h.nonce+"; exec sh")
	switch {
	case h.root:
	case h.o.Ask == nil:
		line = "sudo -n -- " + line
	default:
		line = "sudo -S -p " + quote(string(s.said.prompt)) + " -- " + line
	}
	if err := session.Start(line); err != nil {
		return nil, h.explain(err)
	}
	ready := make(chan error, 1)
	go func() {
		for range 1000 { // what the user's own shell says at its start is not for us
			line, err := s.line()
			if err != nil || line == h.nonce {
				ready <- err
				return
			}
		}
		ready <- errors.New("it says too much")
	}()
	return s, h.enter(ctx, s, ready)
}

// enter waits for the shell, and gives sudo the password.
func (h *Host) enter(ctx context.Context, s *shell, ready chan error) error {
	patience := time.NewTimer(4 * h.o.Silence)
	defer patience.Stop()
	for asked := 0; ; {
		select {
		case err := <-ready:
			if err == nil {
				return nil
			}
			if h.conn.why() != nil {
				return h.explain(err)
			}
			stop := time.AfterFunc(time.Second, s.close)
			s.session.Wait() // until all that it has said is here
			stop.Stop()
			return h.refused(s.said.text())
		case <-s.said.prompts:
			if asked++; asked > 1 {
				h.forget()
				return fmt.Errorf("sudo on %s does not accept the password of %s; check it and try again", h.o.Name, h.o.User)
			}
			p, err := h.sudoPassword()
			if err != nil {
				return err
			}
			patience.Reset(4 * h.o.Silence)
			if _, err := io.WriteString(s.in, p+"\n"); err != nil {
				return h.explain(err)
			}
		case <-patience.C:
			return fmt.Errorf("%s does not start a root shell for %s: %s", h.o.Name, h.o.User, printable(s.said.text()))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// refused says why there is no root shell, and what to do.
func (h *Host) refused(said string) error {
	if h.root {
		return fmt.Errorf("%s starts no shell for root: %s", h.o.Name, printable(said))
	}
	what := fmt.Sprintf("log on as root, or let %s use sudo there", h.o.User)
	switch {
	case strings.Contains(said, "password is required"), strings.Contains(said, "a terminal is required"):
		what = fmt.Sprintf("give the password of %s, or let them use sudo without one (NOPASSWD)", h.o.User)
	case strings.Contains(said, "not found"):
		what = "log on as root, or install sudo there"
	}
	return fmt.Errorf("it takes root on %s, and sudo refuses (%s): %s", h.o.Name, printable(said), what)
}

// run runs a script as root, with arguments $1, $2, …, and returns what it says.
// A script that fails is an error that says so in its own words.
func (h *Host) run(ctx context.Context, script string, args ...string) (string, error) {
	out, status, err := h.try(ctx, script, args...)
	if err == nil && status != 0 {
		err = fmt.Errorf("%s: %s (exit code %d)", h.o.Name, printable(strings.TrimSpace(out)), status)
	}
	return out, err
}

// try is run for scripts whose exit code says something.
func (h *Host) try(ctx context.Context, script string, args ...string) (out string, status int, err error) {
	for _, a := range args {
		if strings.ContainsRune(a, 0) {
			return "", 0, fmt.Errorf("%q holds a zero byte", a)
		}
	}
	h.running.Lock()
	defer h.running.Unlock()
	if err := ctx.Err(); err != nil {
		return "", 0, err
	}
	if h.shell == nil {
		if h.shell, err = h.startShell(ctx); err != nil {
			h.shell = nil
			return "", 0, err
		}
	}
	type result struct {
		out    string
		status int
		err    error
	}
	s, ended := h.shell, make(chan result, 1)
	go func() {
		out, status, err := s.do(script, args, h.nonce)
		ended <- result{out, status, err}
	}()
	var r result
	select {
	case r = <-ended:
	case <-ctx.Done():
		// The machine keeps the channel open for as long as the command runs;
		// nobody waits for that.
		h.drop()
		return "", 0, ctx.Err()
	}
	if r.err != nil {
		h.drop()
	}
	return r.out, r.status, h.explain(r.err)
}

// drop gives the shell up: what it still says would be taken for the output of
// the next command.
func (h *Host) drop() {
	h.shell.close()
	h.shell = nil
}

// do runs a script and reads what it says up to the mark that follows.
func (s *shell) do(script string, args []string, mark string) (string, int, error) {
	line := fmt.Sprintf("( %s) </dev/null 2>&1\nprintf '\\n%%s %%d\\n' %s \"$?\"\n", command(script, args), mark)
	if _, err := io.WriteString(s.in, line); err != nil {
		return "", 0, err
	}
	var out strings.Builder
	for out.Len() < maxOutput {
		line, err := s.line()
		if err != nil {
			return "", 0, err
		}
		if code, ok := strings.CutPrefix(line, mark+" "); ok {
			status, err := strconv.Atoi(code)
			return strings.TrimSuffix(out.String(), "\n"), status, err
		}
		out.WriteString(line + "\n")
	}
	return "", 0, errors.New("a command says too much")
}

// remarks is what a program says on its standard error, up to a bound; prompts
// for a password are told and left out.
type remarks struct {
	prompt  []byte
	prompts chan struct{}

	mu   sync.Mutex
	said []byte
}

// Write implements io.Writer.
func (r *remarks) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.said = append(r.said, p...)
	for {
		i := bytes.Index(r.said, r.prompt)
		if i < 0 {
			break
		}
		r.said = append(r.said[:i:i], r.said[i+len(r.prompt):]...)
		select {
		case r.prompts <- struct{}{}:
		default:
		}
	}
	if extra := len(r.said) - 4096; extra > 0 {
		r.said = append(r.said[:0], r.said[extra:]...)
	}
	return len(p), nil
}

func (r *remarks) text() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := strings.TrimSpace(string(r.said)); s != "" {
		return s
	}
	return "it does not say why"
}

package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"strings"
	"sync"

	"golang.org/x/term"

	"prestage/internal/fleet"
	"prestage/internal/host"
	"prestage/internal/smbhost"
	"prestage/internal/sshhost"
)

// Where a password comes from, in this order; else it is asked for. It is never
// on a command line, in a log or in a report.
const (
	passwordVariable        = "PRESTAGE_PASSWORD"
	passwordCommandVariable = "PRESTAGE_PASSWORD_COMMAND" // whose first line of output it is
)

// login logs on to machines. A password is found, or asked for, once per user.
type login struct {
	user                string
	sshKeys, knownHosts []string        // files
	aside               func(do func()) // does what needs the terminal

	mu        sync.Mutex
	passwords map[string]string
}

// remote is a machine that we are logged on to.
type remote interface {
	host.Host
	Close() error
}

// dial logs on to a machine.
func (l *login) dial(ctx context.Context, m fleet.Machine) (remote, error) {
	name := m.User
	if name == "" {
		name = l.user
	}
	if m.Kind == fleet.KindSSH {
		h, err := sshhost.Dial(ctx, sshhost.Options{Name: m.Name, Address: m.Address, Port: m.Port, User: name,
			KnownHosts: l.knownHosts, Keys: l.sshKeys, Ask: l.answer})
		if err != nil {
			return nil, err
		}
		return h, nil
	}
	if name == "" {
		u, err := user.Current()
		if err != nil {
			return nil, err
		}
		name = u.Username
	}
	password, err := l.password(name)
	if err != nil {
		return nil, err
	}
	h, err := smbhost.Dial(ctx, smbhost.Options{Name: m.Name, Address: m.Address, Port: m.Port, User: name, Password: password})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// password returns a user's password.
func (l *login) password(user string) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.passwords[user]; ok {
		return p, nil
	}
	var p string
	var err error
	l.aside(func() { p, err = findPassword(user) })
	if err != nil {
		return "", err
	}
	if l.passwords == nil {
		l.passwords = map[string]string{}
	}
	l.passwords[user] = p
	return p, nil
}

func findPassword(user string) (string, error) {
	if p := os.Getenv(passwordVariable); p != "" {
		return p, nil
	}
	if line := os.Getenv(passwordCommandVariable); line != "" {
		args := strings.Fields(line)
		cmd := exec.Command(args[0], append(args[1:], user)...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("the command in $%s: %w", passwordCommandVariable, err)
		}
		p, _, _ := strings.Cut(string(out), "\n")
		return strings.TrimSuffix(p, "\r"), nil
	}
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", fmt.Errorf("there is no password for %s: set $%s or $%s, or run it on a terminal", user, passwordVariable, passwordCommandVariable)
	}
	fmt.Fprintf(os.Stderr, "Password of %s: ", user)
	p, err := term.ReadPassword(in)
	fmt.Fprintln(os.Stderr)
	return string(p), err
}

// answer answers what it takes to log on by SSH, where keys do not suffice.
func (l *login) answer(q sshhost.Question) (string, error) {
	if q.Kind == sshhost.Passphrase {
		return "", fmt.Errorf("the key %s has a passphrase; add it to the SSH agent (ssh-add)", q.File)
	}
	if q.Echo { // it asks for something that is not secret, and we do not know what
		return "", fmt.Errorf("%s asks %q, which nobody can answer here; use a key", q.Machine, q.Text)
	}
	return l.password(q.User)
}

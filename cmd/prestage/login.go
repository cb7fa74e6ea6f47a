package main

import (
	"context"
	"errors"
	"fmt"
	"net"
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
	"prestage/internal/ticket"
)

// Where a password comes from, in this order; else a Kerberos ticket does for
// Windows machines, or the password is asked for. It is never on a command line,
// in a log or in a report.
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

	ticket   sync.Once
	kerberos *ticket.Cache // nil if there is no ticket
	noTicket error
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
	o := smbhost.Options{Name: m.Name, Address: m.Address, Port: m.Port}
	if err := l.credentials(&o, name); err != nil {
		return nil, err
	}
	h, err := smbhost.Dial(ctx, o)
	if err != nil {
		return nil, err
	}
	return h, nil
}

// credentials sets what a Windows machine is logged on to with: a password that
// was given; else the ticket of a user who asked for one, if it is that of the
// user who was named, if any; else a password that is asked for.
func (l *login) credentials(o *smbhost.Options, name string) (err error) {
	if !passwordGiven() {
		l.ticket.Do(func() { l.kerberos, l.noTicket = ticket.Open() })
		switch {
		case l.noTicket != nil:
			err = l.noTicket
		case net.ParseIP(o.Name) != nil:
			err = fmt.Errorf("it knows machines by their names and not by addresses such as %s", o.Name)
		case name != "" && !l.kerberos.Is(name):
			err = fmt.Errorf("the Kerberos ticket is that of %s", l.kerberos.User())
		default:
			o.Kerberos = l.kerberos
			return nil
		}
	}
	if name == "" {
		u, err := user.Current()
		if err != nil {
			return err
		}
		name = u.Username
	}
	o.User = name
	o.Password, err = l.password(name, err)
	return err
}

// password returns a user's password; noTicket says why it takes one.
func (l *login) password(user string, noTicket error) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p, ok := l.passwords[user]; ok {
		return p, nil
	}
	var p string
	var err error
	l.aside(func() { p, err = findPassword(user, noTicket) })
	if err != nil {
		return "", err
	}
	if l.passwords == nil {
		l.passwords = map[string]string{}
	}
	l.passwords[user] = p
	return p, nil
}

// passwordGiven reports whether nobody needs to be asked for passwords.
func passwordGiven() bool {
	return os.Getenv(passwordVariable) != "" || os.Getenv(passwordCommandVariable) != ""
}

func findPassword(user string, noTicket error) (string, error) {
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
	p, err := askPassword("Password of " + user)
	if errors.Is(err, errNoTerminal) {
		err = fmt.Errorf("there is no password for %s: set $%s or $%s, or run it on a terminal", user, passwordVariable, passwordCommandVariable)
		if noTicket != nil {
			err = fmt.Errorf("%w; Kerberos does not help: %w", err, noTicket)
		}
	}
	return p, err
}

var errNoTerminal = errors.New("there is no terminal to ask for a password on")

// askPassword asks for a password on the terminal, which does not show it.
func askPassword(prompt string) (string, error) {
	in := int(os.Stdin.Fd())
	if !term.IsTerminal(in) {
		return "", errNoTerminal
	}
	fmt.Fprint(os.Stderr, prompt+": ")
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
	return l.password(q.User, nil)
}

package sshhost

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"time"

	"prestage/internal/host"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
)

// A Question asks for something that only the user knows.
type Question struct {
	Kind    Kind
	Machine string // its name
	User    string // whom it is about
	File    string // of a Passphrase
	Text    string // of an Answer: the machine's own words
	Echo    bool   // the answer may be seen
}

// Kind is what a Question asks for.
type Kind int

// Kinds of questions.
const (
	Password     Kind = iota // of the user, to log on
	SudoPassword             // of the user, to become root
	Passphrase               // of a file with a private key
	Answer                   // to what the machine asks
)

// complete fills in what is not said.
func (o Options) complete() (Options, error) {
	if o.Address == "" {
		o.Address = o.Name
	}
	if o.Name == "" {
		o.Name = o.Address
	}
	if o.Port == "" {
		o.Port = "22"
	}
	if o.Settings == "" {
		o.Settings = "/etc/prestage/prestage.toml"
	}
	if o.Silence <= 0 {
		o.Silence = 15 * time.Second
	}
	if o.Agent == "" {
		o.Agent = os.Getenv("SSH_AUTH_SOCK")
	}
	if o.User == "" {
		u, err := user.Current()
		if err != nil {
			return o, fmt.Errorf("name the user to log on as: %w", err)
		}
		o.User = u.Username
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return o, nil
	}
	if len(o.KnownHosts) == 0 {
		o.KnownHosts = []string{filepath.Join(home, ".ssh", "known_hosts"), "/etc/ssh/ssh_known_hosts"}
	}
	return o, nil
}

// login is how the user says who they are.
type login struct {
	o       Options
	conn    *watched
	agent   net.Conn
	signers []ssh.Signer
	notes   []string // what could not be used, and why
	asked   error    // the user gave no answer

	recognised bool // the machine is the one that is known
}

func newLogin(o Options, conn *watched) *login {
	l := &login{o: o, conn: conn}
	if len(o.Keys) > 0 { // first what was named: a server allows few attempts
		l.addFiles(o.Keys, true)
		l.addAgent()
		return l
	}
	l.addAgent()
	if home, err := os.UserHomeDir(); err == nil {
		var files []string
		for _, name := range []string{"id_ed25519", "id_ecdsa", "id_rsa"} {
			files = append(files, filepath.Join(home, ".ssh", name))
		}
		l.addFiles(files, false)
	}
	return l
}

func (l *login) note(format string, args ...any) {
	l.notes = append(l.notes, fmt.Sprintf(format, args...))
}

func (l *login) addAgent() {
	if l.o.Agent == "" {
		return
	}
	c, err := net.DialTimeout("unix", l.o.Agent, l.o.Silence)
	if err != nil {
		l.note("the SSH agent does not answer: %v", err)
		return
	}
	l.agent = c
	signers, err := agent.NewClient(c).Signers()
	if err != nil {
		l.note("the SSH agent: %v", err)
	}
	l.signers = append(l.signers, signers...)
}

func (l *login) addFiles(files []string, named bool) {
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			if named || !errors.Is(err, os.ErrNotExist) {
				l.note("key file: %v", err)
			}
			continue
		}
		s, err := ssh.ParsePrivateKey(b)
		var locked *ssh.PassphraseMissingError
		if errors.As(err, &locked) && locked.PublicKey != nil {
			s, err = &lockedKey{l: l, file: file, sealed: b, public: locked.PublicKey}, nil
		}
		if err != nil {
			l.note("key file %s: %v", file, err)
			continue
		}
		l.signers = append(l.signers, s)
	}
}

// methods are the ways to log on, in the order in which they are tried.
func (l *login) methods() []ssh.AuthMethod {
	m := []ssh.AuthMethod{ssh.PublicKeys(l.signers...)}
	if l.o.Ask == nil {
		return m
	}
	password := func() (string, error) {
		return l.ask(Question{Kind: Password})
	}
	return append(m, ssh.PasswordCallback(password),
		ssh.KeyboardInteractive(func(_, _ string, questions []string, echos []bool) ([]string, error) {
			var answers []string
			for i, q := range questions {
				about := Question{Kind: Answer, Text: q, Echo: echos[i]}
				if !about.Echo && strings.Contains(strings.ToLower(q), "password") {
					about = Question{Kind: Password}
				}
				a, err := l.ask(about)
				if err != nil {
					return nil, err
				}
				answers = append(answers, a)
			}
			return answers, nil
		}))
}

func (l *login) ask(q Question) (string, error) {
	if l.o.Ask == nil {
		return "", errors.New("nobody can be asked")
	}
	defer l.conn.pause()()
	q.Machine, q.User = l.o.Name, l.o.User
	s, err := l.o.Ask(q)
	if err != nil {
		l.asked = err
	}
	return s, err
}

// explain says why nobody was let in, and what to do.
func (l *login) explain(err error) error {
	notes := ""
	for _, n := range l.notes {
		notes += "; " + n
	}
	if l.asked != nil {
		return fmt.Errorf("%w%s", l.asked, notes)
	}
	if !l.recognised {
		return err
	}
	what := fmt.Sprintf("it does not let %s in with %d keys", l.o.User, len(l.signers))
	if l.o.Ask != nil {
		what += " and the password that was given"
	}
	return fmt.Errorf("%w: %s%s; check the user, and that the key is in the machine's authorized_keys (%w)", host.ErrLogon, what, notes, err)
}

func (l *login) close() {
	if l.agent != nil {
		l.agent.Close()
	}
}

// sudoPassword returns what sudo asks for. It is asked for once.
func (h *Host) sudoPassword() (string, error) {
	h.secret.Lock()
	defer h.secret.Unlock()
	if !h.sudoKnown {
		p, err := h.o.Ask(Question{Kind: SudoPassword, Machine: h.o.Name, User: h.o.User})
		if err != nil {
			return "", err
		}
		if strings.ContainsAny(p, "\n\x00") {
			return "", errors.New("a password for sudo is one line")
		}
		h.sudo, h.sudoKnown = p, true
	}
	return h.sudo, nil
}

// forget makes sudoPassword ask again.
func (h *Host) forget() {
	h.secret.Lock()
	defer h.secret.Unlock()
	h.sudo, h.sudoKnown = "", false
}

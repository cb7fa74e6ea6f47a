//go:build linux

package sshhost

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"prestage/internal/host"
	"prestage/internal/testenv"
)

// refused dials and wants an error that says all of this.
func (s *sshd) refused(t *testing.T, change func(o *Options), want ...string) error {
	t.Helper()
	o := s.options()
	change(&o)
	h, err := Dial(t.Context(), o)
	if err == nil {
		h.Close()
		t.Errorf("was let in; want an error about %q", want)
		return nil
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not say %q", err, w)
		}
	}
	return err
}

func TestHostKeys(t *testing.T) {
	s := startSSHD(t, 0)
	own, err := os.ReadFile(s.known)
	must(t, err)
	_, key, _ := strings.Cut(string(own), " ")
	name := "[127.0.0.1]:" + s.port
	other := string(ssh.MarshalAuthorizedKey(s.newKey(t, "other")))
	n := 0
	known := func(text string) func(o *Options) {
		n++
		file := s.put(t, fmt.Sprintf("known_hosts%d", n), text, 0o644)
		return func(o *Options) { o.KnownHosts = []string{filepath.Join(s.dir, "absent"), file} }
	}
	s.refused(t, known(""), "is not known", "SHA256:", "ssh-keyscan", "known_hosts1")
	s.refused(t, known("elsewhere "+key), "is not known")
	s.refused(t, known("# comment\n"+name+" "+other), "not the one in", "known_hosts3:2", "ssh-keygen -R")
	s.refused(t, known("@revoked * "+key+name+" "+key), "was revoked")
	s.refused(t, known("garbage\n"), "known_hosts5:1")
	s.refused(t, func(o *Options) { o.KnownHosts = []string{filepath.Join(s.dir, "absent")} }, "is not known")
	s.dial(t, known(knownhosts.HashHostname(name)+" "+key))
	s.dial(t, known("[127.0.0.*]:"+s.port+" "+key))
	// The name by which people call the machine does not count.
	s.refused(t, func(o *Options) {
		known("[pc-1]:" + s.port + " " + key)(o)
	}, "is not known")
}

// A machine has several keys, and a certificate: it shows the one we know.
func TestHostKeyAlgorithms(t *testing.T) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	public, err := ssh.NewPublicKey(&private.PublicKey)
	must(t, err)
	_, seed, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	authority, err := ssh.NewSignerFromKey(seed)
	must(t, err)
	cert := &ssh.Certificate{Key: public, CertType: ssh.HostCert, ValidPrincipals: []string{"127.0.0.1"}, ValidBefore: ssh.CertTimeInfinity}
	must(t, cert.SignCert(rand.Reader, authority))
	dir := t.TempDir()
	file, certFile := filepath.Join(dir, "ecdsa"), filepath.Join(dir, "ecdsa-cert.pub")
	must(t, os.WriteFile(file, pem.EncodeToMemory(block), 0o600))
	must(t, os.WriteFile(certFile, ssh.MarshalAuthorizedKey(cert), 0o644))
	s := startSSHD(t, 0, "HostKey "+file, "HostCertificate "+certFile)
	s.dial(t, nil) // by its other key
	name := "[127.0.0.1]:" + s.port
	for what, text := range map[string]string{
		"plain":       name + " " + string(ssh.MarshalAuthorizedKey(public)),
		"certificate": "@cert-authority " + name + " " + string(ssh.MarshalAuthorizedKey(authority.PublicKey())),
	} {
		known := s.put(t, what, text, 0o644)
		t.Run(what, func(t *testing.T) { s.dial(t, func(o *Options) { o.KnownHosts = []string{known} }) })
	}
	s.refused(t, func(o *Options) {
		o.KnownHosts = []string{s.put(t, "revoked", "@cert-authority "+name+" "+string(ssh.MarshalAuthorizedKey(authority.PublicKey()))+
			"@revoked * "+string(ssh.MarshalAuthorizedKey(public)), 0o644)}
	}, "revoked")
}

func TestKeys(t *testing.T) {
	s := startSSHD(t, 0)
	s.newKey(t, "stranger")
	stranger := filepath.Join(s.dir, "stranger")
	s.refused(t, func(o *Options) { o.Keys = []string{stranger} }, "pc-1", "does not let root in", "authorized_keys")
	s.refused(t, func(o *Options) { o.Keys = []string{filepath.Join(s.dir, "absent")} }, "absent: no such file")
	s.dial(t, func(o *Options) { o.Keys = []string{stranger, s.key} })

	// A key with a passphrase, which is asked for only when the key is wanted.
	b, err := os.ReadFile(s.key)
	must(t, err)
	private, err := ssh.ParseRawPrivateKey(b)
	must(t, err)
	block, err := ssh.MarshalPrivateKeyWithPassphrase(*private.(*ed25519.PrivateKey), "", []byte("open"))
	must(t, err)
	locked := s.put(t, "locked", string(pem.EncodeToMemory(block)), 0o600)
	answer, asked := "open", 0
	ask := func(o *Options) {
		o.Keys, o.Ask = []string{stranger, locked}, func(q Question) (string, error) {
			if q.Kind == Passphrase && q.File == locked {
				asked++
				return answer, nil
			}
			return "", errors.New("not that")
		}
	}
	s.dial(t, ask)
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	answer = "wrong"
	s.refused(t, ask, "locked")
	s.refused(t, func(o *Options) { o.Keys = []string{locked} }, "nobody can be asked")
}

func TestAgent(t *testing.T) {
	testenv.Need(t, "ssh-agent", "ssh-add")
	s := startSSHD(t, 0)
	socket := filepath.Join(s.dir, "agent")
	agent := exec.Command("ssh-agent", "-D", "-a", socket)
	must(t, agent.Start())
	defer func() {
		agent.Process.Kill()
		agent.Wait()
	}()
	add := func() ([]byte, error) {
		cmd := exec.Command("ssh-add", s.key)
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
		return cmd.CombinedOutput()
	}
	byAgent := func(o *Options) { o.Keys, o.Agent = []string{filepath.Join(s.dir, "absent")}, socket }
	var out []byte
	err := errors.New("no agent")
	for end := time.Now().Add(10 * time.Second); err != nil && time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if _, there := os.Stat(socket); there == nil {
			s.refused(t, byAgent, "with 0 keys")
			out, err = add()
		}
	}
	if err != nil {
		t.Fatalf("ssh-add: %v\n%s", err, out)
	}
	s.dial(t, byAgent)
	s.refused(t, func(o *Options) { byAgent(o); o.Agent = filepath.Join(s.dir, "none") }, "the SSH agent does not answer")
}

func TestPassword(t *testing.T) {
	s := startSSHD(t, 0)
	kinds := map[Kind]int{}
	answer := password
	by := func(o *Options) {
		o.User, o.Keys = guarded, []string{filepath.Join(s.dir, "absent")}
		o.Ask = func(q Question) (string, error) { kinds[q.Kind]++; return answer, nil }
	}
	h := s.dial(t, by)
	if _, err := h.Stat(t.Context(), s.key); err != nil {
		t.Error(err)
	}
	if kinds[Password] != 1 || kinds[SudoPassword] != 1 {
		t.Errorf("asked %v", kinds)
	}
	answer = "wrong"
	err := s.refused(t, by, "does not let "+guarded+" in")
	if err != nil && strings.Contains(err.Error(), answer+"\"") {
		t.Errorf("the password is in the error: %v", err)
	}
	s.refused(t, func(o *Options) {
		by(o)
		o.Ask = func(Question) (string, error) { return "", errors.New("nobody is here") }
	}, "nobody is here")
}

func TestSudoRefuses(t *testing.T) {
	s := startSSHD(t, 0)
	s.refused(t, func(o *Options) { o.User = guarded }, "give the password of "+guarded, "NOPASSWD")
	s.refused(t, func(o *Options) { o.User = ordinary }, "it takes root on pc-1")
	ask := func(answer string) func(Question) (string, error) {
		return func(Question) (string, error) { return answer, nil }
	}
	s.refused(t, func(o *Options) { o.User, o.Ask = guarded, ask("wrong") }, "does not accept the password of "+guarded)
	s.refused(t, func(o *Options) { o.User, o.Ask = ordinary, ask(password) }, "is not in the sudoers file", "log on as root")
	s.refused(t, func(o *Options) { o.User, o.Ask = guarded, ask("two\nlines") }, "one line")
}

// What is off, or says nothing, is unreachable.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	_, port, _ := net.SplitHostPort(l.Addr().String())
	o := Options{Name: "pc-1", Address: "127.0.0.1", Port: port, User: "root", KnownHosts: []string{filepath.Join(t.TempDir(), "none")}, Silence: 600 * time.Millisecond}
	dial := func(ctx context.Context, want error) {
		t.Helper()
		start := time.Now()
		if _, err := Dial(ctx, o); !errors.Is(err, want) {
			t.Errorf("error %v, want %v", err, want)
		}
		if took := time.Since(start); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
	}
	dial(t.Context(), host.ErrUnreachable) // nobody answers
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	dial(ctx, context.DeadlineExceeded)
	l.Close()
	dial(t.Context(), host.ErrUnreachable)
}

package sshhost

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"
)

// knownHosts are the keys by which machines are recognised.
type knownHosts struct {
	o     Options
	files []string
	look  ssh.HostKeyCallback
}

func loadKnownHosts(o Options) (*knownHosts, error) {
	k := &knownHosts{o: o}
	for _, f := range o.KnownHosts {
		if _, err := os.Stat(f); err == nil || !errors.Is(err, fs.ErrNotExist) {
			k.files = append(k.files, f)
		}
	}
	var err error
	if k.look, err = knownhosts.New(k.files...); err != nil {
		return nil, fmt.Errorf("the keys of known machines: %w", err)
	}
	return k, nil
}

// check accepts the key that is known for the address and no other.
func (k *knownHosts) check(address string, remote net.Addr, key ssh.PublicKey) error {
	err := k.look(address, remote, key)
	var wrong *knownhosts.KeyError
	var revoked *knownhosts.RevokedError
	fingerprint := key.Type() + " " + ssh.FingerprintSHA256(key)
	name := knownhosts.Normalize(address)
	switch {
	case errors.As(err, &revoked):
		return fmt.Errorf("its key %s was revoked (%s:%d); do not trust this machine", fingerprint, revoked.Revoked.Filename, revoked.Revoked.Line)
	case !errors.As(err, &wrong):
		return err
	case len(wrong.Want) > 0:
		return fmt.Errorf("its key is %s and not the one in %s:%d: another machine may pretend to be it; if it was installed anew, remove the old key (ssh-keygen -R %s -f %s) and add the new one",
			fingerprint, wrong.Want[0].Filename, wrong.Want[0].Line, quote(name), quote(wrong.Want[0].Filename))
	}
	return fmt.Errorf("its key %s is not known; compare it with what the machine itself shows (ssh-keygen -lf /etc/ssh/ssh_host_..._key.pub), then add it to %s: ssh-keyscan -p %s %s",
		fingerprint, strings.Join(k.o.KnownHosts, " or "), quote(k.o.Port), quote(k.o.Address))
}

// algorithms puts those first for which a key of the address is known, so that
// the machine shows that one. Certificates are asked for only where an authority
// is known.
func (k *knownHosts) algorithms(address string) []string {
	var known []string
	var unknown *knownhosts.KeyError
	certified := false
	if err := k.look(address, &net.TCPAddr{}, nobody{}); errors.As(err, &unknown) {
		for _, w := range unknown.Want {
			if isAuthority(w.Filename, w.Line) {
				certified = true
			} else {
				known = append(known, w.Key.Type())
			}
		}
	}
	rank := func(algorithm string) int {
		kind := map[string]string{ssh.KeyAlgoRSASHA256: ssh.KeyAlgoRSA, ssh.KeyAlgoRSASHA512: ssh.KeyAlgoRSA}[algorithm]
		if kind == "" {
			kind = algorithm
		}
		switch {
		case strings.Contains(algorithm, "-cert-"):
			return 0
		case slices.Contains(known, kind):
			return 1
		}
		return 2
	}
	list := slices.DeleteFunc(slices.Clone(ssh.SupportedAlgorithms().HostKeys), func(a string) bool {
		return rank(a) == 0 && !certified
	})
	slices.SortStableFunc(list, func(a, b string) int { return rank(a) - rank(b) })
	return list
}

// isAuthority reports whether a line of a file is that of an authority, which
// signs the keys of machines.
func isAuthority(file string, line int) bool {
	f, err := os.Open(file)
	if err != nil {
		return false
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		if n == line {
			return strings.HasPrefix(strings.TrimLeft(s.Text(), " \t"), "@cert-authority")
		}
	}
	return false
}

// nobody is a key that no machine has.
type nobody struct{}

func (nobody) Type() string                        { return "nobody" }
func (nobody) Marshal() []byte                     { return nil }
func (nobody) Verify([]byte, *ssh.Signature) error { return errors.New("nobody signs") }

// lockedKey is a private key in a file, whose passphrase is asked for when the
// machine has said that it wants the key.
type lockedKey struct {
	l      *login
	file   string
	sealed []byte
	public ssh.PublicKey
	open   ssh.Signer
}

// PublicKey implements ssh.Signer.
func (k *lockedKey) PublicKey() ssh.PublicKey { return k.public }

// Sign implements ssh.Signer.
func (k *lockedKey) Sign(r io.Reader, data []byte) (*ssh.Signature, error) {
	return k.SignWithAlgorithm(r, data, "")
}

// SignWithAlgorithm implements ssh.AlgorithmSigner.
func (k *lockedKey) SignWithAlgorithm(r io.Reader, data []byte, algorithm string) (*ssh.Signature, error) {
	if k.open == nil {
		p, err := k.l.ask(Question{Kind: Passphrase, File: k.file})
		if err == nil {
			k.open, err = ssh.ParsePrivateKeyWithPassphrase(k.sealed, []byte(p))
		}
		if err != nil {
			k.l.note("key file %s: %v", k.file, err)
			return nil, fmt.Errorf("key file %s: %w", k.file, err)
		}
	}
	if s, ok := k.open.(ssh.AlgorithmSigner); ok {
		return s.SignWithAlgorithm(r, data, algorithm)
	}
	return k.open.Sign(r, data)
}

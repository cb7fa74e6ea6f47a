//go:build linux

package sshhost

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"prestage/internal/testenv"
)

// The users of the test's machine, besides root: all may use sudo but one.
const (
	free     = "prestage-free"     // without a password
	guarded  = "prestage-guarded"  // with the password
	ordinary = "prestage-ordinary" // not at all

	password = "correct horse"
	hashed   = "$6$prestage$h21AzSUv7rNbphibp1XcS2p/GhFQxPM5TIloHlMEVWd.K0REKilG9RQIC4ibS8NPjhXVVQfoeoQyCk21.yvBx."
)

// sshd is a server of this machine, with users and a small disk of its own.
type sshd struct {
	dir     string // holds all that is its own
	address string // of the server
	port    string
	pid     int
	key     string // file with the key that lets users in
	known   string // file with the server's key
}

// startSSHD starts OpenSSH's server. Its users, and its small disk of so many
// bytes at dir/disk, are in a mount namespace: the system knows nothing of them.
func startSSHD(t *testing.T, disk int64, options ...string) *sshd {
	t.Helper()
	testenv.NeedLinux(t)
	testenv.NeedRoot(t)
	testenv.Need(t, "sshd", "sudo", "unshare", "setfacl", "flock")
	program, err := testenv.Look("sshd")
	if err != nil {
		t.Fatal(err)
	}
	s := &sshd{dir: t.TempDir()}
	hostKey := s.newKey(t, "host")
	s.key = filepath.Join(s.dir, "user")
	user := s.newKey(t, "user")
	s.put(t, "authorized", string(ssh.MarshalAuthorizedKey(user)), 0o644)
	for _, d := range []string{s.dir, filepath.Dir(s.dir)} {
		must(t, os.Chmod(d, 0o755)) // users read their authorized keys
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.address = l.Addr().String()
	_, s.port, _ = net.SplitHostPort(s.address)
	l.Close()
	s.known = s.put(t, "known_hosts", fmt.Sprintf("[127.0.0.1]:%s %s", s.port, ssh.MarshalAuthorizedKey(hostKey)), 0o644)
	for _, name := range []string{"passwd", "shadow", "group"} {
		b, err := os.ReadFile("/etc/" + name)
		must(t, err)
		text := string(b)
		for i, u := range []string{free, guarded, ordinary} {
			text += map[string]string{
				"passwd": fmt.Sprintf("%s:x:%d:%d::/:/bin/sh\n", u, 60001+i, 60001+i),
				"shadow": u + ":" + hashed + ":19000:0:99999:7:::\n",
				"group":  fmt.Sprintf("%s:x:%d:\n", u, 60001+i),
			}[name]
		}
		s.put(t, name, text, 0o644)
	}
	s.put(t, "sudoers", "root ALL=(ALL) ALL\n"+free+" ALL=(ALL) NOPASSWD: ALL\n"+guarded+" ALL=(ALL) ALL\n", 0o440)
	s.put(t, "config", strings.Join(append(options, "ListenAddress "+s.address, "HostKey "+s.dir+"/host", "AuthorizedKeysFile "+s.dir+"/authorized",
		"PidFile none", "UsePAM no", "StrictModes no", "PermitRootLogin yes", "LogLevel ERROR"), "\n")+"\n", 0o644)
	must(t, os.Mkdir(filepath.Join(s.dir, "disk"), 0o755))
	cmd := exec.Command("unshare", "-m", "sh", "-ec", `
		for f in passwd shadow group sudoers; do mount --bind "$1/$f" "/etc/$f"; done
		mount -t tmpfs tmpfs /run
		mkdir -m 755 /run/sshd
		mount -t tmpfs -o size="$3",mode=755 tmpfs "$1/disk"
		exec "$2" -D -e -f "$1/config"`, "sh", s.dir, program, fmt.Sprint(max(disk, 1<<20)))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	must(t, cmd.Start())
	s.pid = cmd.Process.Pid
	t.Cleanup(func() {
		for _, pid := range s.children(t) { // it leaves its connections alone
			p, _ := os.FindProcess(pid)
			p.Kill()
		}
		cmd.Process.Kill()
		cmd.WaitDelay = time.Second
		cmd.Wait()
		if t.Failed() && out.Len() > 0 {
			t.Logf("sshd said:\n%s", out.Bytes())
		}
	})
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", s.address)
		if err == nil {
			c.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("sshd does not listen: %v\n%s", err, out.Bytes())
		}
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *sshd) put(t *testing.T, name, text string, mode os.FileMode) string {
	t.Helper()
	p := filepath.Join(s.dir, name)
	must(t, os.WriteFile(p, []byte(text), mode))
	must(t, os.Chmod(p, mode))
	return p
}

// newKey makes a key pair in a file and returns the public key.
func (s *sshd) newKey(t *testing.T, name string) ssh.PublicKey {
	t.Helper()
	public, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, name)
	must(t, err)
	s.put(t, name, string(pem.EncodeToMemory(block)), 0o600)
	k, err := ssh.NewPublicKey(public)
	must(t, err)
	return k
}

// children are the processes of the server's connections.
func (s *sshd) children(t *testing.T) (pids []int) {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
	must(t, err)
	for _, f := range strings.Fields(string(b)) {
		var pid int
		if _, err := fmt.Sscan(f, &pid); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// options are those by which root gets in with the key.
func (s *sshd) options() Options {
	return Options{Name: "pc-1", Address: "127.0.0.1", Port: s.port, User: "root", KnownHosts: []string{s.known}, Keys: []string{s.key},
		Agent: "none", Settings: filepath.Join(s.dir, "etc", "prestage.toml")}
}

func (s *sshd) dial(t *testing.T, change func(o *Options)) *Host {
	t.Helper()
	o := s.options()
	if change != nil {
		change(&o)
	}
	h, err := Dial(t.Context(), o)
	must(t, err)
	t.Cleanup(func() { h.Close() })
	return h
}

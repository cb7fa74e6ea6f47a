//go:build linux

package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// sshMachine starts sshd as a Linux client: its /etc is its own, so that its
// settings are. It returns the port, and a home folder whose keys let root in.
func sshMachine(t *testing.T) (port, home string) {
	testenv.NeedRoot(t)
	testenv.Need(t, "sshd", "ssh-keygen", "unshare", "flock")
	sshd, err := testenv.Look("sshd")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	home = filepath.Join(dir, "home")
	for _, d := range []string{filepath.Join(home, ".ssh"), filepath.Join(dir, "etc"), filepath.Join(dir, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	host, user := filepath.Join(dir, "host"), filepath.Join(home, ".ssh", "id_ed25519")
	for _, key := range []string{host, user} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	public, err := os.ReadFile(host + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), fmt.Appendf(nil, "[127.0.0.1]:%s %s", port, public), 0o644); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("ListenAddress 127.0.0.1:%s\nHostKey %s\nAuthorizedKeysFile %s.pub\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\n", port, host, user)
	if err := os.WriteFile(filepath.Join(dir, "config"), []byte(config), 0o644); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("unshare", "-m", "sh", "-ec", `
		mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
		mount -t tmpfs tmpfs /run
		mkdir -m 755 /run/sshd
		exec "$2" -D -e -f "$1/config"`, "sh", dir, sshd)
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.WaitDelay = time.Second
		cmd.Wait()
	})
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			c.Close()
			return port, home
		}
		if time.Now().After(end) {
			t.Fatalf("sshd does not listen: %v\n%s", err, out.String())
		}
	}
}

// Linux machines take the same command. One whose key is not known is not
// trusted.
func TestFleetOverSSH(t *testing.T) {
	testenv.NeedTime(t)
	port, home := sshMachine(t)
	dir := t.TempDir()
	exe := buildProgram(t, dir)
	t.Setenv("HOME", home)
	t.Setenv("SSH_AUTH_SOCK", "")
	data := filepath.Join(dir, "data")
	if err := os.Mkdir(data, 0o755); err != nil {
		t.Fatal(err)
	}
	hosts := filepath.Join(dir, "hosts.txt")
	text := fmt.Sprintf("[servers] kind=ssh user=root folder=%q\nsrv1 address=127.0.0.1 port=%s\n", data, port)
	if err := os.WriteFile(hosts, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "a.img"), testenv.Text(1, 2<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	runFleet(t, exe, dir, 0, "pack", "a.img", "--name", "win11", "--images", "repo")
	runFleet(t, exe, dir, 0, "push", "win11", "--images", "repo", "--hosts", hosts, "--report", "out.csv")
	runFleet(t, exe, dir, 0, "status", "--hosts", hosts)
	for _, file := range []string{"win11_1.ckm", "win11_1.index"} {
		want, err := os.ReadFile(filepath.Join(dir, "repo", file))
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(data, "MED-V Images", "PrestagedImages", file)
		got, err := os.ReadFile(path)
		if err != nil || string(got) != string(want) {
			t.Errorf("%s differs: %v", file, err)
		}
		if st, err := os.Stat(path); err != nil || st.Mode() != 0o444 {
			t.Errorf("%s: %v, %v", file, st, err)
		}
	}
	if err := os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if out := runFleet(t, exe, dir, 5, "status", "--hosts", hosts); !strings.Contains(out, "known_hosts") {
		t.Errorf("a machine that is not known: %s", out)
	}
}

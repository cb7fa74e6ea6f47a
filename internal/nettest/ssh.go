//go:build linux

package nettest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"prestage/internal/testenv"
)

// Ordinary is a user of SSH machines who may not use sudo. The administrator's key
// lets this user in too.
const Ordinary = "prestage-ordinary"

// Login makes, once for a network, the administrator's home folder, with a key
// that lets root in on all SSH machines, and returns it.
func (n *Net) Login(t testing.TB) (home string) {
	t.Helper()
	n.mu.Lock()
	defer n.mu.Unlock()
	home = filepath.Join(n.Dir, "home")
	if _, err := os.Stat(home); err == nil {
		return home
	}
	must(t, os.MkdirAll(filepath.Join(home, ".ssh"), 0o755))
	newKey(t, filepath.Join(home, ".ssh", "id_ed25519"))
	return home
}

func newKey(t testing.TB, path string) {
	t.Helper()
	testenv.Need(t, "ssh-keygen")
	run(t, exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path))
}

// Trust adds the machine's key to those that the administrator knows.
func (m *Machine) Trust(t testing.TB) {
	t.Helper()
	key, err := os.ReadFile(m.Path("host.pub"))
	must(t, err)
	known, err := os.OpenFile(filepath.Join(m.Login(t), ".ssh", "known_hosts"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	_, err = fmt.Fprintf(known, "%s %s", m.Address, key)
	must(t, err)
	must(t, known.Close())
}

// Distrust takes the machine's keys from those that the administrator knows.
func (m *Machine) Distrust(t testing.TB) {
	t.Helper()
	path := filepath.Join(m.Login(t), ".ssh", "known_hosts")
	known, err := os.ReadFile(path)
	must(t, err)
	var others []byte
	for line := range bytes.Lines(known) {
		if !bytes.HasPrefix(line, []byte(m.Address+" ")) {
			others = append(others, line...)
		}
	}
	must(t, os.WriteFile(path, others, 0o644))
}

// NewHostKey gives the machine another key, from its next start on.
func (m *Machine) NewHostKey(t testing.TB) {
	t.Helper()
	for _, file := range []string{"host", "host.pub"} {
		if err := os.Remove(m.Path(file)); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	newKey(t, m.Path("host"))
}

// SetUpSSH prepares the machine to be a Linux client: it has an /etc of its own,
// and so its settings and users are.
func (m *Machine) SetUpSSH(t testing.TB) {
	t.Helper()
	testenv.Need(t, "sshd", "sudo", "unshare", "flock", "setfacl")
	user := filepath.Join(m.Login(t), ".ssh", "id_ed25519.pub")
	m.NewHostKey(t)
	for _, dir := range []string{"etc", "work", "data"} {
		must(t, os.Mkdir(m.Path(dir), 0o755))
	}
	for name, line := range map[string]string{"passwd": Ordinary + ":x:60001:60001::/:/bin/sh\n", "shadow": Ordinary + ":*:19000:0:99999:7:::\n", "group": Ordinary + ":x:60001:\n"} {
		b, err := os.ReadFile("/etc/" + name)
		must(t, err)
		must(t, os.WriteFile(m.Path("etc", name), append(b, line...), 0o644))
	}
	config := fmt.Sprintf("HostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nLogLevel ERROR\n", m.Path("host"), user)
	must(t, os.WriteFile(m.Path("sshd_config"), []byte(config), 0o644))
}

// ServeSSH starts the SSH server, also again after Halt.
func (m *Machine) ServeSSH(t testing.TB) {
	t.Helper()
	sshd, err := testenv.Look("sshd")
	must(t, err)
	m.Serve(t, "22", "sh", "-ec", `
		mount -t overlay overlay -o "lowerdir=/etc,upperdir=$1/etc,workdir=$1/work" /etc
		exec "$2" -D -e -f "$1/sshd_config"`, "sh", m.Home, sshd)
}

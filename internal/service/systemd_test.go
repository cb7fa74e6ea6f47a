//go:build linux

package service

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// boot makes a machine of namespaces in which systemd is process 1. It has no
// network, and a cgroup, /run, /etc and /var of its own; of the units of this
// machine it has those that a service cannot be without. (Others would tidy up
// this machine's /tmp.)
const boot = `set -e
mount --make-rprivate /
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t tmpfs tmpfs /run
mkdir /run/units /run/layers
units=/usr/lib/systemd/system
for u in basic.target sysinit.target multi-user.target shutdown.target sockets.target timers.target paths.target slices.target \
	systemd-journald.service systemd-journald.socket systemd-journald-dev-log.socket; do
	cp $units/$u /run/units/
done
mkdir /run/units/sysinit.target.wants
ln -s ../systemd-journald.service /run/units/sysinit.target.wants/
mount --bind /run/units $units
mount -t tmpfs tmpfs /usr/lib/systemd/system-generators
for d in etc var; do
	mkdir /run/layers/$d /run/layers/$d.work
	mount -t overlay overlay -o lowerdir=/$d,upperdir=/run/layers/$d,workdir=/run/layers/$d.work /$d
done
rm -rf /etc/systemd/system /var/log/journal
mkdir /etc/systemd/system
[ -s /etc/machine-id ] || echo 0123456789abcdef0123456789abcdef >/etc/machine-id
exec env -i container=test PATH="$PATH" /usr/lib/systemd/systemd --system --unit=multi-user.target
`

// linuxMachine is a machine that systemd runs.
type linuxMachine struct {
	t    *testing.T
	exe  string
	dir  string
	init int // process 1, as this machine counts
}

func newLinuxMachine(t *testing.T) *linuxMachine {
	t.Helper()
	testenv.NeedLinux(t)
	testenv.NeedRoot(t)
	testenv.Need(t, "systemctl", "journalctl", "unshare", "nsenter")
	m := &linuxMachine{t: t, dir: t.TempDir()}
	m.exe = filepath.Join(m.dir, "programs, 100%", "prestage")
	build := exec.Command("go", "build", "-o", m.exe, "prestage/cmd/prestage")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the program: %v\n%s", err, out)
	}
	cgroup := ownCgroup(t)
	said, err := os.Create(filepath.Join(m.dir, "boot.log"))
	must(t, err)
	defer said.Close()
	cmd := exec.Command("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec unshare --pid --fork --kill-child --mount --uts --ipc --cgroup --net sh -c "$1"`, cgroup, boot)
	cmd.Stdout, cmd.Stderr = said, said
	must(t, cmd.Start())
	t.Cleanup(func() {
		if m.init > 0 {
			syscall.Kill(m.init, syscall.SIGKILL) // and with it all others there
		}
		cmd.Process.Kill()
		cmd.Wait()
	})
	m.eventually("systemd is up", func() bool {
		// unshare has one child, which becomes systemd.
		pid := cmd.Process.Pid
		children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
		m.init, _ = strconv.Atoi(strings.TrimSpace(string(children)))
		if m.init == 0 {
			return false
		}
		out, _ := m.try("systemctl", "is-system-running")
		return strings.HasPrefix(out, "running")
	})
	return m
}

// ownCgroup makes a cgroup for the machine, and removes it at the end.
func ownCgroup(t *testing.T) string {
	t.Helper()
	mounts, err := os.ReadFile("/proc/self/mounts")
	must(t, err)
	found := regexp.MustCompile(`(?m)^\S+ (\S+) cgroup2 `).FindSubmatch(mounts)
	if found == nil {
		t.Fatal("this machine has no cgroup2")
	}
	dir, err := os.MkdirTemp(string(found[1]), "prestage-test-")
	must(t, err)
	t.Cleanup(func() {
		for range 100 { // until the last process is gone
			if removeCgroup(dir) == nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Errorf("the cgroup %s cannot be removed", dir)
	})
	return dir
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return syscall.Rmdir(dir)
}

func (m *linuxMachine) eventually(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			said, _ := os.ReadFile(filepath.Join(m.dir, "boot.log"))
			status, _ := m.try("systemctl", "status", "--no-pager", Agent.UnitName)
			m.t.Fatalf("%s: this has not happened\n%s%s", what, said, status)
		}
	}
}

// try runs a program in the machine.
func (m *linuxMachine) try(args ...string) (out string, err error) {
	cmd := exec.Command("nsenter", append([]string{"--target", strconv.Itoa(m.init), "--all", "--wdns=" + m.dir}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root"}
	var both bytes.Buffer
	cmd.Stdout, cmd.Stderr = &both, &both
	err = cmd.Run()
	return both.String(), err
}

func (m *linuxMachine) must(args ...string) string {
	m.t.Helper()
	out, err := m.try(args...)
	if err != nil {
		m.t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return out
}

// property returns what systemd has of the service.
func (m *linuxMachine) property(name string) string {
	m.t.Helper()
	return strings.TrimSpace(m.must("systemctl", "show", "--value", "--property="+name, Agent.UnitName))
}

func (m *linuxMachine) stage(name string, seed byte, size int) {
	m.t.Helper()
	must(m.t, os.WriteFile(filepath.Join(m.dir, name+".img"), testenv.Random(seed, size), 0o644))
	m.must(m.exe, "pack", name+".img", "--name", name, "--images", "repo")
	m.must(m.exe, "push", name, "--images", "repo")
}

func (m *linuxMachine) installs(name string, seed byte, size int) {
	m.t.Helper()
	m.eventually(name+" is installed", func() bool {
		got, err := os.ReadFile(filepath.Join(m.dir, "site", "MED-V Images", name, "1", name+".img"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			m.t.Fatal(err)
		}
		return string(got) == string(testenv.Random(seed, size))
	})
}

// The life of the service on Linux: it is installed, installs what is pre-staged
// with no network, is stopped, started, killed, started again by systemd, and
// removed.
func TestSystemdService(t *testing.T) {
	m := newLinuxMachine(t)
	must(t, os.Mkdir(filepath.Join(m.dir, "site"), 0o755))
	m.must(m.exe, "setup", "site")
	m.stage("win11", 1, 3<<20)

	if out := m.must(m.exe, "agent", "install"); !strings.Contains(out, "installed and runs") {
		t.Errorf("installing said: %s", out)
	}
	for name, want := range map[string]string{"ActiveState": "active", "SubState": "running", "UnitFileState": "enabled", "Type": "notify"} {
		if got := m.property(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	m.installs("win11", 1, 3<<20)
	m.eventually("the journal has it", func() bool {
		return strings.Contains(m.must("journalctl", "--unit", Agent.UnitName, "--priority", "6..6", "--output", "cat"), "\ninstalled win11:1 in ")
	})

	if out, err := m.try(m.exe, "agent", "run"); err == nil || !strings.Contains(out, "another agent is running") {
		t.Errorf("a second agent: %v\n%s", err, out)
	}

	began := time.Now()
	m.must("systemctl", "stop", Agent.UnitName)
	if took := time.Since(began); took > 30*time.Second || m.property("Result") != "success" {
		t.Errorf("stopping took %v, with result %s", took, m.property("Result"))
	}
	m.stage("win10", 2, 1<<20)
	m.must("systemctl", "start", Agent.UnitName)
	m.installs("win10", 2, 1<<20)

	// Killed, it is started again, and goes on.
	pid := m.property("MainPID")
	m.must("systemctl", "kill", "--signal=KILL", Agent.UnitName)
	m.stage("win7", 3, 1<<20)
	m.installs("win7", 3, 1<<20)
	if now := m.property("MainPID"); now == pid || m.property("NRestarts") != "1" {
		t.Errorf("process %s was killed, and is %s now", pid, now)
	}

	// Installing again changes what is there, here also to a settings file.
	config := m.dir + `/own; $HOME 100% 'x' "y" \z.toml`
	m.must(m.exe, "--config", config, "agent", "install", "--start", "demand")
	if got := m.property("UnitFileState"); got != "disabled" {
		t.Errorf("on demand, the service is %s", got)
	}
	want := []string{m.exe, "agent", "run", "--config", config, ""}
	if got := strings.Split(m.must("cat", "/proc/"+m.property("MainPID")+"/cmdline"), "\x00"); !slices.Equal(got, want) {
		t.Errorf("the service runs %q, want %q", got, want)
	}
	m.must(m.exe, "agent", "install", "--no-start")
	if got := m.property("UnitFileState"); got != "enabled" {
		t.Errorf("the service is %s", got)
	}

	if out := m.must(m.exe, "agent", "uninstall"); !strings.Contains(out, "is removed") {
		t.Errorf("uninstalling said: %s", out)
	}
	if got := m.property("LoadState") + " " + m.property("ActiveState"); got != "not-found inactive" {
		t.Errorf("the service is %s", got)
	}
	if out := m.must(m.exe, "agent", "uninstall"); !strings.Contains(out, "there is no service") {
		t.Errorf("uninstalling twice said: %s", out)
	}
}

// The server as a service: it is checked before it is installed, serves, finishes
// what it is at when it is stopped, and is removed.
func TestSystemdServer(t *testing.T) {
	m := newLinuxMachine(t)
	unit := Server.UnitName
	must(t, os.WriteFile(filepath.Join(m.dir, "a.img"), testenv.Text(1, 1<<20), 0o644))
	m.must(m.exe, "pack", "a.img", "--name", "win11", "--images", "repo")
	if out, err := m.try(m.exe, "serve", "install", "--images", "repo", "--users", "nowhere"); err == nil {
		t.Errorf("a file of users that is not there was taken: %s", out)
	}
	const url = "http://127.0.0.1:443/MEDVImages/"
	if out := m.must(m.exe, "serve", "install", "--images", "repo", "--listen", "127.0.0.1:443", "--access-log", "-", "--drain", "1m"); !strings.Contains(out, "installed and runs") {
		t.Errorf("installing said: %s", out)
	}
	if out := m.must(m.exe, "list", "--images", url); !strings.Contains(out, "win11") {
		t.Errorf("it serves: %s", out)
	}
	m.eventually("the journal has it", func() bool {
		out := m.must("journalctl", "--unit", unit, "--output", "cat")
		return strings.Contains(out, "is served at "+url) && strings.Contains(out, `"path":"/MEDVImages/catalog.json"`)
	})
	m.must("systemctl", "stop", unit)
	if got := strings.TrimSpace(m.must("systemctl", "show", "--value", "--property=Result", unit)); got != "success" {
		t.Errorf("it ended with %s", got)
	}
	m.must("systemctl", "start", unit)
	m.must(m.exe, "list", "--images", url)
	if out := m.must(m.exe, "serve", "uninstall"); !strings.Contains(out, "is removed") {
		t.Errorf("uninstalling said: %s", out)
	}
	if _, err := m.try(m.exe, "list", "--images", url); err == nil {
		t.Error("it serves still")
	}
}

//go:build linux

package nettest

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestage/internal/testenv"
)

// Net is a network of machines. The administrator's end, where the program under
// test runs, is a network namespace too, so that networks of several tests never
// meet, nor the machine's own.
//
// All of it lives in namespaces of one process, its first one: when the test ends,
// in whatever way, that process ends, and with it every other one, the mounts
// and the links. Only Dir may be left, and the next test removes it.
type Net struct {
	Dir string // holds the files of the machines; everybody may pass through

	first *exec.Cmd
	in    io.Closer
	mu    sync.Mutex
	count int
}

// begin makes the administrator's end and waits for the end of the test. Cat is
// the first process of its namespace, so the kernel ends the others with it.
const begin = `
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs tmpfs /run
mkdir -m 755 /run/netns /run/sshd
ip link set lo up
ip link add br0 type bridge
ip addr add 10.77.0.1/24 dev br0
ip link set br0 up
echo ready
exec cat`

const dirPrefix = "prestage-net-"

// New makes a network without machines. It ends with the test.
func New(t testing.TB) *Net {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "ip", "tc", "nsenter", "mount", "iptables")
	removeLeftovers()
	// Not t.TempDir, which ordinary users cannot pass through.
	dir, err := os.MkdirTemp("", fmt.Sprintf("%s%d-", dirPrefix, os.Getpid()))
	must(t, err)
	must(t, os.Chmod(dir, 0o755))
	n := &Net{Dir: dir, first: exec.Command("sh", "-ec", begin)}
	n.first.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID}
	var trouble bytes.Buffer
	n.first.Stderr = &trouble
	n.in, err = n.first.StdinPipe()
	must(t, err)
	out, err := n.first.StdoutPipe()
	must(t, err)
	must(t, n.first.Start())
	t.Cleanup(func() {
		n.in.Close()
		n.first.Wait()
		must(t, os.RemoveAll(dir))
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("no network: %v\n%s", err, trouble.Bytes())
	}
	return n
}

// removeLeftovers removes the files of tests that were killed.
func removeLeftovers() {
	left, _ := filepath.Glob(filepath.Join(os.TempDir(), dirPrefix+"*"))
	for _, dir := range left {
		owner, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), dirPrefix), "-")
		if pid, err := strconv.Atoi(owner); err == nil && errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
			os.RemoveAll(dir)
		}
	}
}

// Command is a command of the administrator's, in his network; its files and its
// process are those of the test.
func (n *Net) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + n.proc("ns/net"), "--", name}, args...)...)
}

// inside is a command in all namespaces of the network.
func (n *Net) inside(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", strconv.Itoa(n.first.Process.Pid), "-m", "-p", "-n", "--"}, args...)...)
}

func (n *Net) proc(name string) string {
	return fmt.Sprintf("/proc/%d/%s", n.first.Process.Pid, name)
}

// Seen returns where the test sees a path of the machines, also on their small
// disks.
func (n *Net) Seen(path string) string { return n.proc("root") + path }

// Dial connects to an address of the network as the administrator does.
func (n *Net) Dial(address string, timeout time.Duration) (c net.Conn, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Never unlocked: the thread is in the wrong namespace and ends here.
		runtime.LockOSThread()
		var ns *os.File
		if ns, err = os.Open(n.proc("ns/net")); err != nil {
			return
		}
		defer ns.Close()
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			c, err = net.DialTimeout("tcp", address, timeout)
		}
	}()
	<-done
	return c, err
}

// Machine is a machine of a network.
type Machine struct {
	*Net
	Name    string
	Address string
	Home    string // the folder with its files
	port    string // of the bridge
}

// Add adds a machine. Its link is up, nothing runs on it.
func (n *Net) Add(t testing.TB, name string) *Machine {
	t.Helper()
	n.mu.Lock()
	n.count++
	m := &Machine{Net: n, Name: name, Address: fmt.Sprintf("10.77.0.%d", 100+n.count), Home: filepath.Join(n.Dir, name), port: fmt.Sprintf("port%d", n.count)}
	n.mu.Unlock()
	must(t, os.Mkdir(m.Home, 0o755))
	run(t, n.inside("sh", "-ec", `
		ip netns add "$1"
		ip link add "$2" type veth peer name eth0 netns "$1"
		ip link set "$2" master br0 up
		ip -n "$1" link set lo up
		ip -n "$1" addr add "$3/24" dev eth0
		ip -n "$1" link set eth0 up`, "sh", name, m.port, m.Address))
	return m
}

// Command is a command that runs on the machine.
func (m *Machine) Command(args ...string) *exec.Cmd {
	return m.inside(append([]string{"ip", "netns", "exec", m.Name}, args...)...)
}

// Path returns the path of a file of the machine.
func (m *Machine) Path(elem ...string) string {
	return filepath.Join(append([]string{m.Home}, elem...)...)
}

// SmallDisk puts a disk of so many bytes in the place of a folder. What is started
// on the machine before does not see it; the test sees it by Seen.
func (m *Machine) SmallDisk(t testing.TB, folder string, size int64) {
	t.Helper()
	run(t, m.inside("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=755", size), "tmpfs", folder))
}

// Unplug takes the machine off the network; Plug puts it back.
func (m *Machine) Unplug(t testing.TB) {
	t.Helper()
	run(t, m.inside("ip", "link", "set", m.port, "down"))
}

// Plug puts the machine on the network.
func (m *Machine) Plug(t testing.TB) { t.Helper(); run(t, m.inside("ip", "link", "set", m.port, "up")) }

// Cut makes every packet to and from the machine vanish, with no word to
// anybody, until Heal.
func (m *Machine) Cut(t testing.TB) { t.Helper(); m.drop(t) }

// Lose makes a part of all packets vanish, in both directions, until Heal.
func (m *Machine) Lose(t testing.TB, part float64) {
	t.Helper()
	m.drop(t, "-m", "statistic", "--mode", "random", "--probability", fmt.Sprint(part))
}

// Slow lets no more than so many bytes a second through to the machine.
func (m *Machine) Slow(t testing.TB, rate int) {
	t.Helper()
	run(t, m.inside("tc", "qdisc", "add", "dev", m.port, "root", "tbf", "rate", fmt.Sprint(8*rate), "burst", "32k", "latency", "400ms"))
}

// Connected reports whether the administrator has a connection to the machine that
// nobody has given up.
func (m *Machine) Connected(t testing.TB) bool {
	t.Helper()
	b, err := os.ReadFile(m.proc("net/tcp"))
	must(t, err)
	ip := net.ParseIP(m.Address).To4()
	for line := range strings.Lines(string(b)) {
		// The other end's address, as the processor keeps it, and the state.
		if f := strings.Fields(line); len(f) > 3 && strings.HasPrefix(f[2], fmt.Sprintf("%08X:", binary.NativeEndian.Uint32(ip))) && f[3] == "01" {
			return true
		}
	}
	return false
}

// drop drops what arrives at either end: what is dropped where it is sent is told
// to the sender.
func (m *Machine) drop(t testing.TB, which ...string) {
	t.Helper()
	run(t, m.Command(append([]string{"iptables", "-w", "-A", "INPUT", "!", "-i", "lo", "-j", "DROP"}, which...)...))
	run(t, m.inside(append([]string{"iptables", "-w", "-A", "INPUT", "-s", m.Address, "-j", "DROP"}, which...)...))
}

// Heal ends Cut and Lose.
func (m *Machine) Heal(t testing.TB) {
	t.Helper()
	run(t, m.Command("iptables", "-w", "-F", "INPUT"))
	run(t, m.inside("sh", "-ec", `iptables -w -S INPUT | sed -n "s|^-A \(.*-s $1/.*\)|\1|p" | while read -r rule; do iptables -w -D $rule; done`, "sh", m.Address))
}

// Processes returns the processes that run on the machine, as the test knows
// them.
func (m *Machine) Processes(t testing.TB) (pids []int) {
	t.Helper()
	ns, err := os.Stat(m.Seen("/run/netns/" + m.Name))
	must(t, err)
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	must(t, err)
	for _, p := range all {
		if st, err := os.Stat(p); err == nil && os.SameFile(ns, st) {
			pid, _ := strconv.Atoi(strings.Split(p, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

// Connections returns the processes that the machine's server has begun.
func (m *Machine) Connections(t testing.TB) (pids []int) {
	t.Helper()
	all := m.Processes(t)
	for _, pid := range all {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		_, after, _ := strings.Cut(string(b), ") ") // state, parent, …
		if f := strings.Fields(after); len(f) > 1 && slices.ContainsFunc(all, func(parent int) bool { return strconv.Itoa(parent) == f[1] }) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// Holding returns the processes of the machine that have a file open. Path is
// where the test sees it.
func (m *Machine) Holding(t testing.TB, path string) (pids []int) {
	t.Helper()
	file, err := os.Stat(path)
	if err != nil {
		return nil
	}
	for _, pid := range m.Processes(t) {
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		for _, fd := range fds {
			if st, err := os.Stat(fd); err == nil && os.SameFile(file, st) {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}

// Kill ends processes that Processes or Holding returned, at once, and waits until
// they have ended.
func (m *Machine) Kill(t testing.TB, pids []int) {
	t.Helper()
	for _, pid := range pids {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	m.wait(t, "killed processes end", func() bool { return !slices.ContainsFunc(pids, runs) })
}

// runs reports whether a process runs. One that has ended, but that nobody has
// asked how, does not. (A process leaves its namespaces before its sockets are
// closed, so Processes cannot tell.)
func runs(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, state, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(state, "Z") && !strings.HasPrefix(state, "X")
}

// Halt ends all that runs on the machine, at once.
func (m *Machine) Halt(t testing.TB) {
	t.Helper()
	for pids := m.Processes(t); len(pids) > 0; pids = m.Processes(t) {
		m.Kill(t, pids)
	}
}

// Serve starts a server on the machine and waits until it listens on a port. It
// ends by Halt, or with the test.
func (m *Machine) Serve(t testing.TB, port string, args ...string) {
	t.Helper()
	cmd := m.Command(args...)
	out, err := os.Create(m.Path("server.out"))
	must(t, err)
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	m.wait(t, args[0]+" listens", func() bool {
		c, err := m.Dial(net.JoinHostPort(m.Address, port), time.Second)
		if err == nil {
			c.Close()
			return true
		}
		select {
		case <-ended:
			b, _ := os.ReadFile(out.Name())
			t.Fatalf("%s: %v\n%s", args[0], cmd.ProcessState, b)
		default:
		}
		return false
	})
}

func (m *Machine) wait(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: waited in vain: %s", m.Name, what)
		}
	}
}

func run(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, out)
	}
	return string(out)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A lab is a network of its own with machines to push to: one namespace with the
// programs that are measured, one for the switch, one for each machine. Nothing of
// it has a name on this machine or outlives this program: a namespace lives as
// long as the processes in it, and the kernel ends those with us.
type lab struct {
	b     *bench
	dir   string
	admin *exec.Cmd // holds the namespace of the programs that are measured
	sw    *exec.Cmd // holds the switch
	all   []*exec.Cmd
	ports int
}

const (
	uplink  = "up0" // the measured programs' side of the link to the switch
	labNet  = "10.213"
	address = labNet + ".0.1"
	netmask = "/16"
)

// newLab makes the network. Rate, if not 0, is how many bits a second the link
// between programs and machines carries, each way.
func (b *bench) newLab(name string, rate int64) (l *lab, err error) {
	l = &lab{b: b, dir: b.path(name)}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	if err := os.Mkdir(l.dir, 0o755); err != nil {
		return nil, err
	}
	if l.admin, err = l.hold(); err != nil {
		return nil, err
	}
	if l.sw, err = l.hold(); err != nil {
		return nil, err
	}
	err = l.ips(l.admin, "link set lo up",
		"link add "+uplink+" type veth peer name "+uplink+" netns "+pid(l.sw),
		"addr add "+address+netmask+" dev "+uplink, "link set "+uplink+" up")
	if err == nil {
		err = l.ips(l.sw, "link add br0 type bridge", "link set br0 up", "link set "+uplink+" master br0", "link set "+uplink+" up")
	}
	if err != nil || rate == 0 {
		return l, err
	}
	// The burst lets a busy processor be late by some milliseconds without
	// wasting the link.
	shape := fmt.Sprintf("qdisc add dev %s root tbf rate %dbit burst 512k latency 100ms", uplink, rate)
	for _, side := range []*exec.Cmd{l.admin, l.sw} {
		if _, err := b.output(l.in(side, append([]string{b.tools["tc"]}, strings.Fields(shape)...)...)...); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// close ends all processes of the lab, and with them its namespaces.
func (l *lab) close() {
	for _, cmd := range l.all {
		cmd.Process.Kill()
		cmd.Wait()
	}
	os.RemoveAll(l.dir)
}

func pid(cmd *exec.Cmd) string { return strconv.Itoa(cmd.Process.Pid) }

// start starts a process in a network of its own, and a process tree of its own
// that ends with it. It waits for a line before it becomes argv, so that its
// network can be made ready.
func (l *lab) start(prepare string, argv ...string) (cmd *exec.Cmd, begin func() error, err error) {
	const script = "read -r _\nmount --make-rprivate /\nmount -t proc proc /proc\n"
	cmd = exec.Command("sh", append([]string{"-ec", script + prepare + "\nexec \"$@\"", "sh"}, argv...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
		Setpgid:    true, // smbd ends its whole group when it ends
	}
	log, err := os.Create(filepath.Join(l.dir, fmt.Sprintf("log.%d", len(l.all))))
	if err != nil {
		return nil, nil, err
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	l.all = append(l.all, cmd)
	return cmd, func() error {
		_, err := io.WriteString(in, "go\n")
		return err
	}, nil
}

// hold makes a namespace with a process that does nothing.
func (l *lab) hold() (*exec.Cmd, error) {
	cmd, begin, err := l.start("", "sleep", "infinity")
	if err == nil {
		err = begin()
	}
	return cmd, err
}

// in is a command line that runs in the network of a process.
func (l *lab) in(at *exec.Cmd, argv ...string) []string {
	return append([]string{l.b.tools["nsenter"], "--net=/proc/" + pid(at) + "/ns/net", "--"}, argv...)
}

// run is a command line of a program that is measured.
func (l *lab) run(argv ...string) []string { return l.in(l.admin, argv...) }

// ips runs commands of ip(8) in the network of a process.
func (l *lab) ips(at *exec.Cmd, commands ...string) error {
	for _, c := range commands {
		if _, err := l.b.output(l.in(at, append([]string{l.b.tools["ip"]}, strings.Fields(c)...)...)...); err != nil {
			return err
		}
	}
	return nil
}

// A server stands for a machine that packages are pushed to.
type server struct {
	dir     string // what is its own
	address string
	cmd     *exec.Cmd
}

// plug starts a server's program in a network of its own, connects that to the
// switch and waits until the program listens.
func (l *lab) plug(s *server, port, prepare string, argv ...string) error {
	l.ports++
	s.address = fmt.Sprintf("%s.1.%d", labNet, l.ports)
	cmd, begin, err := l.start(prepare, argv...)
	if err != nil {
		return err
	}
	s.cmd = cmd
	veth := fmt.Sprintf("v%d", l.ports)
	if err := l.ips(l.sw, "link add "+veth+" type veth peer name eth0 netns "+pid(cmd), "link set "+veth+" master br0", "link set "+veth+" up"); err != nil {
		return err
	}
	if err := l.ips(cmd, "link set lo up", "addr add "+s.address+netmask+" dev eth0", "link set eth0 up"); err != nil {
		return err
	}
	if err := begin(); err != nil {
		return err
	}
	return l.listens(s.address, port)
}

// listens waits until somebody listens.
func (l *lab) listens(address, port string) error {
	dial := l.run("bash", "-c", `exec 3<>"/dev/tcp/$0/$1"`, address, port)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		_, err := l.b.output(dial...)
		if err == nil || l.b.ctx.Err() != nil {
			return l.b.ctx.Err()
		}
		if time.Now().After(end) {
			return fmt.Errorf("nobody listens on %s: %w\n%s", net.JoinHostPort(address, port), err, l.logs())
		}
	}
}

// logs is the end of what the servers said.
func (l *lab) logs() string {
	var all bytes.Buffer
	files, _ := filepath.Glob(filepath.Join(l.dir, "log.*"))
	for _, f := range files {
		text, _ := os.ReadFile(f)
		all.Write(text[max(0, len(text)-500):])
	}
	return all.String()
}

// wire is how many bytes have gone to the machines and come from them.
func (l *lab) wire() (sent, received int64, err error) {
	out, err := l.b.output(l.run(l.b.tools["ip"], "-json", "-stats", "link", "show", "dev", uplink)...)
	if err != nil {
		return 0, 0, err
	}
	var links []struct {
		Stats struct{ RX, TX struct{ Bytes int64 } } `json:"stats64"`
	}
	if err := json.Unmarshal(out, &links); err != nil || len(links) != 1 {
		return 0, 0, fmt.Errorf("what ip says of %s: %q: %w", uplink, out, err)
	}
	return links[0].Stats.TX.Bytes, links[0].Stats.RX.Bytes, nil
}

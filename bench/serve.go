//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// What the image server is measured with.
const (
	loadClients    = 16        // connections at once
	slowMemory     = 256 * mib // that the server may take for them
	serveBudget    = 1 / 0.9   // nine tenths of the other's rate
	serveAgainst   = "nginx"
	fileDescriptor = 20_000
)

var loads = []struct {
	name string
	size int
}{{"64 KiB", 64 << 10}, {"1 MiB", mib}, {"16 MiB", 16 * mib}}

// served is a server that is measured.
type served struct {
	name, addr, path string
	cmd              *exec.Cmd
}

// cpu is what the server's processes have used so far.
func (s *served) cpu() time.Duration {
	pids := []string{strconv.Itoa(s.cmd.Process.Pid)}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%s/task/%[1]s/children", pids[0]))
	var ticks int64
	for _, pid := range append(pids, strings.Fields(string(children))...) {
		b, err := os.ReadFile("/proc/" + pid + "/stat")
		if err != nil {
			continue
		}
		f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		user, _ := strconv.ParseInt(f[11], 10, 64)
		system, _ := strconv.ParseInt(f[12], 10, 64)
		ticks += user + system
	}
	return time.Duration(ticks) * time.Second / 100
}

// peak is the most memory that the server has had resident, in bytes.
func (s *served) peak() (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(b)
	if m == nil {
		return 0, errors.New("the system does not say how much memory was used")
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	return n << 10, err
}

// serving measures the image server against another web server on the same files,
// over loopback.
func (b *bench) serving() ([]row, error) {
	nginx := lookPath("nginx")
	if nginx == "" {
		return []row{{work: "serve", against: serveAgainst, budget: serveBudget, missing: "not measured: nginx is missing"}}, nil
	}
	if _, err := b.output(b.our("serve", "--help")...); err != nil {
		return []row{{work: "serve", against: serveAgainst, budget: serveBudget, missing: "not measured: this program is no server"}}, nil
	}
	// Both servers and the clients need a descriptor for each connection.
	limit := syscall.Rlimit{Cur: fileDescriptor, Max: fileDescriptor}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return nil, fmt.Errorf("more open files are needed than this user may have: %w", err)
	}
	images, err := b.random(b.scale.served)
	if err != nil {
		return nil, err
	}
	file, err := os.ReadFile(filepath.Join(images, ckmFile))
	if err != nil {
		return nil, err
	}
	ours, err := b.ourServer(images)
	if err != nil {
		return nil, err
	}
	defer ours.stop()
	theirs, err := b.nginx(nginx, images, "off")
	if err != nil {
		return nil, err
	}
	defer theirs.stop()
	var rows []row
	for _, l := range loads {
		r, err := b.compare(l.name, load{file: file, size: l.size, requests: int(max(b.scale.load/int64(l.size), 1)), connections: loadClients}, ours, theirs)
		if err != nil {
			return nil, err
		}
		rows = append(rows, r)
	}
	r, err := b.dawdle(images)
	return append(rows, r), err
}

// compare lets both servers answer the same requests, in turns.
func (b *bench) compare(name string, l load, sides ...*served) (row, error) {
	all := make([]samples, len(sides))
	for round := range b.rounds + 1 { // the first is for warming up
		for i, s := range sides {
			l.addr, l.path = s.addr, s.path
			before := s.cpu()
			took, err := l.run(b.ctx)
			if err != nil {
				return row{}, err
			}
			if round > 0 {
				all[i] = append(all[i], sample{wall: took, cpu: s.cpu() - before})
				b.say("ranges of %s, round %d of %d: %s: %s", name, round, b.rounds, s.name, l.rate(took))
			}
		}
	}
	r := timeRow("serve, ranges of "+name, serveAgainst, serveBudget, all[0], all[1])
	r.absolute = l.rate(all[0].wall()) + " / " + l.rate(all[1].wall())
	return r, nil
}

func (l load) rate(took time.Duration) string {
	each := float64(l.requests) / took.Seconds()
	return fmt.Sprintf("%.0f/s, %.0f MiB/s", each, each*float64(l.size)/mib)
}

// dawdle measures the memory of a server with very many slow clients.
func (b *bench) dawdle(images string) (row, error) {
	s, err := b.ourServer(images)
	if err != nil {
		return row{}, err
	}
	defer s.stop()
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- dawdlers(ctx, s.addr, s.path, b.scale.slow, ready) }()
	select {
	case err := <-done:
		return row{}, err
	case <-ready:
	}
	time.Sleep(10 * time.Second) // they take their time
	rss, err := s.peak()
	cancel()
	if err := errors.Join(err, <-done); err != nil {
		return row{}, err
	}
	return byteRow(fmt.Sprintf("serve, %d slow clients, peak memory", b.scale.slow), fmt.Sprintf("%d MiB", slowMemory/mib), 1, rss, slowMemory), nil
}

var servedAt = regexp.MustCompile(`is served at http://([^/]+)/`)

// ourServer starts "prestage serve".
func (b *bench) ourServer(images string) (*served, error) {
	s := &served{name: "prestage serve", path: "/MEDVImages/" + ckmFile,
		cmd: b.command([]string{b.prestage, "--config", b.path("prestage.toml"), "serve", "--images", images, "--listen", "127.0.0.1:0"})}
	said, err := os.Create(b.path("serve.log"))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	s.cmd.Stderr = said
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 1000 {
		time.Sleep(10 * time.Millisecond)
		text, err := os.ReadFile(said.Name())
		if err != nil {
			return nil, err
		}
		if m := servedAt.FindSubmatch(text); m != nil {
			s.addr = string(m[1])
			return s, nil
		}
	}
	s.stop()
	return nil, errors.New("prestage serve does not say where it listens")
}

// nginx starts nginx as its documentation has it for static files. What it sends is
// added to a log, in bytes of each answer, unless that is off.
func (b *bench) nginx(program, images, log string) (*served, error) {
	dir := b.path("nginx")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &served{name: "nginx", addr: l.Addr().String(), path: "/" + ckmFile}
	l.Close()
	user := ""
	if os.Geteuid() == 0 {
		user = "user root;\n" // it must be able to read what root has packed
	}
	conf := fmt.Sprintf(`%sdaemon off;
worker_processes auto;
pid %s/pid;
error_log %[2]s/error.log;
events { worker_connections 4096; }
http {
  log_format sent $body_bytes_sent;
  access_log %[5]s%[6]s;
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  server { listen %[3]s; root %[4]s; }
}
`, user, dir, s.addr, images, log, map[bool]string{true: "", false: " sent"}[log == "off"])
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	s.cmd = b.command([]string{program, "-p", dir, "-c", path})
	s.cmd.Stderr = io.Discard
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for range 1000 {
		if c, err := net.Dial("tcp", s.addr); err == nil {
			c.Close()
			return s, nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	s.stop()
	said, _ := os.ReadFile(filepath.Join(dir, "error.log"))
	return nil, fmt.Errorf("nginx does not answer: %s", said)
}

func (s *served) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	s.cmd.Wait()
}

// serveFacts says what the table is about.
func (b *bench) serveFacts() string {
	return fmt.Sprintf("Machine: %s, which is both sides. Versions: %s, nginx %s. Numbers: %s.\n%d connections at once, which stay open, ask for ranges of a CKM of %d MiB that lies in the page cache. The clients are on the same machine, and cost both servers the same.\n",
		machine(), b.firstLine(b.prestage, "version"), b.firstLine("sh", "-c", "PATH=$PATH:/usr/sbin nginx -v 2>&1 | sed 's/.*nginx.//'"), b.howOften(), loadClients, b.scale.served/mib)
}

//go:build linux

// Command events measures how many reports of machines a server takes: it starts
// "prestage serve --events" in a process of its own, and has many machines report to
// it over HTTP, each over a connection of its own as far as there are files for
// them. It prints what was taken, how long that took each time, and what memory the
// server had. With -rate it reports at a rate, as machines do that ask every 15
// minutes; without, as fast as the server answers.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"prestage/internal/event"
)

// options is what a run is told.
type options struct {
	prestage string
	where    string
	machines int
	workers  int
	events   int           // of each report
	every    int           // one of so many reports has events
	rate     float64       // reports a second; 0: as many as go
	last     time.Duration // how long
	anew     bool          // a connection for each report
}

func main() {
	var o options
	flag.StringVar(&o.prestage, "prestage", "bin/prestage", "prestage binary")
	flag.StringVar(&o.where, "events", "", "database; a new file if empty")
	flag.IntVar(&o.machines, "machines", 100_000, "how many machines")
	flag.IntVar(&o.workers, "at-once", 256, "how many report at once")
	flag.IntVar(&o.events, "size", 1, "events of 200 bytes in a report that has any")
	flag.IntVar(&o.every, "every", 5, "one of so many reports has events")
	flag.Float64Var(&o.rate, "rate", 0, "reports a second; 0 is as many as the server takes")
	flag.DurationVar(&o.last, "for", 30*time.Second, "how long")
	flag.BoolVar(&o.anew, "new-connections", false, "connect anew for each report, as machines do that come every 15 minutes")
	flag.Parse()
	if err := run(o); err != nil {
		fmt.Fprintln(os.Stderr, "events:", err)
		os.Exit(1)
	}
}

func run(o options) (err error) {
	dir, err := os.MkdirTemp("", "events")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if o.where == "" {
		o.where = filepath.Join(dir, "events.db")
	}
	s, err := serve(o, dir)
	if err != nil {
		return err
	}
	defer s.end()
	l := &load{options: o, url: s.url + event.Path, numbers: make([]atomic.Uint64, o.machines)}
	l.run()
	memory, peak, cpu := s.usage()
	l.print(os.Stdout, memory, peak, cpu)
	if st, err := os.Stat(o.where); err == nil {
		fmt.Printf("database   %.1f MiB\n", float64(st.Size())/(1<<20))
	}
	return nil
}

// server is the server that is measured.
type server struct {
	cmd *exec.Cmd
	url string
}

var servedAt = regexp.MustCompile(`is served at (http://\S+)`)

func serve(o options, dir string) (*server, error) {
	images := filepath.Join(dir, "images")
	if err := os.Mkdir(images, 0o755); err != nil {
		return nil, err
	}
	s := &server{cmd: exec.Command(o.prestage, "serve", "--listen", "127.0.0.1:0", "--images", images, "--events", o.where, "--connections-each", "0")}
	said, err := s.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	for lines := bufio.NewScanner(said); lines.Scan(); {
		if m := servedAt.FindStringSubmatch(lines.Text()); m != nil {
			s.url = m[1]
			go io.Copy(os.Stderr, said)
			return s, nil
		}
		fmt.Fprintln(os.Stderr, lines.Text())
	}
	s.cmd.Wait()
	return nil, errors.New("the server has ended")
}

func (s *server) end() {
	s.cmd.Process.Signal(os.Interrupt)
	s.cmd.Wait()
}

// usage returns the server's memory and its highest, in MiB, and its processor time.
func (s *server) usage() (now, peak float64, cpu time.Duration) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.cmd.Process.Pid))
	value := func(name string) float64 {
		for line := range strings.Lines(string(b)) {
			if f := strings.Fields(line); len(f) > 1 && f[0] == name+":" {
				n, _ := strconv.ParseFloat(f[1], 64)
				return n / 1024
			}
		}
		return 0
	}
	b2, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.cmd.Process.Pid))
	if _, rest, ok := bytes.Cut(b2, []byte(") ")); ok {
		if f := strings.Fields(string(rest)); len(f) > 12 {
			user, _ := strconv.Atoi(f[11])
			system, _ := strconv.Atoi(f[12])
			cpu = time.Duration(user+system) * 10 * time.Millisecond
		}
	}
	return value("VmRSS"), value("VmHWM"), cpu
}

// load is the machines.
type load struct {
	options
	url     string
	numbers []atomic.Uint64 // of each machine's last event

	mu     sync.Mutex
	took   []time.Duration
	events int
	failed map[string]int
	begun  time.Time
	end    time.Duration
}

func (l *load) run() {
	l.failed = map[string]int{}
	transport := &http.Transport{MaxIdleConnsPerHost: l.workers, DisableKeepAlives: l.anew,
		DialContext: (&net.Dialer{Timeout: 30 * time.Second}).DialContext}
	client := &http.Client{Transport: transport, Timeout: time.Minute}
	ctx, cancel := context.WithTimeout(context.Background(), l.last)
	defer cancel()
	turns := make(chan int, l.workers)
	l.begun = time.Now()
	go func() {
		defer close(turns)
		for n := 0; ctx.Err() == nil; n++ {
			if l.rate > 0 {
				// When its time has come; who is late does not make the next ones wait.
				time.Sleep(time.Until(l.begun.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))))
			}
			turns <- n
		}
	}()
	var wg sync.WaitGroup
	for range l.workers {
		wg.Go(func() {
			for n := range turns {
				l.report(client, n)
			}
		})
	}
	wg.Wait()
	l.end = time.Since(l.begun)
}

// report sends the n-th report. Machines take turns; those of a round hold other
// versions than in the round before now and then.
func (l *load) report(client *http.Client, n int) {
	i := n % l.machines
	now := time.Now()
	name := fmt.Sprintf("PC-%06d", i)
	r := &event.Report{Machine: "M7QK3V5ZJ2W4Y6T8R0" + name, Host: name, User: "user" + strconv.Itoa(i), Client: "1.4.0", System: "windows/amd64", Time: now,
		Held: []event.Held{{Image: "win11", Version: 3, Digest: strings.Repeat("0f", 32), Time: now.Truncate(24 * time.Hour)}}}
	if rand.IntN(l.every) == 0 {
		for range l.options.events {
			r.Events = append(r.Events, event.Event{Number: l.numbers[i].Add(1), Time: now, Kind: 12, Severity: event.Information, Category: "update",
				Description: strings.Repeat("what has happened ", 9), Image: "win11", Version: 3})
		}
	}
	body, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	begun := time.Now()
	resp, err := client.Post(l.url, "application/json", bytes.NewReader(body))
	took := time.Since(begun)
	what := ""
	if err == nil {
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			what = resp.Status
		}
	}
	if err != nil {
		what = err.Error()
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if what != "" {
		l.failed[what]++
		return
	}
	l.took = append(l.took, took)
	l.events += len(r.Events)
}

func (l *load) print(to io.Writer, memory, peak float64, cpu time.Duration) {
	slices.Sort(l.took)
	at := func(part float64) time.Duration {
		if len(l.took) == 0 {
			return 0
		}
		return l.took[min(int(part*float64(len(l.took))), len(l.took)-1)].Round(100 * time.Microsecond)
	}
	seconds := l.end.Seconds()
	fmt.Fprintf(to, "machines   %d, %d at once\n", l.machines, l.workers)
	fmt.Fprintf(to, "taken      %d reports with %d events in %.1f s: %.0f reports/s, %.0f events/s\n", len(l.took), l.events, seconds, float64(len(l.took))/seconds, float64(l.events)/seconds)
	fmt.Fprintf(to, "each took  %v half of them, %v 99 %%, %v at most\n", at(0.5), at(0.99), at(1))
	fmt.Fprintf(to, "server     %.0f MiB, %.0f MiB at most; %.1f s of processor time, %.2f ms a report\n", memory, peak, cpu.Seconds(), 1000*cpu.Seconds()/float64(max(len(l.took), 1)))
	for what, n := range l.failed {
		fmt.Fprintf(to, "failed     %d: %s\n", n, what)
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"prestage/internal/event"
	"prestage/internal/ledger"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// eventServer is a server in a process of its own that takes events.
type eventServer struct {
	t    *testing.T
	cmd  *exec.Cmd
	log  string
	url  string
	args []string
}

// eventsAt starts a server that keeps events at where.
func eventsAt(t *testing.T, where string) *eventServer {
	t.Helper()
	s := &eventServer{t: t, log: filepath.Join(t.TempDir(), "log"),
		args: []string{"serve", "--listen", "127.0.0.1:0", "--images", t.TempDir(), "--events", where}}
	s.start()
	t.Cleanup(func() { s.kill() })
	return s
}

func (s *eventServer) start() {
	s.t.Helper()
	said, err := os.Create(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	defer said.Close()
	s.cmd = exec.Command("prestage", s.args...)
	s.cmd.Stderr = said
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	until(s.t, "the server listens", func() bool {
		m := servedAt.FindStringSubmatch(s.said())
		if m != nil {
			s.url = m[1]
		}
		return m != nil
	})
}

func (s *eventServer) said() string {
	b, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(b)
}

func (s *eventServer) kill() {
	s.cmd.Process.Kill()
	s.cmd.Wait()
}

func (s *eventServer) web() *repo.Web {
	s.t.Helper()
	u, err := url.Parse(s.url)
	if err != nil {
		s.t.Fatal(err)
	}
	w, err := repo.NewWeb(u)
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

// tellers are machines that report as fast as they can, each one event after the other,
// and remember what was acknowledged.
type tellers struct {
	mu    sync.Mutex
	acked map[string]uint64
	wg    sync.WaitGroup
	end   context.CancelFunc
}

func (s *eventServer) load(machines, size int) *tellers {
	ctx, end := context.WithCancel(s.t.Context())
	f := &tellers{acked: map[string]uint64{}, end: end}
	for i := range machines {
		name := fmt.Sprint("machine", i)
		w := s.web()
		f.wg.Go(func() {
			for n := uint64(1); ctx.Err() == nil; n++ {
				now := time.Now()
				r := &event.Report{Machine: name, Host: name, Client: "1", System: "x", Time: now, Held: []event.Held{{Image: "win11", Version: uint32(n), Time: now}},
					Events: []event.Event{{Number: n, Time: now, Kind: 1, Severity: event.Warning, Category: "c", Description: strings.Repeat("x", size)}}}
				if _, err := w.Report(context.WithoutCancel(ctx), r); err != nil {
					n--
					time.Sleep(5 * time.Millisecond)
					continue
				}
				f.mu.Lock()
				f.acked[name] = n
				f.mu.Unlock()
			}
		})
	}
	return f
}

func (f *tellers) count() (n uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, k := range f.acked {
		n += k
	}
	return n
}

func (f *tellers) stop() {
	f.end()
	f.wg.Wait()
}

// check checks that everything that was acknowledged is there, once.
func (f *tellers) check(t *testing.T, where string) {
	t.Helper()
	l, err := ledger.OpenToRead(t.Context(), where)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	have := map[string]map[uint64]bool{}
	for e, err := range l.Activity(t.Context(), ledger.Filter{}) {
		if err != nil {
			t.Fatal(err)
		}
		if have[e.Machine] == nil {
			have[e.Machine] = map[uint64]bool{}
		}
		have[e.Machine][e.Number] = true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for name, last := range f.acked {
		for n := uint64(1); n <= last; n++ {
			if !have[name][n] {
				t.Fatalf("event %d of %s was acknowledged, as were all up to %d, and is lost", n, name, last)
			}
		}
		if extra := len(have[name]) - int(last); extra < 0 || extra > 1 {
			t.Errorf("%s has %d events, and %d were acknowledged", name, len(have[name]), last)
		}
	}
	t.Logf("%d machines, all their events are there", len(f.acked))
}

// A server that is killed while machines report has kept what it acknowledged.
func TestKillServerUnderLoad(t *testing.T) {
	where := filepath.Join(t.TempDir(), "events.db")
	s := eventsAt(t, where)
	f := s.load(16, 200)
	for range 4 {
		before := f.count()
		until(t, "events are taken", func() bool { return f.count() > before+200 })
		s.kill()
		f.check(t, where)
		s.args[2] = strings.TrimSuffix(strings.TrimPrefix(s.url, "http://"), "/MEDVImages/") // the same address
		s.start()
	}
	f.stop()
	f.check(t, where)
}

// A server that is told to end acknowledges nothing that it has not kept.
func TestStopServerUnderLoad(t *testing.T) {
	where := filepath.Join(t.TempDir(), "events.db")
	s := eventsAt(t, where)
	f := s.load(8, 200)
	until(t, "events are taken", func() bool { return f.count() > 100 })
	s.cmd.Process.Signal(syscall.SIGTERM)
	f.end()
	if err := s.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, s.said())
	}
	f.wg.Wait()
	f.check(t, where)
}

// On a full disk nothing is acknowledged, packages are served, and it goes on when
// there is room.
func TestEventsOnAFullDisk(t *testing.T) {
	testenv.NeedRoot(t)
	dir := filepath.Join(t.TempDir(), "disk")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=3m,mode=755"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	where := filepath.Join(dir, "events.db")
	s := eventsAt(t, where)
	f := s.load(4, 1000)
	until(t, "the disk is full", func() bool { return strings.Contains(s.said(), "make room") })
	before := f.count()
	w := s.web()
	if _, err := w.Report(t.Context(), &event.Report{Machine: "one more", Host: strings.Repeat("h", 200), Time: time.Now()}); err != nil && !errors.Is(err, repo.ErrUnavailable) {
		t.Error(err)
	}
	if _, err := w.List(t.Context()); err != nil {
		t.Errorf("packages: %v", err)
	}
	// Said when it begins, not for each report: a small one may find room in between.
	said := s.said()
	if n := strings.Count(said, "make room") - strings.Count(said, "taken again"); n != 0 && n != 1 {
		t.Errorf("it says:\n%s", said)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	until(t, "events are taken again", func() bool { return f.count() > before+20 })
	f.stop()
	s.kill()
	f.check(t, where)
}

//go:build linux

package crashtest

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// interrupt sends a signal and checks that the program ends as it should.
func (p *process) interrupt(sig os.Signal) {
	t := p.w.t
	t.Helper()
	p.cmd.Process.Signal(sig)
	start := time.Now()
	p.resume()
	r := p.wait()
	if took := time.Since(start); took > 15*time.Second {
		t.Errorf("%v went on for %v", p.cmd.Args[1:], took)
	}
	r.check(t, 1, []string{"interrupted; run the same command again to go on"}, p.cmd.Args[1:]...)
	if strings.Count(r.err, "prestage: ")-strings.Count(r.err, "warning: ") != 1 {
		t.Errorf("%v says more than it should: %v", p.cmd.Args[1:], r)
	}
	if err := p.w.checkAll(); err != nil {
		t.Error(err)
	}
}

// unfinishedHas waits until the unfinished files of the world take up so much.
func (p *process) unfinishedHas(size int64) {
	t := p.w.t
	t.Helper()
	eventually(t, "writing", func() bool {
		select {
		case <-p.ended:
			t.Fatalf("%v has ended: %v", p.cmd.Args[1:], p.wait())
		default:
		}
		var sum int64
		for _, path := range p.w.leftovers() {
			filepath.Walk(path, func(_ string, st os.FileInfo, err error) error {
				if err == nil && st.Mode().IsRegular() {
					sum += st.Sys().(*syscall.Stat_t).Blocks * 512
				}
				return nil
			})
		}
		return sum >= size
	})
}

func TestInterruptPack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	args := []string{"pack", diskImage(t, 1, 2*large), "--name", "vm", "--level", "best"}
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		p := w.start(args...)
		p.unfinishedHas(1 << 20)
		p.pause()
		p.interrupt(sig)
		w.finished() // what is half packed is of no use
	}
	w.must(args...)
	if err := w.checkPackage("vm", 1); err != nil {
		t.Error(err)
	}
}

func TestInterruptPushAndInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, large), "--name", "vm")
	w.must("setup", w.parent)

	p := w.start("push", "vm", "--limit", "2MiB")
	p.unfinishedHas(2 << 20)
	p.interrupt(os.Interrupt)
	var pushed []struct{ Moved, Size int64 }
	if r := w.must("push", "vm", "--json"); json.Unmarshal([]byte(r.out), &pushed) != nil || len(pushed) != 1 {
		t.Fatal(r)
	}
	if pushed[0].Moved == 0 || pushed[0].Moved > pushed[0].Size-1<<20 {
		t.Errorf("of %d bytes, %d were moved after 2 MiB were there", pushed[0].Size, pushed[0].Moved)
	}

	w.must("remove", "vm:1", "--staged") // what is on the machine is not held back by a limit
	p = w.start("install", "vm", "--limit", "2MiB")
	p.unfinishedHas(2 << 20)
	p.interrupt(os.Interrupt)
	var installed struct{ Sources []struct{ Bytes int64 } }
	if r := w.must("install", "vm", "--json"); json.Unmarshal([]byte(r.out), &installed) != nil || len(installed.Sources) != 1 {
		t.Fatal(r)
	}
	if n := installed.Sources[0].Bytes; n == 0 || n > pushed[0].Size-1<<20 {
		t.Errorf("of %d bytes, %d were read after 2 MiB were there", pushed[0].Size, n)
	}
	w.finished()
	if err := w.checkAll(); err != nil {
		t.Error(err)
	}
}

// TestInterruptWaiting interrupts what waits for somebody else: for a lock, for
// a server that has stopped to answer.
func TestInterruptWaiting(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	w.must("setup", w.parent)

	lock, err := os.OpenFile(filepath.Join(w.staged, ".prestage", "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	opened := os.NewFile(uintptr(watch), "inotify")
	defer opened.Close()
	if _, err := unix.InotifyAddWatch(watch, lock.Name(), unix.IN_OPEN); err != nil {
		t.Fatal(err)
	}
	opened.SetReadDeadline(time.Now().Add(time.Minute))
	p := w.start("push", "vm")
	if _, err := opened.Read(make([]byte, unix.SizeofInotifyEvent)); err != nil {
		t.Fatalf("it does not try to lock: %v", err)
	}
	p.interrupt(os.Interrupt)
	lock.Close()

	asked, files := make(chan struct{}, 100), http.StripPrefix("/MEDVImages/", http.FileServer(http.Dir(w.images)))
	server := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".ckm") {
			asked <- struct{}{}
			<-r.Context().Done()
			return
		}
		files.ServeHTTP(rw, r)
	}))
	defer server.Close()
	for _, verb := range []string{"push", "install"} {
		p = w.start(verb, "vm", "--images", server.URL+"/MEDVImages/")
		select {
		case <-asked:
		case <-p.ended:
			t.Fatal(p.wait())
		}
		time.Sleep(100 * time.Millisecond)
		p.interrupt(os.Interrupt)
	}
	w.must("push", "vm")
	w.must("install", "vm", "--offline")
	w.finished()
}

// TestFullOutput: who reads a list must not take a part of it for the whole.
func TestFullOutput(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	for _, args := range [][]string{{"list"}, {"list", "--json"}, {"inspect", "vm"}, {"verify", w.images}, {"version"}} {
		cmd := w.command(args...)
		cmd.Stdout = full
		if err := cmd.Run(); err == nil {
			t.Errorf("%v into a full disk succeeds", args)
		}
	}
}

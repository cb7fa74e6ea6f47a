//go:build linux

package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// TestMain lets this program be the relay, too.
func TestMain(m *testing.M) {
	if len(os.Args) == 5 && os.Args[1] == relayVerb {
		panic(relay(os.Args[2:]))
	}
	m.Run()
}

// The real program pushes to real servers in the lab, all of it very small. What
// the numbers are is not the point; that there are numbers is, and that nothing
// of the lab is left.
func TestPush(t *testing.T) {
	testenv.NeedTime(t)
	testenv.NeedRoot(t)
	testenv.Need(t, pushTools...)
	dir := t.TempDir()
	o := options{
		image: filepath.Join(dir, "image.raw"), work: filepath.Join(dir, "work"), rounds: 1, only: partPush,
		doc: filepath.Join(dir, "doc.md"), template: "performance.md", prestage: filepath.Join(dir, "prestage"),
		tools: findTools(), scale: scale{hosts: 2, rate: 200e6, each: mib, many: 3, small: mib, away: 2 * time.Millisecond},
		out: t.Output(), log: t.Output(),
	}
	if out, err := exec.Command("go", "build", "-o", o.prestage, "../cmd/prestage").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.WriteFile(o.image, testenv.Random(1, 3*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(o.work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(o.doc)
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(string(raw)), " ")
	for _, want := range []string{
		", over SMB | smbclient put | ≤ 1.11 | ", ", over SMB, sent | bytes of the package | – | 1.0", ", over SSH | sftp put | ≤ 1.11 | ",
		", over SMB, 2ms away | smbclient put | ≤ 1.11 | ",
		", 2 hosts at 200 Mbit/s | the link, one way | ≤ 1.11 | ", "| peak memory, simulated hosts: 3, 3 at once |", "Samba 4.", "OpenSSH_",
	} {
		if !strings.Contains(doc, want) {
			t.Errorf("the document lacks %q:\n%s", want, raw)
		}
	}
	if strings.Contains(doc, "not measured") {
		t.Errorf("something was not measured:\n%s", raw)
	}
	if left, err := filepath.Glob("/proc/[0-9]*/cmdline"); err != nil || len(left) == 0 {
		t.Fatalf("processes: %v, %v", left, err)
	} else {
		for _, file := range append(left, "/proc/mounts") {
			if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), o.work) {
				t.Errorf("of the lab is left: %s: %s", file, text)
			}
		}
	}
}

// The relay takes its time, each way, for whatever many bytes at once, and loses
// none.
func TestRelayDelays(t *testing.T) {
	const delay = 200 * time.Millisecond
	near, far := net.Pipe()
	var got bytes.Buffer
	go func() {
		for range 40 {
			far.Write(testenv.Random(1, 100<<10))
		}
		far.Close()
	}()
	begun := time.Now()
	delayed(nopCloser{&got}, near, delay)
	if took := time.Since(begun); took < delay || took > 10*delay {
		t.Errorf("it took %v for a delay of %v", took, delay)
	}
	if want := bytes.Repeat(testenv.Random(1, 100<<10), 40); !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes arrived, other than the %d that were sent", got.Len(), len(want))
	}
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// What is shaped is as fast as it was shaped, or the rows of the link mean
// nothing: smbclient takes at least as long as the link does, but not half as
// long again.
func TestLinkIsShaped(t *testing.T) {
	testenv.NeedTime(t)
	testenv.NeedRoot(t)
	testenv.Need(t, pushTools...)
	b := &bench{ctx: t.Context(), options: options{work: t.TempDir(), tools: findTools()}}
	const rate, size = 4e6, 4 * mib // slow, so that the link counts and not the machine
	l, err := b.newLab("lab", rate)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	s, err := l.samba("c")
	if err != nil {
		t.Fatal(err)
	}
	login, err := l.smbSettings()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(l.dir, "file")
	if err := os.WriteFile(file, testenv.Random(1, size), 0o644); err != nil {
		t.Fatal(err)
	}
	before, _, err := l.wire()
	if err != nil {
		t.Fatal(err)
	}
	x, err := b.timed(l.run(append([]string{b.tools["smbclient"], "//" + s.address + "/c$", "-c", "put " + file + " file"}, login...)...))
	if err != nil {
		t.Fatal(err)
	}
	after, _, err := l.wire()
	if err != nil {
		t.Fatal(err)
	}
	if least := size * 8 / rate; x.wall.Seconds() < 0.9*least || x.wall.Seconds() > 1.5*least {
		t.Errorf("%d bytes took %v, at %.0f Mbit/s that should be %.2f s", size, x.wall, rate/1e6, least)
	}
	if sent := after - before; sent < size || sent > size*115/100 {
		t.Errorf("%d bytes went over the wire for a file of %d", sent, size)
	}
}

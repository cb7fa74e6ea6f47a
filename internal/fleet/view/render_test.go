package view

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mattn/go-runewidth"

	"prestage/internal/fleet"
)

var update = flag.Bool("update", false, "write the golden files anew")

// The width of some characters depends on the language of the terminal.
func TestMain(m *testing.M) {
	runewidth.DefaultCondition.EastAsianWidth = false
	os.Exit(m.Run())
}

const mib = 1 << 20

// played is a run that a test tells a table of.
type played struct {
	*table
	now time.Time
}

func play(images []string, names ...string) *played {
	var machines []fleet.Machine
	for _, n := range names {
		machines = append(machines, fleet.Machine{Name: n})
	}
	p := &played{newTable(machines, images), time.Date(2026, 5, 4, 14, 0, 0, 0, time.Local)}
	p.settle(1000)
	return p
}

func numbered(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("pc-%03d", i+1))
	}
	return names
}

func (p *played) begin(indexes ...int) {
	for _, i := range indexes {
		p.event(&fleet.Event{Kind: fleet.EventBegun, Index: i, Machine: fleet.Machine{Name: numbered(i + 1)[i]}})
	}
}

func (p *played) at(i int, step, image string, done, total int64) {
	p.event(&fleet.Event{Kind: fleet.EventProgress, Index: i, Progress: fleet.Progress{Step: step, Image: image, Done: done, Total: total}})
}

func (p *played) end(s fleet.State, indexes ...int) {
	for _, i := range indexes {
		p.event(&fleet.Event{Kind: fleet.EventEnded, Index: i, Result: &fleet.Result{State: s}})
	}
}

func (p *played) postpone(i int, after time.Duration) {
	p.event(&fleet.Event{Kind: fleet.EventPostponed, Index: i, At: p.now.Add(after), Err: errors.New("it is off")})
}

// copy lets machines copy at so many bytes a second from byte from on, for so
// many seconds.
func (p *played) copy(step, image string, perSecond, from, total int64, seconds int, indexes ...int) {
	for s := range seconds + 1 {
		for _, i := range indexes {
			p.at(i, step, image, min(from+int64(s)*perSecond, total), total)
		}
		p.sample(p.now)
		p.now = p.now.Add(time.Second)
	}
}

// golden compares tables in several sizes with a file that is to be read.
func golden(t *testing.T, name string, p *played, sizes ...[2]int) {
	t.Helper()
	var b strings.Builder
	for _, size := range sizes {
		p.settle(room(size[1], p.working()))
		fmt.Fprintf(&b, "-- %d x %d --\n", size[0], size[1])
		lines := p.render(size[0], size[1], p.now)
		if len(lines) > size[1] {
			t.Errorf("%d lines in %d", len(lines), size[1])
		}
		for _, l := range lines {
			if w := runewidth.StringWidth(l); w > size[0] {
				t.Errorf("%q has %d columns, %d are there", l, w, size[0])
			}
			b.WriteString(l + "\n")
		}
	}
	file := filepath.Join("testdata", name+".txt")
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || strings.ReplaceAll(string(want), "\r\n", "\n") != b.String() {
		t.Errorf("%s is not (%v)\n%s", file, err, b.String())
	}
}

var sizes = [][2]int{{119, 29}, {99, 29}, {79, 23}, {79, 6}, {59, 6}, {39, 6}, {29, 4}, {11, 3}, {1, 1}}

func TestRender(t *testing.T) {
	images := []string{"win11:1"}
	t.Run("start", func(t *testing.T) {
		p := play(images, numbered(40)...)
		p.begin(0, 1, 2)
		p.at(0, "connect", "", 0, 0)
		p.at(1, "set up", "", 0, 0)
		golden(t, "start", p, [][2]int{{79, 23}, {79, 4}}...)
	})
	t.Run("middle", func(t *testing.T) {
		p := play(images, numbered(40)...)
		p.begin(0, 1, 2, 3, 4, 5, 6, 7, 8)
		p.copy(stepCopy, "win11:1", 12*mib, 0, 1000*mib, 20, 0, 1, 2, 3, 4)
		p.copy(stepBack, "win11:1", 80*mib, 0, 1000*mib, 5, 0)
		p.end(fleet.Failed, 5)
		p.end(fleet.Already, 6, 7)
		p.postpone(8, 10*time.Second)
		p.begin(9, 10, 11)
		p.at(9, "connect", "", 0, 0)
		p.at(10, stepCheck, "win11:1", 100*mib, 1000*mib)
		p.at(11, "push", "win11:1", 0, 0)
		golden(t, "middle", p, sizes...)
	})
	t.Run("names", func(t *testing.T) {
		p := play([]string{"日本語版ウィンドウズ:12", "office-2024-with-everything:3"}, "fd00::1234:5678:9abc:def0", "workstation-berlin-001.corp.example.com", "機械-東京-支店-001", "a")
		for i, name := range []string{"fd00::1234:5678:9abc:def0", "workstation-berlin-001.corp.example.com", "機械-東京-支店-001", "a"} {
			p.event(&fleet.Event{Kind: fleet.EventBegun, Index: i, Machine: fleet.Machine{Name: name}})
		}
		p.copy(stepCopy, "日本語版ウィンドウズ:12", 3*mib, 0, 100*mib, 4, 0, 1, 2, 3)
		p.at(3, "a step\x1b[2J of some length", "office-2024-with-everything:3", 7, 100)
		golden(t, "names", p, sizes...)
	})
	t.Run("end", func(t *testing.T) {
		p := play(images, numbered(4)...)
		p.begin(0, 1, 2, 3)
		p.copy(stepCopy, "win11:1", 50*mib, 0, 100*mib, 3, 0, 1, 2, 3)
		p.copy(stepBack, "win11:1", 50*mib, 0, 100*mib, 3, 0, 1, 2, 3)
		p.at(3, "check", "", 0, 0)
		p.end(fleet.Done, 0, 1, 2)
		p.cut = true
		golden(t, "end", p, [][2]int{{79, 23}, {29, 4}}...)
	})
	t.Run("paused", func(t *testing.T) {
		p := play(images, numbered(4)...)
		p.begin(0, 1)
		p.copy(stepCopy, "win11:1", 10*mib, 0, 100*mib, 5, 0, 1)
		p.postpone(0, 16*time.Hour)
		p.postpone(1, 16*time.Hour)
		p.event(&fleet.Event{Kind: fleet.EventPaused, Index: -1, At: p.now.Add(16 * time.Hour)})
		golden(t, "paused", p, [][2]int{{79, 23}}...)
	})
	t.Run("status", func(t *testing.T) { // moves no bytes
		p := play(nil, numbered(4)...)
		p.begin(0, 1, 2)
		p.at(2, "check", "", 0, 0)
		p.end(fleet.Done, 0)
		golden(t, "status", p, [][2]int{{79, 23}}...)
	})
}

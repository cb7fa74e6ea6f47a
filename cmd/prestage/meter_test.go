package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// Long work is shown in lines, with share, rate and time left; short work is
// not shown at all; warnings always are.
func TestPlainProgress(t *testing.T) {
	var out bytes.Buffer
	m, err := newMeter(&app{err: &out, progress: "plain"})
	if err != nil {
		t.Fatal(err)
	}
	m.Begin("short work", 100)
	m.Add(100)
	m.Begin("long work", 4<<20)
	m.Add(1 << 20)
	for end, shown := time.Now().Add(time.Minute), 0; shown == 0 && time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		m.mu.Lock()
		shown = out.Len()
		m.mu.Unlock()
	}
	m.Warn("look at %s", "this")
	m.Add(3 << 20)
	m.finish()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || !strings.HasPrefix(lines[0], "long work: 25 % of 4MiB, ") || !strings.HasSuffix(lines[0], " left") ||
		lines[1] != "prestage: warning: look at this" || !strings.HasPrefix(lines[2], "long work: 100 % of 4MiB") {
		t.Errorf("shown was %q", lines)
	}
}

func TestProgressOffTerminal(t *testing.T) {
	for _, a := range []app{{progress: "auto"}, {progress: "none"}, {progress: "plain", quiet: true}} {
		var out bytes.Buffer
		a.err = &out
		m, err := newMeter(&a)
		if err != nil {
			t.Fatal(err)
		}
		if m.style != "none" {
			t.Errorf("progress %s, quiet %v: style %s", a.progress, a.quiet, m.style)
		}
	}
}

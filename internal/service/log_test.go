package service

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

type numbered uint32

func (n numbered) EventID() uint32 { return uint32(n) }

// spoken makes a record of each level.
func spoken(h slog.Handler) {
	l := slog.New(h)
	l.Debug("debugging", "event", numbered(9))
	l.Info("an info", "event", numbered(3), "image", "win11")
	l.Warn("a warning")
	l.Error("an error\nof two lines", "event", numbered(5))
}

func TestLines(t *testing.T) {
	var out bytes.Buffer
	spoken(Lines(&out))
	want := []string{" an info", " warning: a warning", " error: an error of two lines"}
	got := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(got) != len(want) {
		t.Fatalf("got: %q", got)
	}
	for i, line := range got {
		if len(line) < 19 || line[19:] != want[i] { // after date and time
			t.Errorf("line %d is %q, should end with %q", i, line, want[i])
		}
	}
}

func TestJournalLines(t *testing.T) {
	var out bytes.Buffer
	spoken(&lines{w: &out, journal: true})
	if want := "<6>an info\n<4>a warning\n<3>an error of two lines\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
}

// eventTable keeps what is written to it.
type eventTable struct{ rows []string }

func (e *eventTable) add(kind string, id uint32, message string) error {
	e.rows = append(e.rows, fmt.Sprintf("%s %d %s", kind, id, message))
	return nil
}

func (e *eventTable) Info(id uint32, m string) error    { return e.add("info", id, m) }
func (e *eventTable) Warning(id uint32, m string) error { return e.add("warning", id, m) }
func (e *eventTable) Error(id uint32, m string) error   { return e.add("error", id, m) }

func TestEvents(t *testing.T) {
	var to eventTable
	spoken(Events(&to))
	slog.New(Events(&to)).Info("a\x00b")
	want := []string{"info 3 an info", "warning 100 a warning", "error 5 an error\nof two lines", "info 100 ab"}
	if fmt.Sprint(to.rows) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", to.rows, want)
	}
}

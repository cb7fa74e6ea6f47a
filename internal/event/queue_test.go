package event

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func some(text string) Event {
	return Event{Time: time.Date(2026, 11, 28, 1, 2, 3, 4e6, time.UTC), Kind: 3, Severity: Information, Category: "install", Description: text, Image: "win11", Version: 2}
}

// server keeps what it acknowledges, as long as it is up.
type server struct {
	down bool
	lose bool // the answer, after taking the report
	got  map[uint64]Event
}

func (s *server) Report(_ context.Context, r *Report) (a Ack, err error) {
	if s.down {
		return a, errors.New("down")
	}
	for _, e := range r.Events {
		if s.got == nil {
			s.got = map[uint64]Event{}
		}
		if old, ok := s.got[e.Number]; ok && !reflect.DeepEqual(old, e) {
			return a, errors.New("the same number again, for something else")
		}
		s.got[e.Number] = e
		a.Number = e.Number
	}
	if s.lose {
		return a, errors.New("the answer was lost")
	}
	return a, nil
}

// Whatever ends the program, and wherever: what was added arrives, once.
func TestQueueLosesNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), ".agent-")
	q, err := OpenQueue(dir)
	must(t, err)
	machine := q.Machine()
	reopen := func() {
		t.Helper() // without closing: as after a kill
		q, err = OpenQueue(dir)
		must(t, err)
		if q.Machine() != machine {
			t.Fatal("the machine has become another one")
		}
	}
	s := &server{}
	for i := range 250 {
		must(t, q.Add(some(strings.Repeat("x", i))))
		switch i % 50 {
		case 10:
			reopen()
		case 20:
			s.down = true
			if q.Deliver(t.Context(), s, Report{}) == nil {
				t.Error("delivered to a server that is down")
			}
			s.down = false
		case 30:
			s.lose = true
			if q.Deliver(t.Context(), s, Report{}) == nil {
				t.Error("no error although the answer was lost")
			}
			s.lose = false
			reopen()
		case 40: // a line that was cut short
			f, err := os.OpenFile(dir+eventsName, os.O_WRONLY|os.O_APPEND, 0)
			must(t, err)
			_, err = f.WriteString(`{"number":100000,"desc`)
			must(t, err)
			reopen()
		}
	}
	must(t, q.Deliver(t.Context(), s, Report{}))
	for i := range uint64(250) {
		if e := s.got[i+1]; len(e.Description) != int(i) || e.Number != i+1 {
			t.Fatalf("event %d is %+v", i+1, e)
		}
	}
	reopen()
	if n := len(q.Next(10)); n != 0 {
		t.Errorf("%d events are sent again", n)
	}
	must(t, q.Add(some("after all")))
	if e := q.Next(1)[0]; e.Number != 251 {
		t.Errorf("the next number is %d", e.Number)
	}
}

func TestQueueHasABound(t *testing.T) {
	q, err := OpenQueue(filepath.Join(t.TempDir(), "q-"))
	must(t, err)
	defer q.Close()
	for range most {
		q.events = append(q.events, some("old"))
		q.events[len(q.events)-1].Number = uint64(len(q.events))
	}
	must(t, q.Add(some("new")))
	list := q.Next(most + 1)
	if len(list) > most || list[0].Kind != Lost || !strings.Contains(list[0].Description, "500 in all") || list[len(list)-1].Description != "new" {
		t.Errorf("%d events, first %+v, last %+v", len(list), list[0], list[len(list)-1])
	}
	for i := 1; i < len(list); i++ {
		if list[i].Number != list[i-1].Number+1 {
			t.Fatalf("event %d follows %d", list[i].Number, list[i-1].Number)
		}
	}
}

// What a machine trims, a server takes.
func TestTrim(t *testing.T) {
	for _, text := range []string{"", "plain", "two\nlines", "\x1b[31mred", "\u202eright to left", strings.Repeat("ü", 2*MaxDescription), "\xff\xfe"} {
		e := some(text)
		e.Number, e.User, e.Category, e.Image, e.Severity, e.Fetched = 1, text, text, text, Severity(text), -1
		e.Trim()
		r := Report{Machine: "m", Host: text, User: text, Time: e.Time, Events: []Event{e}, Held: []Held{{Image: "a", Version: 1, Digest: text}}}
		r.Trim()
		if err := r.check(); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
}

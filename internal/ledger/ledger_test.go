package ledger

import (
	"context"
	"fmt"
	"iter"
	"path/filepath"
	"testing"
	"time"

	"prestage/internal/event"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// onBoth runs a test with an empty database of either kind.
func onBoth(t *testing.T, test func(t *testing.T, where string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "a?b#c%d ä'.db")) })
	t.Run("postgres", func(t *testing.T) {
		test(t, server.Get(t).Database(t))
	})
}

// opened opens a ledger that is closed with the test.
func opened(t testing.TB, where string) *Ledger {
	t.Helper()
	l, err := Open(t.Context(), where)
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return l
}

// noon is when tests happen.
var noon = time.Date(2026, 11, 28, 12, 0, 0, 0, time.UTC)

// report is one of a machine with n events that begin after a number.
func report(machine string, after, n int) *event.Report {
	r := &event.Report{Machine: machine, Host: "HOST-" + machine, User: "user of " + machine, Client: "1.2.3", System: "windows/amd64", Time: noon}
	for i := range n {
		r.Events = append(r.Events, event.Event{Number: uint64(after + i + 1), Time: noon.Add(time.Duration(after+i) * time.Second), Kind: 3, Severity: event.Information,
			Category: "update", Description: fmt.Sprintf("what happened %d", after+i+1), Image: "win11", Version: 2})
	}
	return r
}

func taken(t testing.TB, l *Ledger, reader string, at time.Time, r *event.Report) {
	t.Helper()
	ack, err := l.Take(t.Context(), reader, at, r)
	must(t, err)
	want := uint64(0)
	if n := len(r.Events); n > 0 {
		want = r.Events[n-1].Number
	}
	if ack.Number != want {
		t.Fatalf("acknowledged up to %d, want %d", ack.Number, want)
	}
}

func all[T any](t testing.TB, seq iter.Seq2[T, error]) (list []T) {
	t.Helper()
	for v, err := range seq {
		must(t, err)
		list = append(list, v)
	}
	return list
}

func entries(t testing.TB, l *Ledger, f Filter) []Entry {
	t.Helper()
	return all(t, l.Activity(context.Background(), f))
}

func standings(t testing.TB, l *Ledger, f Filter) []Standing {
	t.Helper()
	return all(t, l.Status(context.Background(), f))
}

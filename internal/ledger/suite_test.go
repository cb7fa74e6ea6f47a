package ledger

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/internal/event"
	"prestage/internal/pgtest"
)

// server is the PostgreSQL server of all tests.
var server pgtest.Shared

func TestMain(m *testing.M) {
	code := m.Run()
	server.End()
	os.Exit(code)
}

func TestTakeAndLook(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		r := report("a", 0, 3)
		r.Events[1].Severity, r.Events[1].Kind, r.Events[1].User, r.Events[1].Digest, r.Events[1].Fetched = event.Error, 1<<31, "somebody", "0011", 1<<40
		r.Held = []event.Held{{Image: "win11", Version: 2, Digest: "aa", Time: noon}, {Image: "win11", Version: 2, Digest: "aa", Time: noon, Staged: true}, {Image: "größe", Version: 1<<32 - 1, Digest: "bb", Time: noon}}
		taken(t, l, "token:x", noon, r)

		got := entries(t, l, Filter{})
		if len(got) != 3 {
			t.Fatalf("%d events", len(got))
		}
		want := Entry{Kind: 1 << 31, Severity: event.Error, Category: "update", Description: "what happened 2", Received: noon, Time: noon.Add(time.Second),
			Host: "HOST-a", User: "somebody", Image: "win11", Version: 2, Digest: "0011", Fetched: 1 << 40, Number: 2, Machine: "a", Reader: "token:x"}
		if got[1] != want {
			t.Errorf("%+v\nwant %+v", got[1], want)
		}
		if got[0].User != "user of a" || got[0].Number != 3 {
			t.Errorf("%+v", got[0])
		}
		st := standings(t, l, Filter{})
		if len(st) != 3 {
			t.Fatalf("%+v", st)
		}
		first := Standing{Time: noon, User: "user of a", Host: "HOST-a", Image: "größe", Version: 1<<32 - 1, Digest: "bb", Since: noon, Client: "1.2.3", System: "windows/amd64", Machine: "a", Reader: "token:x"}
		if !slices.Contains(st, first) {
			t.Errorf("%+v\nlacks %+v", st, first)
		}

		// What is held is replaced; a machine without any is there all the same.
		r = report("a", 3, 0)
		r.Host, r.Client = "renamed", "1.3"
		taken(t, l, "token:x", noon.Add(time.Hour), r)
		st = standings(t, l, Filter{})
		if len(st) != 1 || st[0].Image != "" || st[0].Host != "renamed" || st[0].Client != "1.3" || !st[0].Since.IsZero() || !st[0].Time.Equal(noon.Add(time.Hour)) {
			t.Errorf("%+v", st)
		}
		if e := entries(t, l, Filter{Host: "host-A"}); len(e) != 3 {
			t.Errorf("under its name of then, %d events", len(e))
		}
	})
}

func TestTwiceCountsOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		taken(t, l, "", noon, report("a", 0, 5))
		taken(t, l, "", noon.Add(time.Minute), report("a", 0, 5))
		taken(t, l, "", noon.Add(time.Minute), report("a", 3, 4)) // in part
		got := entries(t, l, Filter{})
		if len(got) != 7 {
			t.Fatalf("%d events, want 7", len(got))
		}
		if !got[6].Received.Equal(noon) {
			t.Errorf("the first is from %v", got[6].Received)
		}
		// A machine that was put back to an earlier state goes on from there with
		// other events, which must not pass for those that are there.
		r := report("a", 4, 2)
		for i := range r.Events {
			r.Events[i].Time = noon.Add(24 * time.Hour)
		}
		taken(t, l, "", noon.Add(24*time.Hour), r)
		if got := entries(t, l, Filter{}); len(got) != 9 {
			t.Errorf("%d events, want 9", len(got))
		}
	})
}

// One reader cannot touch what another has told, even of a machine that it says is
// the same.
func TestReadersAreApart(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		r := report("a", 0, 2)
		r.Held = []event.Held{{Image: "win11", Version: 1, Time: noon}}
		taken(t, l, "user:alice", noon, r)
		evil := report("a", 0, 2)
		evil.Host = "EVIL"
		for i := range evil.Events {
			evil.Events[i].Description = "nothing"
		}
		taken(t, l, "user:mallory", noon, evil)
		if got := entries(t, l, Filter{Host: "HOST-a"}); len(got) != 2 || got[0].Description != "what happened 2" || got[0].Reader != "user:alice" {
			t.Errorf("%+v", got)
		}
		if got := standings(t, l, Filter{Host: "HOST-a"}); len(got) != 1 || got[0].Image != "win11" {
			t.Errorf("%+v", got)
		}
	})
}

func TestFilters(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		for i, name := range []string{"One", "two", "a_b", "axb", "50%", "Über"} {
			r := report(name, 0, 3)
			r.Events[1].Severity, r.Events[1].Category = event.Warning, "network"
			r.Events[2].Severity, r.Events[2].Image = event.Error, "kiosk"
			r.Held = []event.Held{{Image: "win11", Version: uint32(i + 1), Time: noon}, {Image: "kiosk", Version: 1, Time: noon}}
			taken(t, l, "", noon.Add(time.Duration(i)*24*time.Hour), r)
		}
		for i, c := range []struct {
			f              Filter
			events, status int
		}{
			{Filter{}, 18, 12},
			{Filter{Host: "HOST-one"}, 3, 2},
			{Filter{Host: "host-ONE"}, 3, 2},
			{Filter{Host: "one"}, 0, 0},
			{Filter{Host: "*one"}, 3, 2},
			{Filter{Host: "*a_b"}, 3, 2},
			{Filter{Host: "*a*b"}, 6, 4},
			{Filter{Host: "*50%"}, 3, 2},
			{Filter{Host: "*-Über"}, 3, 2},
			{Filter{Host: `*\`}, 0, 0},
			{Filter{Host: "' OR 1=1 --"}, 0, 0},
			{Filter{User: "USER of two"}, 3, 2},
			{Filter{Image: "kiosk"}, 6, 6},
			{Filter{Image: "none"}, 0, 0},
			{Filter{Since: noon.Add(24 * time.Hour)}, 15, 10},
			{Filter{Since: noon.Add(25 * time.Hour), Host: "*t*"}, 12, 8},
			{Filter{Limit: 5}, 5, 5},
			{Filter{Limit: 5, Offset: 16}, 2, 0},
			{Filter{Offset: 11}, 7, 1},
			{Filter{Severity: event.Warning}, 12, 12},
			{Filter{Severity: event.Error, Host: "*two"}, 1, 2},
			{Filter{Category: "Network"}, 6, 12},
		} {
			if got := entries(t, l, c.f); len(got) != c.events {
				t.Errorf("%d: %+v: %d events, want %d", i, c.f, len(got), c.events)
			}
			if got := standings(t, l, c.f); len(got) != c.status {
				t.Errorf("%d: %+v: %d rows of status, want %d", i, c.f, len(got), c.status)
			}
		}
		wrong := all(t, l.Errors(t.Context(), Filter{}))
		if len(wrong) != 12 || slices.ContainsFunc(wrong, func(e Entry) bool { return e.Severity == event.Information }) {
			t.Errorf("errors: %+v", wrong)
		}
		if !slices.IsSortedFunc(wrong, func(a, b Entry) int { return b.Received.Compare(a.Received) }) {
			t.Error("not the latest first")
		}
		// Who has seen enough stops.
		for range l.Activity(t.Context(), Filter{}) {
			break
		}
	})
}

func TestOnline(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		taken(t, l, "", time.Now().Add(-OnlineWithin+time.Minute), report("on", 0, 0))
		taken(t, l, "", time.Now().Add(-OnlineWithin-time.Second), report("off", 0, 0))
		got := standings(t, l, Filter{})
		if len(got) != 2 || !got[0].Online || got[0].Machine != "on" || got[1].Online {
			t.Errorf("%+v", got)
		}
	})
}

func TestPrune(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		old := report("old", 0, 900)
		old.Held = []event.Held{{Image: "win11", Version: 1, Time: noon}}
		for n := range 5 { // more than goes at once
			r := *old
			r.Events = report("old", 900*n, 900).Events
			taken(t, l, "", noon, &r)
		}
		for i := range 3 {
			taken(t, l, "", noon, report(fmt.Sprint("gone", i), 0, 1))
		}
		taken(t, l, "", noon.Add(time.Hour), report("old", 10_000, 2)) // it lives, and holds none any more
		keep := report("new", 0, 1)
		keep.Held = old.Held
		taken(t, l, "", noon.Add(time.Hour), keep)
		n, err := l.Prune(t.Context(), noon.Add(time.Minute))
		must(t, err)
		if n != 4503 {
			t.Errorf("%d events are forgotten, want 4503", n)
		}
		if got := entries(t, l, Filter{}); len(got) != 3 {
			t.Errorf("%d events are left", len(got))
		}
		if got := standings(t, l, Filter{}); len(got) != 2 {
			t.Errorf("%+v", got)
		}
		n, err = l.Prune(t.Context(), noon.Add(2*time.Hour))
		must(t, err)
		if got := standings(t, l, Filter{}); n != 3 || len(got) != 0 {
			t.Errorf("%d, %+v", n, got)
		}
		var held int
		must(t, l.read.QueryRow("SELECT count(*) FROM prestage_held").Scan(&held))
		if held != 0 {
			t.Errorf("%d versions are held by nobody", held)
		}
		taken(t, l, "", noon.Add(3*time.Hour), keep) // it comes back
		if got := standings(t, l, Filter{}); len(got) != 1 || got[0].Image != "win11" {
			t.Errorf("%+v", got)
		}
	})
}

// Many report at once, the same machines too, through two servers.
func TestManyAtOnce(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		ledgers := []*Ledger{opened(t, where), opened(t, where)}
		var wg sync.WaitGroup
		for w := range 16 {
			wg.Go(func() {
				for i := range 40 {
					r := report(fmt.Sprint("m", (w+i)%20), i*3, 3)
					r.Held = []event.Held{{Image: "win11", Version: uint32(i + 1), Time: noon}}
					if _, err := ledgers[w%2].Take(t.Context(), "", noon, r); err != nil {
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		want := map[string]bool{}
		for w := range 16 {
			for i := range 40 {
				for k := range 3 {
					want[fmt.Sprintf("m%d %d", (w+i)%20, i*3+k+1)] = true
				}
			}
		}
		got := entries(t, ledgers[0], Filter{})
		for _, e := range got {
			delete(want, fmt.Sprintf("%s %d", e.Machine, e.Number))
		}
		if len(want) > 0 || len(standings(t, ledgers[1], Filter{})) != 20 {
			t.Errorf("%d events are missing of %d", len(want), len(got))
		}
	})
}

// A report that the database will not have spoils nothing for the others.
func TestOneSpoilsNothing(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		must(t, l.exec(`CREATE UNIQUE INDEX spoilt ON prestage_machines (host)`))
		a, b, c := report("a", 0, 1), report("b", 0, 1), report("c", 0, 1)
		b.Host = a.Host
		batch := []*take{{"", noon, a, make(chan error, 1)}, {"", noon, b, make(chan error, 1)}, {"", noon, c, make(chan error, 1)}}
		l.keepAll(slices.Clone(batch))
		for i, t2 := range batch {
			if err := <-t2.done; (err != nil) != (i == 1) {
				t.Errorf("%d: %v", i, err)
			}
		}
		if n := len(entries(t, l, Filter{})); n != 2 {
			t.Errorf("%d events", n)
		}
	})
}

func (l *Ledger) exec(q string) error {
	_, err := l.write.Exec(strings.ReplaceAll(q, "SERIAL", l.dialect.serial))
	return err
}

// What happened on one machine is found without reading what happened on all.
func TestHostIsIndexed(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	l := opened(t, where)
	c := &conditions{d: l.dialect}
	c.like("e.host", "PC-1")
	rows, err := l.read.Query("EXPLAIN QUERY PLAN SELECT * FROM prestage_events e"+c.end("e.received DESC, e.id DESC", &Filter{}), c.args...)
	must(t, err)
	defer rows.Close()
	plan := ""
	for rows.Next() {
		var id, parent, unused int
		var detail string
		must(t, rows.Scan(&id, &parent, &unused, &detail))
		plan += detail + "\n"
	}
	if !strings.Contains(plan, "prestage_events_host") || strings.Contains(plan, "SCAN") || strings.Contains(plan, "TEMP B-TREE") {
		t.Errorf("the plan is\n%s", plan)
	}
}

// Of reports of one machine that are written at once, the last one counts.
func TestHeldOfTheLastReport(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		for _, versions := range [][]uint32{{1, 2}, {2, 3}, {4, 0}, {0, 0}, {0, 5}} { // of two reports; 0 is none
			var batch []*take
			for _, v := range versions {
				r := report("a", 0, 0)
				if v > 0 {
					r.Held = []event.Held{{Image: "win11", Version: v, Time: noon}}
				}
				batch = append(batch, &take{"", noon, r, make(chan error, 1)})
			}
			l.keepAll(batch)
			for _, t2 := range batch {
				must(t, <-t2.done)
			}
			if got := standings(t, l, Filter{}); len(got) != 1 || got[0].Version != versions[1] {
				t.Errorf("%v: %+v", versions, got)
			}
		}
	})
}

package fleet

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"prestage/internal/daytime"
	"prestage/internal/host"
)

func machines(n int) (list []Machine) {
	for i := range n {
		list = append(list, Machine{Name: fmt.Sprintf("pc-%05d", i), Kind: KindSMB})
	}
	return list
}

var errBroken = errors.New("broken")

// script is what a machine does at each attempt; the last goes on for ever.
//
//	ok, already, fail, off: the outcome after a second
//	slow: ok after an hour; hang: never ends before its context; deaf: not even then
type script map[string][]string

// fleetOf is a Job that plays scripts and records when attempts began.
type fleetOf struct {
	script
	release chan struct{} // ends the deaf
	mu      sync.Mutex
	begun   map[string][]time.Duration // since the start
	start   time.Time
	running atomic.Int64
	most    atomic.Int64
}

func newFleet(s script) *fleetOf {
	return &fleetOf{script: s, release: make(chan struct{}), begun: map[string][]time.Duration{}, start: time.Now()}
}

func (f *fleetOf) job(ctx context.Context, m Machine, report func(Progress)) Outcome {
	f.most.Store(max(f.most.Load(), f.running.Add(1)))
	defer f.running.Add(-1)
	f.mu.Lock()
	f.begun[m.Name] = append(f.begun[m.Name], time.Since(f.start))
	n := len(f.begun[m.Name])
	f.mu.Unlock()
	steps := f.script[m.Name]
	if len(steps) == 0 {
		steps = []string{"ok"}
	}
	step := steps[min(n, len(steps))-1]
	took := time.Second
	switch step {
	case "slow":
		took = time.Hour
	case "hang":
		took = 1 << 60
	case "deaf":
		<-f.release
		return Outcome{}
	}
	for report(Progress{Step: "copying"}); took > 0; took -= time.Minute {
		select {
		case <-ctx.Done():
			return Outcome{Step: "copying", Err: ctx.Err()}
		case <-time.After(min(took, time.Minute)):
			if step == "slow" {
				report(Progress{Step: "copying"})
			}
		}
	}
	switch step {
	case "fail":
		return Outcome{Step: "folders", Err: errBroken}
	case "off":
		return Outcome{Step: "connecting", Err: fmt.Errorf("dialling: %w", host.ErrUnreachable)}
	case "already":
		return Outcome{Images: []Image{{Name: "win11:1", Already: true}}}
	}
	return Outcome{Images: []Image{{Name: "win11:1"}}}
}

// states renders results as in "done done failed", runs of a state as "done*3".
func states(results []Result) string {
	var list []string
	for i := 0; i < len(results); {
		j := i
		for j < len(results) && results[j].State == results[i].State {
			j++
		}
		word := string(results[i].State)
		if j-i > 1 {
			word += fmt.Sprintf("*%d", j-i)
		}
		list, i = append(list, word), j
	}
	return strings.Join(list, ", ")
}

// The clock of a synctest bubble begins at midnight UTC.
func TestRun(t *testing.T) {
	local := time.Local
	time.Local = time.UTC
	defer func() { time.Local = local }()
	window := func(s string) daytime.Window {
		w, err := daytime.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	midnight := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(d time.Duration) time.Time { return midnight.Add(d) }
	for name, c := range map[string]struct {
		n       int
		o       Options
		s       script
		cancel  time.Duration
		want    string
		took    time.Duration
		reason  string // of the last machine
		begun   map[string][]time.Duration
		maxBusy int64
	}{
		"all": {n: 10, o: Options{Parallel: 3}, want: "done*10", took: 4 * time.Second, maxBusy: 3},
		"outcomes": {n: 4, o: Options{Parallel: 1}, s: script{"pc-00001": {"fail"}, "pc-00002": {"off"}, "pc-00003": {"already"}},
			want: "done, failed, unreachable, already", took: 4 * time.Second},
		"none": {n: 0, want: ""},
		"slow ones hold nobody": {n: 10, o: Options{Parallel: 2}, s: script{"pc-00000": {"slow"}}, want: "done*10", took: time.Hour,
			begun: map[string][]time.Duration{"pc-00009": {8 * time.Second}}},
		"retries": {n: 2, o: Options{Parallel: 1, RetryWait: time.Minute, Deadline: at(time.Hour)}, s: script{"pc-00000": {"off", "off", "ok"}},
			want: "done*2", took: 3*time.Minute + 3*time.Second,
			begun: map[string][]time.Duration{"pc-00000": {0, 61 * time.Second, 182 * time.Second}, "pc-00001": {time.Second}}},
		"the last retry is at the deadline": {n: 1, o: Options{RetryWait: 10 * time.Minute, Deadline: at(time.Hour)}, s: script{"pc-00000": {"off"}},
			want: "unreachable", took: time.Hour + time.Second, begun: map[string][]time.Duration{
				"pc-00000": {0, 601 * time.Second, 1502 * time.Second, 2403 * time.Second, 3304 * time.Second, time.Hour}}},
		"canaries succeed": {n: 6, o: Options{Parallel: 4, Canary: 2}, want: "done*6", took: 2 * time.Second,
			begun: map[string][]time.Duration{"pc-00001": {0}, "pc-00002": {time.Second}}},
		"a canary fails": {n: 6, o: Options{Canary: 2}, s: script{"pc-00001": {"fail"}}, want: "done, failed, not begun*4", took: time.Second,
			reason: "pc-00001, one of the first 2, did not succeed"},
		"a canary is off": {n: 6, o: Options{Canary: 2, Deadline: at(time.Hour), RetryWait: time.Minute}, s: script{"pc-00001": {"off", "ok"}},
			want: "done*6", took: 63 * time.Second},
		"a canary stays off": {n: 4, o: Options{Canary: 1, Deadline: at(time.Minute)}, s: script{"pc-00000": {"off"}},
			want: "unreachable, not begun*3", took: 61 * time.Second, reason: "pc-00000, one of the first 1, did not succeed"},
		"more canaries than machines": {n: 2, o: Options{Canary: 5}, want: "done*2", took: time.Second},
		"a canary is deaf": {n: 3, o: Options{Canary: 1, Window: window("00:00-00:01"), Deadline: at(72 * time.Hour)}, s: script{"pc-00000": {"deaf"}},
			want: "interrupted, not begun*2", took: 80 * time.Second, reason: "pc-00000, one of the first 1, did not succeed"},
		"too many fail": {n: 6, o: Options{Parallel: 1, MaxFailures: 2}, s: script{"pc-00000": {"fail"}, "pc-00001": {"off"}, "pc-00002": {"fail"}},
			want: "failed, unreachable, failed, not begun*3", took: 3 * time.Second, reason: "2 machines failed"},
		"after too many, those that run go on and nothing is tried again": {n: 4, o: Options{Parallel: 2, MaxFailures: 1, Deadline: at(time.Hour)},
			s: script{"pc-00000": {"slow"}, "pc-00001": {"off"}, "pc-00002": {"fail"}}, want: "done, unreachable, failed, not begun", took: time.Hour},
		"cancelled": {n: 5, o: Options{Parallel: 2}, s: script{"pc-00001": {"hang"}, "pc-00002": {"hang"}}, cancel: time.Minute,
			want: "done, interrupted*2, not begun*2", took: time.Minute, reason: "the run was interrupted"},
		"cancelled while it waits to try again": {n: 2, o: Options{Deadline: at(time.Hour)}, s: script{"pc-00001": {"off"}}, cancel: 10 * time.Second,
			want: "done, unreachable", took: 10 * time.Second, reason: "the run was interrupted"},
		"cancelled before": {n: 2, cancel: -1, want: "not begun*2", reason: "the run was interrupted"},
		"who ignores his context is left behind": {n: 3, o: Options{Parallel: 2, Grace: 5 * time.Second}, s: script{"pc-00001": {"deaf"}, "pc-00002": {"hang"}},
			cancel: time.Minute, want: "done, interrupted*2", took: 65 * time.Second},
		"stalled": {n: 4, o: Options{Parallel: 1, Stall: 5 * time.Minute}, s: script{"pc-00000": {"hang"}, "pc-00001": {"deaf"}, "pc-00002": {"slow"}},
			want: "unreachable*2, done*2", took: 10*time.Minute + DefaultGrace + time.Hour + time.Second},
		"stalled, then well": {n: 1, o: Options{Stall: time.Minute, RetryWait: time.Minute, Deadline: at(time.Hour)}, s: script{"pc-00000": {"hang", "ok"}},
			want: "done", took: 2*time.Minute + time.Second},
		"in the window":           {n: 2, o: Options{Window: window("22:00-06:00")}, want: "done*2", took: time.Second},
		"it waits for the window": {n: 2, o: Options{Parallel: 1, Window: window("03:30-04:00")}, want: "done*2", took: 3*time.Hour + 30*time.Minute + 2*time.Second},
		"the window ends": {n: 4, o: Options{Parallel: 2, Window: window("23:30-00:30")}, s: script{"pc-00001": {"slow"}, "pc-00002": {"hang"}},
			want: "done, interrupted*2, not begun", took: 30 * time.Minute, reason: "the window 23:30-00:30 ended"},
		"the next night": {n: 4, o: Options{Parallel: 1, Window: window("23:30-00:30"), Deadline: at(48 * time.Hour)}, s: script{"pc-00000": {"hang", "ok"}},
			want: "done*4", took: 23*time.Hour + 30*time.Minute + 4*time.Second,
			begun: map[string][]time.Duration{"pc-00000": {0, 23*time.Hour + 30*time.Minute}, "pc-00001": {23*time.Hour + 30*time.Minute + time.Second}}},
		"no next night before the deadline": {n: 2, o: Options{Parallel: 1, Window: window("23:30-00:30"), Deadline: at(23 * time.Hour)},
			s: script{"pc-00000": {"hang"}}, want: "interrupted, not begun", took: 30 * time.Minute},
		"off until the window ends": {n: 2, o: Options{Window: window("23:30-00:30"), Deadline: at(23 * time.Hour)},
			s: script{"pc-00001": {"off"}}, want: "done, unreachable", took: 30 * time.Minute, reason: "the window 23:30-00:30 ended"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFleet(c.s)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if c.cancel < 0 {
					cancel()
				} else if c.cancel > 0 {
					time.AfterFunc(c.cancel, cancel)
				}
				log := &eventLog{t: t, ended: map[int]int{}}
				results := Run(ctx, machines(c.n), c.o, f.job, log.on)
				took := time.Since(f.start)
				close(f.release)
				synctest.Wait()
				if got := states(results); got != c.want {
					t.Errorf("%s, should be %s", got, c.want)
				}
				if took != c.took {
					t.Errorf("it took %v, should be %v", took, c.took)
				}
				if c.reason != "" && results[c.n-1].Reason != c.reason {
					t.Errorf("the reason is %q, should be %q", results[c.n-1].Reason, c.reason)
				}
				for name, want := range c.begun {
					if got := f.begun[name]; !reflect.DeepEqual(got, want) {
						t.Errorf("%s began at %v, should be %v", name, got, want)
					}
				}
				if c.maxBusy != 0 && f.most.Load() != c.maxBusy {
					t.Errorf("%d ran at once, should be %d", f.most.Load(), c.maxBusy)
				}
				log.check(results)
				for i, r := range results {
					if attempts := len(f.begun[r.Machine.Name]); r.Attempts != attempts || (attempts == 0) != r.Begun.IsZero() {
						t.Errorf("machine %d has %d attempts and began at %v, there were %d", i, r.Attempts, r.Begun, attempts)
					}
					if (r.State == Interrupted || r.State == NotBegun) && r.Reason == "" {
						t.Errorf("machine %d is %s for no reason", i, r.State)
					}
				}
			})
		})
	}
}

// eventLog checks that events make sense.
type eventLog struct {
	t      *testing.T
	ended  map[int]int
	begun  int
	paused int
	inside atomic.Bool
}

func (l *eventLog) on(e Event) {
	if !l.inside.CompareAndSwap(false, true) {
		l.t.Error("two events at once")
	}
	defer l.inside.Store(false)
	switch e.Kind {
	case EventBegun:
		l.begun++
	case EventEnded:
		l.ended[e.Index]++
	case EventPaused:
		l.paused++
	case EventPostponed:
		if e.Err == nil || e.At.IsZero() {
			l.t.Errorf("postponed until %v because %v", e.At, e.Err)
		}
	case EventProgress:
		if e.Progress.Step != "copying" {
			l.t.Errorf("progress %+v", e.Progress)
		}
	}
	if l.ended[e.Index] > 1 || e.Kind != EventEnded && l.ended[e.Index] > 0 {
		l.t.Errorf("an event after the end of machine %d: %+v", e.Index, e)
	}
}

func (l *eventLog) check(results []Result) {
	attempts := 0
	for i, r := range results {
		attempts += r.Attempts
		if l.ended[i] != 1 {
			l.t.Errorf("machine %d ended %d times", i, l.ended[i])
		}
	}
	if attempts != l.begun {
		l.t.Errorf("%d attempts, %d events of them", attempts, l.begun)
	}
}

// Ten thousand machines, one in seven off at first: no more than Parallel have
// goroutines, however many there are.
func TestRunManyMachines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const n, parallel = 10_000, 50
		before, most := runtime.NumGoroutine(), 0
		var running atomic.Int64
		var tried [n]atomic.Int64
		job := func(_ context.Context, m Machine, report func(Progress)) Outcome {
			if now := running.Add(1); now > parallel {
				t.Errorf("%d run at once", now)
			}
			defer running.Add(-1)
			var i int
			fmt.Sscanf(m.Name, "pc-%d", &i)
			for range 10 {
				report(Progress{Step: "copying"})
			}
			time.Sleep(time.Duration(i%13) * time.Second)
			if tried[i].Add(1) == 1 && i%7 == 0 {
				return Outcome{Err: host.ErrUnreachable}
			}
			return Outcome{}
		}
		results := Run(t.Context(), machines(n), Options{Parallel: parallel, Deadline: time.Now().Add(24 * time.Hour)}, job, func(Event) {
			most = max(most, runtime.NumGoroutine()-before)
		})
		if s := states(results); s != fmt.Sprintf("done*%d", n) {
			t.Errorf("%.200s", s)
		}
		if most > 2*parallel+10 { // some have ended, but not quite
			t.Errorf("there were %d goroutines", most)
		}
		for i, r := range results {
			if want := 1 + (map[bool]int{true: 1})[i%7 == 0]; r.Attempts != want {
				t.Fatalf("machine %d had %d attempts", i, r.Attempts)
			}
		}
	})
}

// What a job is given has no deadline: a limiter would refuse at once what it
// could not finish before.
func TestJobHasNoDeadline(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	Run(ctx, machines(1), Options{}, func(ctx context.Context, _ Machine, _ func(Progress)) Outcome {
		if d, ok := ctx.Deadline(); ok {
			t.Errorf("the deadline is %v", d)
		}
		return Outcome{}
	}, nil)
}

// A job that nobody waits for any more may still report, and harms nothing.
func TestReportAfterTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		release := make(chan struct{})
		results := Run(ctx, machines(1), Options{Grace: time.Second}, func(_ context.Context, _ Machine, report func(Progress)) Outcome {
			<-release
			for range 5 {
				report(Progress{})
			}
			return Outcome{}
		}, nil)
		close(release)
		synctest.Wait()
		if s := states(results); s != "interrupted" {
			t.Error(s)
		}
	})
}

// Results are in the order in which the machines were given.
func TestResultsKeepOrder(t *testing.T) {
	list := machines(20)
	results := Run(t.Context(), list, Options{Parallel: 7}, func(context.Context, Machine, func(Progress)) Outcome { return Outcome{} }, nil)
	if !slices.EqualFunc(results, list, func(r Result, m Machine) bool { return r.Machine == m }) {
		t.Error("the results are not in the order of the machines")
	}
}

package fleet

import (
	"cmp"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"prestage/internal/daytime"
)

// Options say how a run goes.
type Options struct {
	Parallel    int // machines at once, 0: DefaultParallel
	Canary      int // so many of the first must succeed before the others begin
	MaxFailures int // after so many have failed no other begins, 0: all begin. Those that do not answer do not count
	// Deadline is until when machines that do not answer are tried again, and
	// work that the end of the window cut is continued. Zero: it is not.
	Deadline  time.Time
	Window    daytime.Window // no machine is worked on outside of it
	RetryWait time.Duration  // before the second attempt, then twice as long each time, 0: DefaultRetryWait
	// Stall is how long an attempt may report no progress before it is cut and
	// the machine counts as not answering. 0: for ever.
	Stall time.Duration
	// Grace is how long an attempt that was cut may take to end, before the
	// run no longer waits for it. 0: DefaultGrace.
	Grace time.Duration
}

// Defaults of Options.
const (
	DefaultParallel  = 20
	DefaultRetryWait = 30 * time.Second
	DefaultGrace     = 20 * time.Second
)

// maxRetryWait is how far apart attempts on a machine get.
const maxRetryWait = 15 * time.Minute

// Reasons why an attempt is cut.
var (
	errWindow  = errors.New("the window ended")
	errStalled = errors.New("it made no progress")
)

// Run does job on every machine and returns what became of each, in their
// order. It tells on of what happens, if on is not nil: one event at a time, from
// the goroutine that called Run, so on must not take long. When ctx ends, so
// does Run, after Options.Grace at the latest.
func Run(ctx context.Context, machines []Machine, o Options, job Job, on func(Event)) []Result {
	o.Parallel = cmp.Or(max(o.Parallel, 0), DefaultParallel)
	o.RetryWait = cmp.Or(o.RetryWait, DefaultRetryWait)
	o.Grace = cmp.Or(o.Grace, DefaultGrace)
	o.Canary = min(o.Canary, len(machines))
	if on == nil {
		on = func(Event) {}
	}
	// The jobs' contexts end when ctx does, but have no deadline of its.
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	defer context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })()
	r := &run{Options: o, ctx: ctx, base: base, job: job, on: on, results: make([]Result, len(machines)),
		slots: map[int]*slot{}, ended: make(chan ended), kick: make(chan struct{}, 1), over: make(chan struct{})}
	defer close(r.over)
	for i, m := range machines {
		r.results[i] = Result{Machine: m, State: NotBegun}
	}
	r.loop()
	r.finish()
	return r.results
}

// run is the state of a Run. Its own goroutine alone touches it; attempts have
// goroutines of their own and report to it.
type run struct {
	Options
	ctx, base context.Context
	job       Job
	on        func(Event)
	results   []Result

	fresh    int     // the first machine that was not begun
	cut      []int   // machines that the end of the window cut
	later    retries // machines that did not answer
	slots    map[int]*slot
	closes   time.Time // when the window that is open ends
	paused   bool      // a closed window was told of
	failed   int
	canaries int    // of the first machines, how many have succeeded
	stopped  string // why no machine begins any more

	ended chan ended
	kick  chan struct{} // some attempt has reported progress
	over  chan struct{} // closed when nobody listens any more
}

func (r *run) loop() {
	wake := time.NewTimer(0)
	defer wake.Stop()
	cancelled := r.ctx.Done()
	for {
		now := time.Now()
		r.watchWindow(now)
		r.watchSlots(now)
		r.begin(now)
		if len(r.slots) == 0 && !r.pending() {
			return
		}
		wake.Reset(r.sleep(now))
		select {
		case e := <-r.ended:
			r.end(e)
		case <-r.kick:
			for i, s := range r.slots {
				r.tell(i, s)
			}
		case <-cancelled:
			cancelled = nil
			r.stopped = "the run was interrupted"
			for _, s := range r.slots {
				s.stop(context.Cause(r.ctx))
			}
		case <-wake.C:
		}
	}
}

// pending reports whether a machine may still begin, now or later.
func (r *run) pending() bool {
	return r.stopped == "" && r.ctx.Err() == nil && (r.fresh < r.allowed() || len(r.cut) > 0 || len(r.later) > 0)
}

// allowed returns how many of the machines may begin so far.
func (r *run) allowed() int {
	if r.canaries < r.Canary {
		return r.Canary
	}
	return len(r.results)
}

// begin begins as many attempts as may run.
func (r *run) begin(now time.Time) {
	open, opens := r.Window.At(now)
	if !open && r.pending() && !r.paused {
		r.paused = true
		r.on(Event{Kind: EventPaused, Index: -1, At: opens})
	}
	for open && r.pending() && len(r.slots) < r.Parallel {
		r.paused = false
		switch {
		case len(r.cut) > 0: // much of it is done
			r.start(r.cut[0], now)
			r.cut = r.cut[1:]
		case r.fresh < r.allowed():
			r.start(r.fresh, now)
			r.fresh++
		case !r.later[0].at.After(now):
			r.start(heap.Pop(&r.later).(retry).index, now)
		default:
			return
		}
	}
}

// watchWindow cuts all attempts at the end of the window. Without a deadline
// that reaches to the next opening, that is the end of the run.
func (r *run) watchWindow(now time.Time) {
	open, change := r.Window.At(now)
	if !r.closes.IsZero() && !now.Before(r.closes) {
		r.closes = time.Time{}
		for _, s := range r.slots {
			s.stop(errWindow)
		}
		if !r.resumes(now) && r.stopped == "" {
			r.stopped = fmt.Sprintf("the window %s ended", r.Window)
		}
	}
	if open && r.closes.IsZero() {
		r.closes = change
	}
}

// resumes reports whether the window opens again, or is open, before the deadline.
func (r *run) resumes(now time.Time) bool {
	if open, change := r.Window.At(now); !open {
		now = change
	}
	return now.Before(r.Deadline)
}

// watchSlots cuts attempts that make no progress, and stops waiting for those
// that were cut and do not end.
func (r *run) watchSlots(now time.Time) {
	for i, s := range r.slots {
		switch {
		case s.cut == nil && r.Stall > 0 && now.Sub(s.alive) >= r.Stall && s.latest.Load() == nil:
			s.stop(errStalled)
		case s.cut != nil && now.Sub(s.stopped) >= r.Grace:
			r.abandon(i, s)
		}
	}
}

// sleep returns how long nothing happens by itself. Times of day are looked at
// again every minute: a computer that sleeps does not run its timers.
func (r *run) sleep(now time.Time) time.Duration {
	d := time.Duration(math.MaxInt64)
	until := func(t time.Time) { d = min(d, max(t.Sub(now), 0)) }
	if open, change := r.Window.At(now); !change.IsZero() {
		d = time.Minute
		if open {
			change = r.closes
		}
		until(change)
	}
	if len(r.later) > 0 && r.later[0].at.After(now) && r.stopped == "" {
		d = min(d, time.Minute)
		until(r.later[0].at)
	}
	for _, s := range r.slots {
		if s.cut != nil {
			until(s.stopped.Add(r.Grace))
		} else if r.Stall > 0 {
			until(s.alive.Add(r.Stall))
		}
	}
	return d
}

// finish tells what has become of machines that will not begin any more.
func (r *run) finish() {
	if r.ctx.Err() != nil {
		r.stopped = "the run was interrupted"
	}
	for _, i := range r.cut {
		r.final(i, Interrupted, r.stopped)
	}
	for _, l := range r.later {
		r.final(l.index, Unreachable, r.stopped)
	}
	for i := r.fresh; i < len(r.results); i++ {
		r.final(i, NotBegun, r.stopped)
	}
}

// retry is a machine that is tried again at a time.
type retry struct {
	at    time.Time
	index int
}

// retries is a heap, the earliest first.
type retries []retry

func (r retries) Len() int           { return len(r) }
func (r retries) Less(i, j int) bool { return r[i].at.Before(r[j].at) }
func (r retries) Swap(i, j int)      { r[i], r[j] = r[j], r[i] }
func (r *retries) Push(x any)        { *r = append(*r, x.(retry)) }
func (r *retries) Pop() any {
	last := (*r)[len(*r)-1]
	*r = (*r)[:len(*r)-1]
	return last
}

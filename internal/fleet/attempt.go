package fleet

import (
	"container/heap"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"prestage/internal/host"
)

// slot is an attempt that runs.
type slot struct {
	cancel  context.CancelCauseFunc
	latest  atomic.Pointer[Progress] // that was not passed on
	begun   time.Time
	alive   time.Time // when it last made progress
	cut     error     // why it was cut, if it was
	stopped time.Time // when it was cut
}

// stop ends the attempt's context.
func (s *slot) stop(why error) {
	if s.cut == nil {
		s.cut, s.stopped = why, time.Now()
		s.cancel(why)
	}
}

// ended is how an attempt reports its outcome.
type ended struct {
	index int
	slot  *slot
	Outcome
}

func (r *run) start(i int, now time.Time) {
	res := &r.results[i]
	res.Attempts++
	if res.Begun.IsZero() {
		res.Begun = now
	}
	ctx, cancel := context.WithCancelCause(r.base)
	s := &slot{cancel: cancel, begun: now, alive: now}
	r.slots[i] = s
	r.on(Event{Kind: EventBegun, Index: i, Machine: res.Machine})
	report := func(p Progress) {
		s.latest.Store(&p)
		select {
		case r.kick <- struct{}{}:
		default: // one waits already
		}
	}
	m := res.Machine
	go func() {
		defer cancel(nil)
		o := r.job(ctx, m, report)
		select {
		case r.ended <- ended{i, s, o}:
		case <-r.over:
		}
	}()
}

// tell passes on the progress of an attempt, if there is any.
func (r *run) tell(i int, s *slot) {
	if p := s.latest.Swap(nil); p != nil {
		s.alive = time.Now()
		r.on(Event{Kind: EventProgress, Index: i, Machine: r.results[i].Machine, Progress: *p})
	}
}

// end takes the outcome of an attempt and decides what becomes of its machine.
func (r *run) end(e ended) {
	i, s := e.index, e.slot
	if r.slots[i] != s {
		return // nobody waits for it any more
	}
	r.tell(i, s)
	delete(r.slots, i)
	now := time.Now()
	res := &r.results[i]
	res.Took += now.Sub(s.begun)
	res.Outcome = e.Outcome
	_, err := res.Outcome.Failure()
	switch {
	case err == nil && res.Outcome.already():
		r.final(i, Already, "")
	case err == nil:
		r.final(i, Done, "")
	case r.ctx.Err() != nil:
		r.final(i, Interrupted, "the run was interrupted")
	case errors.Is(s.cut, errWindow) && r.stopped == "":
		r.cut = append(r.cut, i)
		_, opens := r.Window.At(now)
		r.on(Event{Kind: EventPostponed, Index: i, Machine: res.Machine, At: opens, Err: errWindow})
	case errors.Is(s.cut, errWindow):
		r.final(i, Interrupted, r.stopped)
	case errors.Is(s.cut, errStalled):
		res.Outcome.Err = fmt.Errorf("%w any more: nothing moved for %v", host.ErrUnreachable, r.Stall)
		r.postpone(i, now)
	case errors.Is(err, host.ErrUnreachable):
		r.postpone(i, now)
	default:
		r.final(i, Failed, "")
	}
}

// postpone tries a machine that does not answer again later, if there is a later.
func (r *run) postpone(i int, now time.Time) {
	res := &r.results[i]
	if r.stopped != "" || !now.Before(r.Deadline) {
		r.final(i, Unreachable, r.stopped)
		return
	}
	at := now.Add(r.wait(res.Attempts))
	if at.After(r.Deadline) { // it may have come up at the last moment
		at = r.Deadline
	}
	_, err := res.Outcome.Failure()
	heap.Push(&r.later, retry{at, i})
	r.on(Event{Kind: EventPostponed, Index: i, Machine: res.Machine, At: at, Err: err})
}

// wait returns how long to wait after so many attempts.
func (r *run) wait(attempts int) time.Duration {
	d := r.RetryWait
	for n := 1; n < attempts && d < maxRetryWait; n++ {
		d = min(2*d, maxRetryWait)
	}
	return d
}

// abandon gives up an attempt that does not end. Its machine is not tried
// again: two attempts would be in each other's way.
func (r *run) abandon(i int, s *slot) {
	r.tell(i, s)
	delete(r.slots, i)
	res := &r.results[i]
	res.Took += time.Since(s.begun)
	res.Outcome = Outcome{Err: fmt.Errorf("it did not end within %v: %w", r.Grace, s.cut)}
	if errors.Is(s.cut, errStalled) {
		res.Outcome.Err = fmt.Errorf("%w: %w", host.ErrUnreachable, res.Outcome.Err)
		r.final(i, Unreachable, "")
		return
	}
	r.final(i, Interrupted, "it was cut and did not end by itself")
}

// final settles what has become of a machine.
func (r *run) final(i int, s State, reason string) {
	res := &r.results[i]
	res.State, res.Reason = s, reason
	switch good := s == Done || s == Already; {
	case good && i < r.Canary:
		r.canaries++
	case !good && i < r.Canary && r.stopped == "":
		r.stopped = fmt.Sprintf("%s, one of the first %d, did not succeed", res.Machine.Name, r.Canary)
	}
	if s == Failed {
		if r.failed++; r.failed == r.MaxFailures && r.stopped == "" {
			r.stopped = fmt.Sprintf("%d machines failed", r.failed)
		}
	}
	r.on(Event{Kind: EventEnded, Index: i, Machine: res.Machine, Result: res})
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"time"

	"prestage/internal/event"
	"prestage/internal/repo"
)

// server is what the agent has of its server. It is asked by a goroutine of its
// own: what is being fetched may take hours, and the policy may change meanwhile.
type server struct {
	mu    sync.Mutex
	task  *task       // of the round before, nil at first
	known *Known      // nil when there is no server
	tied  *permission // what is at work now, or nil

	wake chan struct{} // there is something new

	// Of the goroutine that asks:
	teller
	repository repo.Repository
	address    string
	next       time.Time // when it is asked again
	fails      int
	asked      time.Time // time of the file that asks for a poll, when that was last seen
	noEvents   bool      // the server takes none
}

// permission is for work that a policy allows.
type permission struct {
	holds  func(*Known) bool
	cancel context.CancelCauseFunc
}

// errWithdrawn is why work is cut that a policy does not allow any more.
var errWithdrawn = errors.New("the policy does not allow it now")

// now returns what is known of a task's server.
func (s *server) now(t *task) *Known {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.settings.Server == "" {
		s.known = nil
	} else if s.known == nil || s.known.Server != t.settings.Server {
		trust, _ := t.settings.Trust()
		s.known = LoadKnown(t.store.String(), t.settings.Server, trust)
	}
	s.task = t
	return s.known
}

// tie returns a context that ends when what is known of the server does not allow
// the work any more. That is asked anew when the server says something else, and
// after each while, as time allows and forbids too: timers do not see that a machine
// slept, or that its clock was set.
func (s *server) tie(ctx context.Context, while time.Duration, holds func(*Known) bool) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	s.mu.Lock()
	s.tied = &permission{holds, cancel}
	s.mu.Unlock()
	var watch sync.WaitGroup
	watch.Go(func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(while):
				s.mu.Lock()
				s.checkTied()
				s.mu.Unlock()
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watch.Wait()
		s.mu.Lock()
		s.tied = nil
		s.mu.Unlock()
	}
}

// checkTied ends what is at work if that is not allowed any more.
func (s *server) checkTied() {
	if s.tied != nil && s.known != nil && !s.tied.holds(s.known) {
		s.tied.cancel(errWithdrawn)
	}
}

// update changes what is known, and keeps it.
func (s *server) update(t *task, k *Known) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known != nil {
		if s.known.Server != k.Server {
			return nil // the machine has another one now
		}
		k.Ahead = s.known.Ahead // it may have changed while the server was asked
	}
	s.known = k
	err := k.save(t.store.String())
	s.checkTied()
	select {
	case s.wake <- struct{}{}:
	default:
	}
	return err
}

// askServer asks the server again and again, until ctx ends.
func (a *Agent) askServer(ctx context.Context) {
	s := &a.server
	s.log = a.Log
	for ctx.Err() == nil {
		s.mu.Lock()
		t := s.task
		s.mu.Unlock()
		if t != nil && t.settings.Server != "" {
			_, soon := a.queue.take()
			switch {
			case a.pollWanted(t) || passed(s.next, a.Now()):
				a.poll(ctx, t)
			case soon:
				a.deliver(ctx, t)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(a.Times.Tick):
		}
	}
}

// passed reports whether a time is over, either by the time that went by, which a
// clock that is set back does not change, or by the clock, which goes on while the
// machine sleeps.
func passed(t, now time.Time) bool { return now.After(t) || now.Round(0).After(t.Round(0)) }

// pollWanted reports whether somebody has asked for a poll since the last time, or
// the machine has another server now.
func (a *Agent) pollWanted(t *task) bool {
	s := &a.server
	if s.address != t.settings.Server {
		return true
	}
	st, err := os.Stat(statePath(t.store.String(), pollName))
	if err != nil || st.ModTime().Equal(s.asked) {
		return false
	}
	s.asked = st.ModTime()
	return true
}

// poll asks the server for its packages and its policy, and tells it what has
// happened here.
func (a *Agent) poll(ctx context.Context, t *task) {
	s := &a.server
	err := a.connect(t)
	var before, now *Known
	var refused error
	if err == nil {
		trust, badKeys := t.settings.Trust()
		before = s.now(t)
		if err = badKeys; err == nil {
			now, refused, err = before.Ask(ctx, s.repository, trust)
		}
	}
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		// That is how it is for a machine on the road.
		s.tell(Waiting, "the server cannot be asked: %v; what it said last holds, and it is asked again", err)
		delay := min(a.Times.Retry<<min(s.fails, 20), a.Times.Poll)
		s.fails++
		s.next = a.Now().Add(delay - rand.N(delay/4+1))
		return
	}
	s.fails = 0
	s.forget()
	if refused != nil {
		s.tell(Warned, "%v", refused)
	}
	// A tenth of the interval keeps machines that were started together apart.
	s.next = a.Now().Add(a.Times.Poll - a.Times.Poll/10 + rand.N(a.Times.Poll/5+1))
	if now.Serial != before.Serial {
		s.tell(PolicyUsed, "policy %d holds on this machine from now on", now.Serial)
	}
	if err := s.update(t, now); err != nil {
		s.tell(Warned, "what the server says cannot be kept: %v", err)
	}
	a.deliver(ctx, t)
}

// connect opens the server's repository. It is kept, so that only what has changed
// is sent.
func (a *Agent) connect(t *task) (err error) {
	s := &a.server
	if s.repository != nil && s.address == t.settings.Server {
		return nil
	}
	s.address, s.noEvents, s.fails = t.settings.Server, false, 0
	s.repository, err = repo.Open(t.settings.Server)
	return err
}

// deliver brings the events to the server. What it does not get now it gets with the
// next poll.
func (a *Agent) deliver(ctx context.Context, t *task) {
	s := &a.server
	to, ok := s.repository.(event.Reporter)
	queue, _ := a.queue.take()
	if !ok || queue == nil || s.noEvents {
		return
	}
	switch err := queue.Deliver(ctx, to, a.report(t)); {
	case errors.Is(err, repo.ErrNotFound):
		s.noEvents = true
	case err != nil && ctx.Err() == nil:
		a.Log.Debug(fmt.Sprintf("the server was not told what happened here: %v", err))
	}
}

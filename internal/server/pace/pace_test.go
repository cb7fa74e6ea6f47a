package pace

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// sent runs clients with so many connections each for some seconds of a clock of
// their own, and returns what each client has sent.
func sent(t *testing.T, p *Pacer, seconds int, connections map[string]int) map[string]int {
	got := map[string]int{}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Duration(seconds)*time.Second)
		defer cancel()
		var mu sync.Mutex
		var g sync.WaitGroup
		for name, n := range connections {
			for range n {
				g.Go(func() {
					line := p.Join(name)
					defer line.Leave()
					for line.Wait(ctx, Slice) == nil {
						mu.Lock()
						got[name] += Slice
						mu.Unlock()
					}
				})
			}
		}
		g.Wait()
		time.Sleep(time.Minute) // of that clock: the turn that was given last passes
	})
	if len(p.clients) != 0 || len(p.queue) != 0 {
		t.Errorf("%d clients and %d turns are left", len(p.clients), len(p.queue))
	}
	return got
}

// about reports whether n is within a few slices of what is wanted.
func about(n, want int) bool { return n >= want-3*Slice && n <= want+3*Slice }

func TestTotal(t *testing.T) {
	const total = 1 << 20
	got := sent(t, New(total, 0), 100, map[string]int{"greedy": 50, "b": 1, "c": 1, "d": 4})
	for name, n := range got {
		if !about(n, 100*total/4) {
			t.Errorf("%s has sent %d bytes, want a quarter of %d", name, n, 100*total)
		}
	}
}

func TestEach(t *testing.T) {
	const each = 100_000
	for name, n := range sent(t, New(0, each), 100, map[string]int{"a": 10, "b": 1}) {
		if !about(n, 100*each) {
			t.Errorf("%s has sent %d bytes, want %d", name, n, 100*each)
		}
	}
}

// Who is limited leaves the rest to others.
func TestBoth(t *testing.T) {
	const total, each = 300_000, 200_000
	got := sent(t, New(total, each), 100, map[string]int{"a": 3, "b": 1})
	if !about(got["a"], 100*total/2) || !about(got["b"], 100*total/2) {
		t.Errorf("%v", got)
	}
	if got := sent(t, New(total, each), 100, map[string]int{"a": 3}); !about(got["a"], 100*each) {
		t.Errorf("%v", got)
	}
}

func TestNoLimit(t *testing.T) {
	line := New(0, 0).Join("a")
	if line != nil || line.Wait(t.Context(), Slice) != nil {
		t.Error("it waits")
	}
	line.Leave()
}

// Who goes does not hold up others.
func TestCancelled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(1000, 0)
		line := p.Join("a")
		if err := line.Wait(t.Context(), Slice); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := line.Wait(ctx, 1000); !errors.Is(err, context.DeadlineExceeded) && err != nil {
			t.Error(err)
		}
		line.Leave()
		other := p.Join("b")
		defer other.Leave()
		if err := other.Wait(t.Context(), 1000); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Minute)
	})
}

package access

import (
	"context"
	"crypto/sha256"
	"sync"
)

// turns are held by one at a time, each.
type turns struct {
	mu   sync.Mutex
	each map[[sha256.Size]byte]*turn // those that are held or waited for
}

type turn struct {
	held chan struct{}
	uses int // who holds it or waits for it
}

func newTurns() *turns { return &turns{each: map[[sha256.Size]byte]*turn{}} }

// take waits for a turn, until leave is called.
func (t *turns) take(ctx context.Context, key [sha256.Size]byte) (leave func(), err error) {
	t.mu.Lock()
	one := t.each[key]
	if one == nil {
		one = &turn{held: make(chan struct{}, 1)}
		t.each[key] = one
	}
	one.uses++
	t.mu.Unlock()
	done := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if one.uses--; one.uses == 0 {
			delete(t.each, key)
		}
	}
	select {
	case one.held <- struct{}{}:
		return func() { <-one.held; done() }, nil
	case <-ctx.Done():
		done()
		return nil, interrupted(ctx)
	}
}

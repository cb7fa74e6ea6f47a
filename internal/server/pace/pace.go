// Package pace shares a rate among clients, fairly.
package pace

import (
	"container/heap"
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// Slice is how many bytes a client may send at a turn. With thousands of clients
// each of them still gets a turn every few seconds.
const Slice = 16 << 10

// Pacer lets clients send in turns, so that all together, and each of them, stay
// below a rate. Who waits is served in the order of how little its client has had
// (start-time fair queueing): a client with many connections gets no more than one
// with a single one.
type Pacer struct {
	each  rate.Limit
	total *rate.Limiter // nil: no limit

	mu      sync.Mutex
	clients map[string]*client
	queue   queue
	now     float64 // virtual time: bytes that a client which always waited has had
	running bool
}

// client is who is sending.
type client struct {
	uses    int
	limiter *rate.Limiter // nil: no limit
	had     float64       // virtual time at which its last turn ends
}

// New returns a Pacer for so many bytes a second, in total and for each client; 0
// is no limit.
func New(total, each int64) *Pacer {
	p := &Pacer{each: rate.Limit(each), clients: map[string]*client{}}
	if total > 0 {
		p.total = rate.NewLimiter(rate.Limit(total), Slice)
	}
	return p
}

// A Line is where the answers of one client wait for their turn.
type Line struct {
	p    *Pacer
	name string
	c    *client
}

// Join returns the line of a client, by whatever name it is told from others.
// Leave ends it. Without limits it is nil, which never waits.
func (p *Pacer) Join(name string) *Line {
	if p.total == nil && p.each == 0 {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[name]
	if c == nil {
		c = &client{}
		if p.each > 0 {
			c.limiter = rate.NewLimiter(p.each, Slice)
		}
		p.clients[name] = c
	}
	c.uses++
	return &Line{p, name, c}
}

// Leave tells that the answer is done.
func (l *Line) Leave() {
	if l == nil {
		return
	}
	l.p.mu.Lock()
	defer l.p.mu.Unlock()
	if l.c.uses--; l.c.uses == 0 {
		delete(l.p.clients, l.name)
	}
}

// Wait returns when n bytes, at most a Slice, may be sent.
func (l *Line) Wait(ctx context.Context, n int) error {
	if l == nil {
		return nil
	}
	if l.c.limiter != nil {
		if err := l.c.limiter.WaitN(ctx, n); err != nil {
			return err
		}
	}
	if l.p.total == nil {
		return nil
	}
	t := l.p.enter(l.c, n)
	select {
	case <-t.begun:
		return nil
	case <-ctx.Done():
		l.p.mu.Lock()
		defer l.p.mu.Unlock()
		t.gone = true
		return ctx.Err()
	}
}

func (p *Pacer) enter(c *client, n int) *turn {
	p.mu.Lock()
	defer p.mu.Unlock()
	t := &turn{start: max(p.now, c.had), n: n, begun: make(chan struct{})}
	c.had = t.start + float64(n)
	heap.Push(&p.queue, t)
	if !p.running {
		p.running = true
		go p.run()
	}
	return t
}

// run gives turns as long as anybody waits for one.
func (p *Pacer) run() {
	for {
		p.mu.Lock()
		if len(p.queue) == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		t := heap.Pop(&p.queue).(*turn)
		gone := t.gone
		if !gone {
			p.now = t.start
		}
		p.mu.Unlock()
		if gone {
			continue
		}
		p.total.WaitN(context.Background(), t.n) // cannot fail: n is at most its burst
		close(t.begun)
	}
}

// turn is a wish to send.
type turn struct {
	start float64
	n     int
	begun chan struct{}
	gone  bool // nobody waits for it any more
}

// queue is a heap of turns, the earliest first.
type queue []*turn

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].start < q[j].start }
func (q queue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *queue) Push(t any) { *q = append(*q, t.(*turn)) }

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	t := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	return t
}

package smbhost

import (
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// watched is a connection that ends when the machine is silent for too long
// while it owes an answer: a network that was cut says nothing. What it answers
// has passed the guard.
type watched struct {
	net.Conn
	guard  *guard
	gone   atomic.Bool // it ended, and not because we closed it
	closed atomic.Bool
	stop   chan struct{}
	once   sync.Once
}

func watch(c net.Conn, silence time.Duration) *watched {
	g := newGuard(c, silence)
	w := &watched{Conn: g, guard: g, stop: make(chan struct{})}
	go func() {
		t := time.NewTicker(silence / 10)
		defer t.Stop()
		for {
			select {
			case <-w.stop:
				return
			case now := <-t.C:
				if g.overdue(now) {
					w.gone.Store(true)
					w.Close()
					return
				}
			}
		}
	}()
	return w
}

// Read implements net.Conn.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if err != nil && !w.closed.Load() && w.guard.refused() == nil && !w.guard.loggedOff() {
		w.gone.Store(true)
	}
	return n, err
}

// Close implements net.Conn.
func (w *watched) Close() error {
	w.closed.Store(true)
	w.once.Do(func() { close(w.stop) })
	return w.Conn.Close()
}

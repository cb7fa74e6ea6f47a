package sshhost

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// watched is a connection that ends when the machine is silent for too long: a
// network that was cut says nothing. The machine is asked to answer from time to
// time, so that silence means something.
type watched struct {
	net.Conn
	heard  atomic.Bool  // since the last tick
	asking atomic.Int32 // people are being asked: nobody waits for the machine

	mu    sync.Mutex
	ping  func() // nil before there is somebody to answer
	cause error
	ended chan struct{}
}

// ticks is in how many parts the time of silence is watched.
const ticks = 3

func watch(c net.Conn, silence time.Duration) *watched {
	w := &watched{Conn: c, ended: make(chan struct{})}
	go w.run(silence)
	return w
}

func (w *watched) run(silence time.Duration) {
	t := time.NewTicker(silence / ticks)
	defer t.Stop()
	var pinging atomic.Bool
	// Ticks are counted, not time: when we were stopped ourselves, the machine
	// is not to blame.
	for silent := 0; ; {
		select {
		case <-w.ended:
			return
		case <-t.C:
		}
		if silent++; w.heard.Swap(false) || w.asking.Load() > 0 {
			silent = 0
		}
		if silent >= ticks {
			w.cut(fmt.Errorf("it has not answered for %v", silence))
			return
		}
		w.mu.Lock()
		ping := w.ping
		w.mu.Unlock()
		if ping != nil && pinging.CompareAndSwap(false, true) {
			go func() {
				ping()
				pinging.Store(false)
			}()
		}
	}
}

// keepAlive has ping called from time to time: it makes the machine answer.
func (w *watched) keepAlive(ping func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ping = ping
}

// pause keeps the machine's silence from counting until the returned function
// is called.
func (w *watched) pause() (resume func()) {
	w.asking.Add(1)
	return func() {
		w.heard.Store(true)
		w.asking.Add(-1)
	}
}

// cut ends the connection, because of err. The first reason counts.
func (w *watched) cut(err error) {
	w.mu.Lock()
	first := w.cause == nil
	if first {
		w.cause = err
		close(w.ended)
	}
	w.mu.Unlock()
	if first {
		w.Conn.Close()
	}
}

// why returns the reason for which the connection was cut, or nil.
func (w *watched) why() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cause
}

// Read implements net.Conn.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	if n > 0 {
		w.heard.Store(true)
	}
	return n, err
}

// errEnded says that the connection has ended, for no reason that we know.
var errEnded = errors.New("the connection has ended")

// Close implements net.Conn.
func (w *watched) Close() error {
	w.cut(errEnded)
	return nil
}

package durable

import (
	"os"
	"sync/atomic"
)

// flushEvery is how many bytes are written before the disk is asked to start.
const flushEvery = 32 << 20

// A Flusher has what is written to a file brought to the disk while more is
// written. Systems leave that until there is much to do, or until Sync, which
// then waits for all of it. It is a hint: Sync is still needed.
type Flusher struct {
	f       *os.File
	written atomic.Int64
	kick    chan struct{}
	done    chan struct{}
}

// NewFlusher returns the Flusher of f, which must stay open until Close.
func NewFlusher(f *os.File) *Flusher {
	fl := &Flusher{f: f, kick: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(fl.done)
		for range fl.kick {
			startWriteback(fl.f)
		}
	}()
	return fl
}

// Wrote tells that n bytes were written. It does not wait.
func (fl *Flusher) Wrote(n int) {
	if after := fl.written.Add(int64(n)); after/flushEvery != (after-int64(n))/flushEvery {
		select {
		case fl.kick <- struct{}{}:
		default: // one is waiting already
		}
	}
}

// Close ends the Flusher. Nobody may call Wrote any more.
func (fl *Flusher) Close() {
	close(fl.kick)
	<-fl.done
}

package host

import (
	"context"
	"sync"

	"golang.org/x/sync/semaphore"
)

// behindWindow is how many bytes of a file are under way at once. As many fill a
// network of 1 Gbit/s and 30 ms.
const behindWindow = 4 << 20

// WriteBehind writes to a file of a remote machine. Writes return before the
// machine has answered, as they do on a system with a cache; Settle waits for
// all of them and tells what became of them.
type WriteBehind struct {
	ctx   context.Context
	write func(p []byte, off int64) error
	slots *semaphore.Weighted

	mu  sync.Mutex
	err error // of a write
}

// NewWriteBehind returns a WriteBehind that writes with write, which is called
// from several goroutines at once and must not keep p. It does not end with ctx:
// what is under way ends with the connection.
func NewWriteBehind(ctx context.Context, write func(p []byte, off int64) error) *WriteBehind {
	return &WriteBehind{ctx: context.WithoutCancel(ctx), write: write, slots: semaphore.NewWeighted(behindWindow)}
}

// WriteAt implements io.WriterAt. An error may be that of an earlier write.
func (w *WriteBehind) WriteAt(p []byte, off int64) (int, error) {
	for done := 0; done < len(p); {
		part := p[done:min(done+behindWindow/4, len(p))]
		if err := w.slots.Acquire(w.ctx, int64(len(part))); err != nil {
			return done, err
		}
		if err := w.failure(); err != nil {
			w.slots.Release(int64(len(part)))
			return done, err
		}
		part = append([]byte(nil), part...)
		at := off + int64(done)
		go func() {
			defer w.slots.Release(int64(len(part)))
			if err := w.write(part, at); err != nil {
				w.mu.Lock()
				defer w.mu.Unlock()
				if w.err == nil {
					w.err = err
				}
			}
		}()
		done += len(part)
	}
	return len(p), nil
}

func (w *WriteBehind) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err
}

// Settle waits for the writes that are under way, and returns the first error
// that any had since the file was opened.
func (w *WriteBehind) Settle() error {
	if err := w.slots.Acquire(w.ctx, behindWindow); err != nil {
		return err
	}
	w.slots.Release(behindWindow)
	return w.failure()
}

package fleet

import (
	"context"
	"math"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"prestage/internal/host"
)

// maxTurn is the most that is given to one machine before it is the next one's
// turn, in bytes.
const maxTurn = 64 << 10

// Limits bounds how many bytes a second are exchanged with all machines
// together, and with each. What is left by machines that are slower than their
// share goes to the others.
type Limits struct {
	all  bucket
	each int64
}

// NewLimits returns limits in bytes a second; 0 is no limit.
func NewLimits(all, each int64) *Limits { return &Limits{newBucket(all), each} }

// Share returns what one machine may use, for one attempt.
func (l *Limits) Share() *Share { return &Share{l: l, own: newBucket(l.each)} }

// Share is one machine's part of Limits.
type Share struct {
	// Alive, if it is set, is called for each part that is let through. Under
	// narrow limits that is more often than anything is finished: a machine
	// that is held back is not one that hangs.
	Alive func()

	l             *Limits
	own           bucket
	written, read atomic.Int64
}

// Written and Read return how many bytes of files went to the machine and came
// from it, also when the work on it failed.
func (s *Share) Written() int64 { return s.written.Load() }

// Read is described at Written.
func (s *Share) Read() int64 { return s.read.Load() }

// Host returns h with the share's limits on what is read from its files and
// written to them. It is not the limiter of prestage.Push that is used for
// this, because that knows one bound, and one direction: reading back takes as
// much of the network as writing.
func (s *Share) Host(h host.Host) host.Host { return limitedHost{h, s} }

// wait holds n bytes back until they keep to both limits. A machine is in the
// queue of all machines once, however many goroutines serve it, so that all get
// their turn alike.
func (s *Share) wait(ctx context.Context, n int) error {
	if s.own.Limiter == nil && s.l.all.Limiter == nil {
		return ctx.Err()
	}
	if err := s.own.enter(ctx); err != nil {
		return err
	}
	defer s.own.leave()
	for n > 0 {
		m := min(n, maxTurn, s.own.most(), s.l.all.most())
		if err := s.own.take(ctx, m); err != nil {
			return err
		}
		if err := s.l.all.enter(ctx); err != nil {
			return err
		}
		err := s.l.all.take(ctx, m)
		s.l.all.leave()
		if err != nil {
			return err
		}
		n -= m
		if s.Alive != nil {
			s.Alive()
		}
	}
	return nil
}

// bucket is a limiter, if it has one, with a queue of those who want something
// of it. The queue lets nobody reserve who has not his turn: whoever gives up
// while he waits costs the others nothing.
type bucket struct {
	*rate.Limiter
	turn chan struct{}
}

func newBucket(perSecond int64) bucket {
	b := bucket{turn: make(chan struct{}, 1)}
	if perSecond > 0 {
		// A second's worth, but not more than a network card sends at once.
		// More where the rate is high: sleeping is not exact.
		burst := min(perSecond, max(1<<20, perSecond/20), math.MaxInt32)
		b.Limiter = rate.NewLimiter(rate.Limit(perSecond), int(burst))
	}
	return b
}

func (b bucket) enter(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}: // served in the order of coming
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b bucket) leave() { <-b.turn }

func (b bucket) most() int {
	if b.Limiter == nil {
		return maxTurn
	}
	return b.Burst()
}

// take is rate.Limiter.WaitN, but waits also when ctx has a deadline before
// its turn: WaitN then fails at once, and its error would pass for one of the
// data.
func (b bucket) take(ctx context.Context, n int) error {
	if b.Limiter == nil {
		return ctx.Err()
	}
	now := time.Now()
	r := b.ReserveN(now, n)
	d := r.DelayFrom(now)
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		r.Cancel()
		return ctx.Err()
	}
}

// limitedHost is a host whose files keep to a share.
type limitedHost struct {
	host.Host
	s *Share
}

// Unwrap returns the host itself, for what takes nothing of the network.
func (h limitedHost) Unwrap() host.Host { return h.Host }

// Open implements host.Host.
func (h limitedHost) Open(ctx context.Context, path string) (host.File, error) {
	return h.limit(ctx)(h.Host.Open(ctx, path))
}

// OpenWrite implements host.Host.
func (h limitedHost) OpenWrite(ctx context.Context, path string) (host.File, error) {
	return h.limit(ctx)(h.Host.OpenWrite(ctx, path))
}

func (h limitedHost) limit(ctx context.Context) func(host.File, error) (host.File, error) {
	return func(f host.File, err error) (host.File, error) {
		if err != nil {
			return nil, err
		}
		return limitedFile{f, ctx, h.s}, nil
	}
}

// limitedFile is a file that keeps to a share until the context that it was
// opened with ends.
type limitedFile struct {
	host.File
	ctx context.Context
	s   *Share
}

// ReadAt implements io.ReaderAt.
func (f limitedFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.s.wait(f.ctx, len(p)); err != nil {
		return 0, err
	}
	n, err := f.File.ReadAt(p, off)
	f.s.read.Add(int64(n))
	return n, err
}

// WriteAt implements io.WriterAt.
func (f limitedFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.s.wait(f.ctx, len(p)); err != nil {
		return 0, err
	}
	n, err := f.File.WriteAt(p, off)
	f.s.written.Add(int64(n))
	return n, err
}

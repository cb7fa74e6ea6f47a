package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"

	"github.com/zeebo/blake3"
	"golang.org/x/sync/errgroup"

	"prestage/ckm"
)

// contentSpan is how much of a CKM is read at once, in bytes.
const contentSpan = 1 << 20

// Content checks all that there is to check of a CKM of the right length, as for
// one that comes from somebody else: its digests as a whole, and that each frame
// decompresses to the chunks that the index says. Bad is the first frame that is
// not right, or -1 when none is to blame. The error wraps ckm.ErrMismatch when
// anything is not what it should be. Add hears of each byte.
func Content(ctx context.Context, x *ckm.Index, r io.ReaderAt, add func(int64)) (bad int, err error) {
	c := &content{x: x, r: r, add: add, blake: blake3.New(), sha: sha256.New(), bad: -1,
		work: make(chan span), free: make(chan []byte, 2*runtime.GOMAXPROCS(0))}
	for range cap(c.free) {
		c.free <- nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { defer close(c.work); return c.read(ctx) })
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error { c.decode(); return nil })
	}
	if err := g.Wait(); err != nil {
		return -1, err
	}
	if c.bad >= 0 {
		if !errors.Is(c.why, ckm.ErrMismatch) {
			c.why = fmt.Errorf("%w: %w", ckm.ErrMismatch, c.why)
		}
		return c.bad, fmt.Errorf("frame %d: %w", c.bad, c.why)
	}
	if [32]byte(c.blake.Sum(nil)) != x.CKMBlake3 || [32]byte(c.sha.Sum(nil)) != x.CKMSHA256 {
		return -1, fmt.Errorf("%w: the CKM as a whole is not the one of the INDEX", ckm.ErrMismatch)
	}
	return -1, nil
}

// content is the work of Content: a CKM is read and hashed from front to back, and
// decoded by as many as there are processors.
type content struct {
	x          *ckm.Index
	r          io.ReaderAt
	add        func(int64)
	blake, sha hash.Hash
	work       chan span
	free       chan []byte // buffers, nil where there is none yet

	mu  sync.Mutex
	bad int // frame
	why error
}

// span is some neighbouring frames, from first to before end.
type span struct {
	first, end int
	stored     []byte
}

// read reads and hashes all of the CKM, and hands its frames out.
func (c *content) read(ctx context.Context) error {
	if err := c.hash(make([]byte, ckm.HeaderSize), 0); err != nil {
		return err
	}
	for first := 0; first < c.x.Frames(); {
		n, end := 0, first
		for end < c.x.Frames() && (end == first || n+int(c.x.Frame(end).Stored) <= contentSpan) {
			n += int(c.x.Frame(end).Stored)
			end++
		}
		var p []byte
		select {
		case p = <-c.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		if cap(p) < n {
			p = make([]byte, max(n, contentSpan))
		}
		if err := c.hash(p[:n], int64(c.x.Frame(first).Offset)); err != nil {
			return err
		}
		select {
		case c.work <- span{first, end, p[:n]}:
		case <-ctx.Done():
			return ctx.Err()
		}
		first = end
	}
	return c.hash(make([]byte, ckm.TrailerSize), int64(c.x.CKMLength)-ckm.TrailerSize)
}

// hash reads and hashes what comes next.
func (c *content) hash(p []byte, off int64) error {
	if n, err := c.r.ReadAt(p, off); n < len(p) {
		return fmt.Errorf("reading the CKM: %w", err)
	}
	c.blake.Write(p)
	c.sha.Write(p)
	c.add(int64(len(p)))
	return nil
}

// decode decompresses frames and checks what they hold.
func (c *content) decode() {
	var raw []byte
	for s := range c.work {
		at := 0
		for f := s.first; f < s.end; f++ {
			stored := s.stored[at : at+int(c.x.Frame(f).Stored)]
			at += len(stored)
			err := c.x.CheckStored(f, stored)
			if err == nil {
				var out []byte
				if out, err = c.x.DecodeFrame(f, raw, stored); err == nil {
					raw = out
				}
			}
			if err != nil {
				c.blame(f, err)
			}
		}
		c.free <- s.stored
	}
}

func (c *content) blame(frame int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bad < 0 || frame < c.bad {
		c.bad, c.why = frame, err
	}
}

package verify

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
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
	type piece struct {
		first, end int // frames
		p          []byte
	}
	var (
		mu    sync.Mutex
		worst error
	)
	bad = -1
	blame := func(f int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if bad < 0 || f < bad {
			bad, worst = f, err
		}
	}
	sums, sha := blake3.New(), sha256.New()
	whole := io.MultiWriter(sums, sha)
	g, gctx := errgroup.WithContext(ctx)
	work, free := make(chan piece), make(chan []byte, 2*runtime.GOMAXPROCS(0))
	for range cap(free) {
		free <- nil
	}
	g.Go(func() error {
		defer close(work)
		hash := func(p []byte, off int64) error {
			if _, err := r.ReadAt(p, off); err != nil {
				return fmt.Errorf("reading the CKM: %w", err)
			}
			whole.Write(p)
			add(int64(len(p)))
			return nil
		}
		if err := hash(make([]byte, ckm.HeaderSize), 0); err != nil {
			return err
		}
		for first := 0; first < x.Frames(); {
			off, n, end := int64(x.Frame(first).Offset), 0, first
			for end < x.Frames() && (end == first || n+int(x.Frame(end).Stored) <= contentSpan) {
				n += int(x.Frame(end).Stored)
				end++
			}
			var p []byte
			select {
			case p = <-free:
			case <-gctx.Done():
				return gctx.Err()
			}
			if cap(p) < n {
				p = make([]byte, max(n, contentSpan))
			}
			if err := hash(p[:n], off); err != nil {
				return err
			}
			select {
			case work <- piece{first, end, p[:n]}:
			case <-gctx.Done():
				return gctx.Err()
			}
			first = end
		}
		return hash(make([]byte, ckm.TrailerSize), int64(x.CKMLength)-ckm.TrailerSize)
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			var raw []byte
			for w := range work {
				at := 0
				for f := w.first; f < w.end; f++ {
					stored := w.p[at : at+int(x.Frame(f).Stored)]
					at += len(stored)
					err := x.CheckStored(f, stored)
					if err == nil {
						var out []byte
						if out, err = x.DecodeFrame(f, raw, stored); err == nil {
							raw = out
						}
					}
					if err != nil {
						blame(f, err)
					}
				}
				free <- w.p
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return -1, err
	}
	if bad >= 0 {
		if !errors.Is(worst, ckm.ErrMismatch) {
			worst = fmt.Errorf("%w: %w", ckm.ErrMismatch, worst)
		}
		return bad, fmt.Errorf("frame %d: %w", bad, worst)
	}
	if ckm.Digest(sums.Sum(nil)) != x.CKMBlake3 || [sha256.Size]byte(sha.Sum(nil)) != x.CKMSHA256 {
		return -1, fmt.Errorf("%w: the CKM as a whole is not the one of the INDEX", ckm.ErrMismatch)
	}
	return -1, nil
}

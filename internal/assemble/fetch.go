// Package assemble builds an image, or a copy of a CKM, from an index and
// sources of its frames. What is unfinished is its own journal: after a cut,
// what is there is checked, and only what is not right is fetched.
package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"
	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/progress"
	"prestage/internal/repo"
)

// ErrIncomplete says that no source had all frames that were needed.
var ErrIncomplete = errors.New("the package cannot be read in full")

// A Source is a place that a package's CKM can be read from. It is opened only
// when it is needed.
type Source struct {
	Name string // for people
	Open func(context.Context) (repo.Data, error)
	Free bool // reading it does not count against the limit
}

// RepositorySource is the CKM of package x in r.
func RepositorySource(r repo.Repository, x *ckm.Index) Source {
	return Source{Name: fmt.Sprint(r), Open: func(ctx context.Context) (repo.Data, error) { return r.Data(ctx, x.Name, x.Version) }}
}

// A Fetcher brings frames from sources. A source that fails, or has wrong
// bytes, costs only the frames that it could not supply: the next one is
// asked for those.
type Fetcher struct {
	Index   *ckm.Index
	Sources []Source
	Meter   progress.Meter
	Limit   *rate.Limiter // of bytes a second from all sources that are not free, nil for none

	// For images: what this machine has already, in the order in which it is
	// asked, and a folder that may hold most of the image at the same places.
	Seeds    []Seed
	CopyFrom string

	// Fetched counts the stored bytes that each source supplied, Reused the raw
	// bytes of each seed.
	Fetched, Reused []int64
}

// Frames fetches the frames in need, which are in ascending order, and hands
// the stored bytes of each to use, from several goroutines at once. An error
// of use that wraps ckm.ErrMismatch says that the bytes are not the frame's;
// any other ends the work. The error wraps ErrIncomplete when frames are
// missing after the last source was asked.
func (t *Fetcher) Frames(ctx context.Context, need []int, use func(frame int, stored []byte) error) error {
	return t.frames(ctx, need, use, nil)
}

// local is what this machine can supply itself, before a source is asked that is
// not free.
type local struct {
	unheld func() []int // frames that it cannot, as far as can be told
	supply func(ctx context.Context) error
	left   func() []int // frames that are needed after that
}

// frames is Frames with what this machine can supply itself, if that is not nil.
func (t *Fetcher) frames(ctx context.Context, need []int, use func(frame int, stored []byte) error, here *local) error {
	var causes []string
	t.Fetched = make([]int64, len(t.Sources))
	for i, src := range t.Sources {
		if len(need) > 0 && !src.Free && here != nil {
			// What must be fetched in any case is, meanwhile. What that cannot bring is
			// tried again below, with its reasons.
			g, gctx := errgroup.WithContext(ctx)
			g.Go(func() error { return here.supply(gctx) })
			if early := here.unheld(); len(early) > 0 {
				g.Go(func() error {
					_, _, err := t.from(gctx, i, early, use)
					return err
				})
			}
			if err := g.Wait(); err != nil {
				return err
			}
			need, here = here.left(), nil
		}
		if len(need) == 0 {
			return nil
		}
		missing, cause, err := t.from(ctx, i, need, use)
		if err != nil {
			return err
		}
		if need = missing; len(need) == 0 {
			return nil
		}
		causes = append(causes, fmt.Sprintf("%s: %v", src.Name, cause))
		if i+1 < len(t.Sources) && !errors.Is(cause, repo.ErrNotFound) {
			t.Meter.Warn("%s: %v; %d of %d frames will be read from %s instead", src.Name, cause, len(need), t.Index.Frames(), t.Sources[i+1].Name)
		}
	}
	if len(need) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %d of %d frames are missing or damaged: %s", ErrIncomplete, len(need), t.Index.Frames(), strings.Join(causes, "; "))
}

// from fetches what it can from one source and returns the frames that are
// still missing, and why.
func (t *Fetcher) from(ctx context.Context, source int, need []int, use func(int, []byte) error) (missing []int, cause, err error) {
	var (
		mu   sync.Mutex
		gone error // the source is not asked for any more
	)
	src, err := t.Sources[source].Open(ctx)
	if err != nil {
		return need, err, ctx.Err()
	}
	defer src.Close()
	if size, err := src.Size(); err == nil && size > int64(t.Index.CKMLength) {
		return need, fmt.Errorf("%w: it has %d bytes and should have %d: it is another package's", ckm.ErrMismatch, size, t.Index.CKMLength), nil
	}
	limit := t.Limit
	if t.Sources[source].Free {
		limit = nil
	}
	fail := func(frames []int, why error) {
		mu.Lock()
		defer mu.Unlock()
		missing = append(missing, frames...)
		if errors.Is(why, repo.ErrUnavailable) {
			gone = why
		}
		if cause == nil || errors.Is(cause, ckm.ErrMismatch) {
			cause = why
		}
	}
	worker := func(ctx context.Context, spans <-chan []int) error {
		var buf []byte
		for frames := range spans {
			mu.Lock()
			why := gone
			mu.Unlock()
			if why != nil {
				fail(frames, why)
				continue
			}
			got, err := t.read(ctx, src, limit, frames, &buf, use, fail)
			mu.Lock()
			t.Fetched[source] += got
			mu.Unlock()
			if err != nil {
				return err
			}
		}
		return nil
	}
	if err := inSpans(ctx, src.Traits(), need, t.place, worker); err != nil {
		return nil, nil, err
	}
	slices.Sort(missing)
	return missing, cause, nil
}

// place returns where a frame lies in the CKM.
func (t *Fetcher) place(frame int) (offset, length int64) {
	f := t.Index.Frame(frame)
	return int64(f.Offset), int64(f.Stored)
}

// read reads one span and returns how many bytes of frames were used. Only an
// error that ends all work is returned; others go to fail.
func (t *Fetcher) read(ctx context.Context, src repo.Data, limit *rate.Limiter, frames []int, buf *[]byte,
	use func(int, []byte) error, fail func([]int, error)) (got int64, err error) {
	at := int64(t.Index.Frame(frames[0]).Offset)
	last := t.Index.Frame(frames[len(frames)-1])
	r, err := src.ReadRange(ctx, at, int64(last.Offset)+int64(last.Stored)-at)
	if err != nil {
		if ctx.Err() != nil {
			return 0, ctx.Err()
		}
		fail(frames, err)
		return 0, nil
	}
	defer r.Close()
	for i, n := range frames {
		f := t.Index.Frame(n)
		if cap(*buf) < int(f.Stored) {
			*buf = make([]byte, 2*f.Stored)
		}
		stored := (*buf)[:f.Stored]
		if _, err = io.CopyN(io.Discard, r, int64(f.Offset)-at); err == nil {
			err = wait(ctx, limit, len(stored))
		}
		if err == nil {
			_, err = io.ReadFull(r, stored)
		}
		if ctx.Err() != nil {
			return got, ctx.Err()
		}
		if err != nil {
			if !errors.Is(err, repo.ErrUnavailable) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)) {
				err = fmt.Errorf("%w: the CKM is cut short", ckm.ErrMismatch)
			}
			fail(frames[i:], err)
			return got, nil
		}
		at = int64(f.Offset) + int64(f.Stored)
		if err := use(n, stored); errors.Is(err, ckm.ErrMismatch) {
			fail(frames[i:i+1], err)
			continue
		} else if err != nil {
			return got, err
		}
		got += int64(len(stored))
	}
	return got, nil
}

// wait holds n bytes back to keep to the limit, if there is one.
func wait(ctx context.Context, limit *rate.Limiter, n int) error {
	if limit == nil {
		return ctx.Err()
	}
	for n > 0 {
		m := min(n, limit.Burst())
		if err := limit.WaitN(ctx, m); err != nil {
			return err
		}
		n -= m
	}
	return nil
}

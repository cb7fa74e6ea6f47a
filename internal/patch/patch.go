// Package patch makes what a version of an image adds to the one before smaller:
// chunks that are new, compressed against what was in their place. It works from
// the two packages alone.
package patch

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"runtime"
	"runtime/debug"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
	"prestage/internal/progress"
)

// ErrNotWorth says that hardly anything would be saved.
var ErrNotWorth = errors.New("a patch would save hardly anything")

// A part is worth having if it is smaller than this share of the frames that it
// saves, a patch if it saves this share of what an update moves.
const (
	worthPart  = 0.9
	worthPatch = 0.02
)

// Made says what a patch is worth.
type Made struct {
	Parts int
	Bytes int64 // of the patch
	Saved int64 // bytes less that an update moves, of which it moves Update without
	// Update is the size of all frames that the version before lacks, in bytes.
	Update int64
}

// Write writes a patch that makes chunks of a package from those of old, another
// version of the image, to w. Scratch is an empty file that it may use; what is
// left in it is worth nothing. The error is ErrNotWorth if that is so; then
// nothing was written.
func Write(ctx context.Context, w io.Writer, scratch *os.File, old, pkg Package, meter progress.Meter) (Made, error) {
	// The compressors' tables live long and are most of the memory: to wait until as
	// much again is garbage would double it.
	defer debug.SetGCPercent(debug.SetGCPercent(20))
	m := matcher{old: newContent(ctx, old), new: newContent(ctx, pkg), known: ckm.NewIDSet(old.Index)}
	if err := m.match(); err != nil {
		return Made{}, err
	}
	jobs, made := m.jobs()
	meter.Begin("patching", made.Update)
	p := &ckm.Patch{Package: pkg.Index.Digest(), Base: old.Index.Digest(), BaseVersion: old.Index.Version}
	if err := m.run(ctx, jobs, func(j *job) error {
		meter.Add(j.frames)
		if float64(len(j.stored)) > worthPart*float64(j.frames) {
			return nil
		}
		j.part.Stored = uint32(len(j.stored))
		p.Parts = append(p.Parts, j.part)
		made.Bytes += int64(len(j.stored))
		made.Saved += j.frames - int64(len(j.stored))
		_, err := scratch.Write(j.stored)
		return err
	}); err != nil {
		return made, err
	}
	if made.Parts = len(p.Parts); made.Parts == 0 || float64(made.Saved) < worthPatch*float64(made.Update) {
		return made, ErrNotWorth
	}
	head, err := p.EncodeHead(pkg.Index, old.Index)
	if err != nil {
		return made, err
	}
	made.Bytes += int64(len(head))
	if _, err := w.Write(head); err != nil {
		return made, err
	}
	if _, err := scratch.Seek(0, io.SeekStart); err != nil {
		return made, err
	}
	_, err = io.Copy(w, scratch)
	return made, err
}

// job is a part to be made, and afterwards its bytes.
type job struct {
	part   ckm.PatchPart
	frames int64 // stored bytes of the frames that it saves
	stored []byte
	ready  chan struct{}
}

// jobs divides the frames that are new and like something, in order.
func (m *matcher) jobs() (jobs []*job, made Made) {
	x := m.new.Index
	var last *job
	for f := range x.Frames() {
		first, end := x.FrameChunks(f)
		isNew, isLike := false, false
		for c := first; c < end; c++ {
			isNew = isNew || !m.known.Has(x.ID(c))
			_, like := m.at[uint32(c)]
			isLike = isLike || like
		}
		if !isNew {
			last = nil
			continue
		}
		stored := int64(x.Frame(f).Stored)
		made.Update += stored
		if !isLike {
			last = nil
			continue
		}
		n := uint32(end - first)
		if last != nil && x.RunLength(last.part.First, last.part.Count+n) <= ckm.MaxPatchRaw {
			last.part.Count += n
			last.frames += stored
			continue
		}
		last = &job{part: ckm.PatchPart{First: uint32(first), Count: n}, frames: stored, ready: make(chan struct{})}
		jobs = append(jobs, last)
	}
	return jobs, made
}

// mostWorkers bounds the memory of compressing, some 50 MB each: with more, packing
// would take more than the 192 MiB that it may.
const mostWorkers = 2

// run makes the parts, on several processors, and hands them over in order.
func (m *matcher) run(ctx context.Context, jobs []*job, done func(*job) error) error {
	g, ctx := errgroup.WithContext(ctx)
	workers := min(mostWorkers, runtime.GOMAXPROCS(0))
	work, order := make(chan *job, workers), make(chan *job, 4*workers)
	g.Go(func() error {
		defer close(work)
		defer close(order)
		for _, j := range jobs {
			var err error
			if j.part.Base, err = m.base(int(j.part.First), int(j.part.First+j.part.Count)); err != nil {
				return err
			}
			for _, to := range []chan *job{order, work} {
				select {
				case to <- j:
				case <-ctx.Done():
					return ctx.Err()
				}
			}
		}
		return nil
	})
	for range workers {
		g.Go(func() error {
			c := ckm.NewPatchCompressor()
			var raw, base []byte
			for j := range work {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := m.compress(j, c, &raw, &base); err != nil {
					return err
				}
				close(j.ready)
			}
			return nil
		})
	}
	g.Go(func() error {
		for j := range order {
			select {
			case <-j.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			if err := done(j); err != nil {
				return err
			}
			j.stored = nil
		}
		return nil
	})
	return g.Wait()
}

// compress makes a part's bytes, with two buffers. Without a base there are as many
// as would be saved.
func (m *matcher) compress(j *job, c *ckm.PatchCompressor, raw, base *[]byte) (err error) {
	*base = (*base)[:0]
	for _, r := range j.part.Base {
		if *base, err = m.old.appendRun(*base, r); err != nil {
			return err
		}
	}
	if len(*base) == 0 {
		j.stored = make([]byte, j.frames)
		return nil
	}
	if *raw, err = m.new.appendRun((*raw)[:0], ckm.ChunkRun{First: j.part.First, Count: j.part.Count}); err != nil {
		return err
	}
	stored, err := c.Compress(*raw, *base)
	j.stored = bytes.Clone(stored)
	return err
}

// Package pack turns an image into a package: it cuts the image into chunks,
// leaves out those that it has already, compresses the others in frames, and
// writes CKM and INDEX.
package pack

import (
	"context"
	"io"
	"runtime"
	"sync"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
	"prestage/internal/chunk"
	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/volume"
	"prestage/internal/progress"
)

// frameLimit is the most raw bytes of a frame: neighbours share a frame, which
// compresses better, and no frame is larger than the largest chunk.
const frameLimit = chunk.Max

// Options say how to pack.
type Options struct {
	Level    ckm.Level
	Previous *ckm.Index // the image's version before, or nil: what it lacks is put together, in frames of its own
	// Map says where the files of the machine inside lie, or nothing: chunks are
	// cut along them. What it says of free space matters only if it is discarded.
	Map     *fsmap.Map
	Discard Discard
	Meter   progress.Meter
	// Kept, if it is not nil, is filled with what could have been discarded and
	// was not.
	Kept *Kept
}

// Kept says how many bytes of a package, about, hold what the machine inside
// does not need: of frames that hold other things too, a share.
type Kept struct {
	Free  int64
	Files map[volume.Kind]int64
}

// Write packs the files into w, which takes the CKM, and returns the index.
// Its name, version and time are left for the caller to fill in.
//
// Memory is bounded by a few windows per processor and the chunk table. When
// ctx ends or a read or write fails, what w was given is worthless.
func Write(ctx context.Context, w io.Writer, files []*disk.File, o Options) (*ckm.Index, error) {
	x := &ckm.Index{Info: ckm.Info{ChunkMin: chunk.Min, ChunkAvg: chunk.Avg, ChunkMax: chunk.Max, FrameLimit: frameLimit}}
	var total int64
	for _, f := range files {
		x.Files = append(x.Files, ckm.File{Path: f.Path, Size: uint64(f.Size), Format: f.Format})
		total += f.Size
	}
	if err := ckm.CheckPaths(x.Files); err != nil { // now, not after hours of packing
		return nil, err
	}
	cw, err := ckm.NewWriter(w, x)
	if err != nil {
		return nil, err
	}
	o.Meter.Begin("packing", total)
	p := newPipeline(x, cw, o)
	if err := p.run(ctx, files); err != nil {
		return nil, err
	}
	for _, f := range files {
		if err := f.CheckUnchanged(); err != nil {
			return nil, err
		}
	}
	if err := cw.Finish(); err != nil {
		return nil, err
	}
	if o.Kept != nil {
		*o.Kept = p.kept
	}
	return x, nil
}

// pipeline carries windows and frames through four stages, each in its own
// goroutines: scan (reads, cuts) → hash → group (finds repeats, fills frames)
// → compress → write. Hashing and compressing use all processors; the order
// of windows and of frames is kept by queues of their own.
type pipeline struct {
	x       *ckm.Index
	cw      *ckm.Writer
	o       Options
	workers int

	toHash, windows     chan *hashJob  // the same jobs: for any hasher, and in order
	toCompress, toWrite chan *frameJob // likewise
	windowBufs          sync.Pool
	frameJobs           sync.Pool

	kept Kept
}

type hashJob struct {
	*window
	ids   []ckm.ID
	ready chan struct{}
}

type frameJob struct {
	raw     []byte
	stored  []byte
	ids     []ckm.ID
	lengths []int
	uses    map[use]int // raw bytes of what could be discarded
	ready   chan struct{}
}

func newPipeline(x *ckm.Index, cw *ckm.Writer, o Options) *pipeline {
	n := runtime.GOMAXPROCS(0)
	p := &pipeline{x: x, cw: cw, o: o, workers: n,
		toHash: make(chan *hashJob, n), windows: make(chan *hashJob, 2*n),
		kept:       Kept{Files: make(map[volume.Kind]int64)},
		toCompress: make(chan *frameJob, 2*n), toWrite: make(chan *frameJob, 8*n)}
	p.windowBufs.New = func() any { b := make([]byte, windowSize); return &b }
	p.frameJobs.New = func() any { return &frameJob{raw: make([]byte, 0, frameLimit), uses: make(map[use]int)} }
	return p
}

func (p *pipeline) run(ctx context.Context, files []*disk.File) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.scan(ctx, files) })
	g.Go(func() error { return p.group(ctx) })
	g.Go(func() error { return p.write(ctx) })
	for range p.workers {
		g.Go(func() error { return p.hash(ctx) })
		g.Go(func() error { return p.compress(ctx) })
	}
	return g.Wait()
}

func (p *pipeline) scan(ctx context.Context, files []*disk.File) error {
	defer close(p.windows)
	defer close(p.toHash)
	s := scanner{
		files: files, add: p.o.Meter.Add,
		get: func() []byte { return *p.windowBufs.Get().(*[]byte) },
		emit: func(ctx context.Context, w *window) error {
			j := &hashJob{window: w, ready: make(chan struct{})}
			if err := send(ctx, p.windows, j); err != nil {
				return err
			}
			return send(ctx, p.toHash, j)
		},
	}
	return s.scan(ctx, plan(files, p.o.Map, p.o.Discard))
}

func (p *pipeline) hash(ctx context.Context) error {
	for {
		j, ok, err := receive(ctx, p.toHash)
		if !ok {
			return err
		}
		j.ids = make([]ckm.ID, len(j.pieces))
		for i := range j.pieces {
			j.ids[i] = ckm.Sum(j.pieces[i].data)
		}
		close(j.ready)
	}
}

// group numbers the chunks, places each, and fills frames with those that are
// new.
func (p *pipeline) group(ctx context.Context) error {
	defer close(p.toWrite)
	defer close(p.toCompress)
	g := grouper{pipeline: p, seen: newChunkTable(), previous: ckm.NewIDSet(p.o.Previous)}
	for {
		j, ok, err := receive(ctx, p.windows)
		if !ok {
			if err != nil {
				return err
			}
			return g.finish(ctx)
		}
		if err := wait(ctx, j.ready); err != nil {
			return err
		}
		for i, piece := range j.pieces {
			if err := g.add(ctx, j.ids[i], piece); err != nil {
				return err
			}
		}
		p.windowBufs.Put(&j.buf)
	}
}

func (p *pipeline) compress(ctx context.Context) error {
	c := ckm.NewCompressor(p.o.Level)
	for {
		j, ok, err := receive(ctx, p.toCompress)
		if !ok {
			return err
		}
		j.stored = c.Append(j.stored[:0], j.raw)
		close(j.ready)
	}
}

func (p *pipeline) write(ctx context.Context) error {
	for {
		j, ok, err := receive(ctx, p.toWrite)
		if !ok {
			return err
		}
		if err := wait(ctx, j.ready); err != nil {
			return err
		}
		if err := p.cw.WriteFrame(j.stored, ckm.CodecZstd, j.ids, j.lengths); err != nil {
			return err
		}
		for u, raw := range j.uses {
			stored := int64(len(j.stored)) * int64(raw) / int64(len(j.raw))
			if u == free {
				p.kept.Free += stored
			} else {
				p.kept.Files[volume.Kind(u-fileUse)] += stored
			}
		}
		p.frameJobs.Put(j)
	}
}

func send[T any](ctx context.Context, c chan<- T, v T) error {
	select {
	case c <- v:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func receive[T any](ctx context.Context, c <-chan T) (v T, ok bool, err error) {
	select {
	case v, ok = <-c:
		return v, ok, nil
	case <-ctx.Done():
		return v, false, ctx.Err()
	}
}

func wait(ctx context.Context, c <-chan struct{}) error {
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"sync"
	"sync/atomic"

	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/repo"
)

// PatchSeed makes chunks of a package from those of another version of the image
// that is installed, and from a patch, of which it fetches what it needs.
type PatchSeed struct {
	data    repo.Data
	patch   *ckm.Patch
	x, base *ckm.Index
	dir     string // of the installed version
	limit   *rate.Limiter
	fetched atomic.Int64
	damaged atomic.Int32 // parts
}

// mostSpoilt is how many parts of a patch may be damaged before it is given up: what
// is wrong on purpose may take long to be seen.
const mostSpoilt = 4

// OpenPatch opens the patch beside the package x in r. Base returns the installed
// version that a patch is based on: its folder and its index. The limit is of
// bytes a second, nil for none. The error wraps repo.ErrNotFound when there is no
// patch, or none that is based on what is installed.
func OpenPatch(ctx context.Context, r repo.Repository, x *ckm.Index, limit *rate.Limiter, base func(version uint32) (dir string, x *ckm.Index, err error)) (*PatchSeed, error) {
	data, err := r.Patch(ctx, x.Name, x.Version)
	if err != nil {
		return nil, err
	}
	s := &PatchSeed{data: data, x: x, limit: limit}
	if err := s.open(ctx, base); err != nil {
		data.Close()
		return nil, err
	}
	return s, nil
}

func (s *PatchSeed) open(ctx context.Context, base func(uint32) (string, *ckm.Index, error)) error {
	head := make([]byte, ckm.PatchHeaderSize)
	if err := s.read(ctx, head, 0); err != nil {
		return err
	}
	h, err := ckm.ParsePatchHeader(head)
	if err != nil {
		return err
	}
	if s.dir, s.base, err = base(h.BaseVersion); err != nil {
		return err
	}
	if s.base.Digest() != h.Base {
		return fmt.Errorf("%w: a patch for the installed version", repo.ErrNotFound)
	}
	// It may claim more than there is.
	if size, err := s.data.Size(); err != nil || size >= 0 && size < int64(h.Size) {
		return fmt.Errorf("%w: the patch is cut short", ckm.ErrFormat)
	}
	head = make([]byte, h.Size)
	if err := s.read(ctx, head, 0); err != nil {
		return err
	}
	s.patch, err = ckm.DecodePatch(head, s.x, s.base)
	return err
}

// read fills p with what is at an offset of the patch.
func (s *PatchSeed) read(ctx context.Context, p []byte, off int64) error {
	r, err := s.data.ReadRange(ctx, off, int64(len(p)))
	if err != nil {
		return err
	}
	defer r.Close()
	if err := wait(ctx, s.limit, len(p)); err != nil {
		return err
	}
	n, err := io.ReadFull(r, p)
	s.fetched.Add(int64(n))
	return err
}

// Close closes the patch.
func (s *PatchSeed) Close() error { return s.data.Close() }

// String implements Seed.
func (s *PatchSeed) String() string { return s.data.String() }

// Fetched returns how many bytes of the patch were read.
func (s *PatchSeed) Fetched() int64 { return s.fetched.Load() }

// Holds implements Seed.
func (s *PatchSeed) Holds() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, p := range s.patch.Parts {
			for c := p.First; c < p.First+p.Count; c++ {
				if !yield(s.x.ID(int(c)).Prefix()) {
					return
				}
			}
		}
	}
}

// needed returns the parts that have missing chunks and are smaller than the
// frames that would bring those.
func (s *PatchSeed) needed(missing func(c int) bool) (parts []*ckm.PatchPart, bytes int64) {
	for i := range s.patch.Parts {
		p := &s.patch.Parts[i]
		frames := int64(0)
		for c, end := int(p.First), int(p.First+p.Count); c < end; c++ {
			if !missing(c) {
				continue
			}
			f := s.x.FrameOf(c)
			frames += int64(s.x.Frame(f).Stored)
			_, last := s.x.FrameChunks(f)
			c = last - 1
		}
		if int64(p.Stored) < frames {
			parts = append(parts, p)
			bytes += int64(p.Stored)
		}
	}
	return parts, bytes
}

// patchSpan is how much of a patch is read at once, in bytes. Making the parts takes
// longer than reading them: there must be some for each processor.
const patchSpan = 4 << 20

// Chunks implements Seed.
func (s *PatchSeed) Chunks(ctx context.Context, wanted func(uint64) (int, bool), use func([]byte) error) error {
	installed, err := OpenTarget(s.dir, s.base, false)
	if err != nil {
		return err
	}
	defer installed.Close()
	parts, _ := s.needed(func(c int) bool { _, ok := wanted(s.x.ID(c).Prefix()); return ok })
	place := func(p *ckm.PatchPart) (offset, length int64) { return int64(p.Offset), int64(p.Stored) }
	var mu sync.Mutex
	var spoilt error // of a part; others may be good
	worker := func(ctx context.Context, spans <-chan []*ckm.PatchPart) error {
		w := patchWorker{PatchSeed: s, installed: installed, dec: ckm.NewPatchDecoder()}
		defer w.dec.Close()
		for parts := range spans {
			if err := w.span(ctx, parts, use); err != nil {
				return err
			}
		}
		mu.Lock()
		defer mu.Unlock()
		spoilt = cmp.Or(spoilt, w.spoilt)
		return nil
	}
	traits := s.data.Traits()
	if traits.Readers != 1 { // else it can only be read in one go
		traits.MaxSpan = min(traits.MaxSpan, patchSpan)
		traits.Readers = min(traits.Readers, runtime.GOMAXPROCS(0)) // each takes some 20 MiB
	}
	if err := inSpans(ctx, traits, parts, place, worker); err != nil {
		return err
	}
	return spoilt
}

// patchWorker makes parts, one at a time.
type patchWorker struct {
	*PatchSeed
	installed         *Target
	dec               *ckm.PatchDecoder
	from, stored, raw []byte
	spoilt            error // of a part that was damaged
}

// span makes those parts of a span whose bases are as they were: what their user
// has changed is known before anything is fetched.
func (w *patchWorker) span(ctx context.Context, parts []*ckm.PatchPart, use func([]byte) error) error {
	var whole []*ckm.PatchPart
	for _, p := range parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		if w.readBase(p, true) {
			whole = append(whole, p)
		}
	}
	if len(whole) == 0 {
		return nil
	}
	at, last := whole[0].Offset, whole[len(whole)-1]
	r, err := w.data.ReadRange(ctx, int64(at), int64(last.Offset+uint64(last.Stored)-at))
	if err != nil {
		return err
	}
	defer r.Close()
	for _, p := range whole {
		if _, err := io.CopyN(io.Discard, r, int64(p.Offset-at)); err != nil {
			return err
		}
		if err := wait(ctx, w.limit, int(p.Stored)); err != nil {
			return err
		}
		stored := grow(&w.stored, int(p.Stored))
		n, err := io.ReadFull(r, stored)
		w.fetched.Add(int64(n))
		if err != nil {
			return err
		}
		at = p.Offset + uint64(p.Stored)
		if !w.readBase(p, false) {
			continue
		}
		raw, err := w.dec.Decode(w.x, p, w.raw, stored, w.from)
		if errors.Is(err, ckm.ErrMismatch) {
			if w.damaged.Add(1) >= mostSpoilt {
				return err
			}
			w.spoilt = err
			continue
		}
		if err != nil {
			return err
		}
		w.raw = raw
		for c := p.First; c < p.First+p.Count; c++ {
			n := w.x.ChunkLength(int(c))
			if err := use(raw[:n]); err != nil {
				return err
			}
			raw = raw[n:]
		}
	}
	return nil
}

// readBase reads the base of a part, and reports whether all of it can be read
// and, if it is checked, is what it was.
func (w *patchWorker) readBase(p *ckm.PatchPart, check bool) bool {
	w.from = w.from[:0]
	for _, r := range p.Base {
		for c := int(r.First); c < int(r.First+r.Count); c++ {
			n := len(w.from) + w.base.ChunkLength(c)
			if cap(w.from) < n {
				w.from = append(make([]byte, 0, 2*n), w.from...)
			}
			if !w.installed.readChunk(c, w.from[len(w.from):n], check) {
				return false
			}
			w.from = w.from[:n]
		}
	}
	return true
}

package ownfiles

import (
	"context"
	"iter"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
	"prestage/internal/progress"
)

// Seed is what a machine's own files are worth to an image. It implements
// assemble.Seed.
type Seed struct {
	Cache string // the file that keeps the index
	// Folders, if there are any, are looked at when the seed is asked; else the
	// index is taken as it is.
	Folders []string
	Image   *ckm.Index
	Meter   progress.Meter

	once  sync.Once
	index *Index
}

// Worth is the share of an image, one in so many bytes, that own files must hold,
// about, before all of them are read.
const Worth = 100

// load reads the index, after it was brought up to date if that is worth it.
func (s *Seed) load(ctx context.Context) *Index {
	s.once.Do(func() {
		s.index = Load(s.Cache)
		if len(s.Folders) == 0 {
			return
		}
		if len(s.index.Files) == 0 {
			held, err := Estimate(ctx, s.Folders, Wanted(s.Image))
			if err == nil && held < int64(s.Image.PlacedSize()/Worth) {
				s.Meter.Warn("the files in %q have hardly anything of the image; they are not used", s.Folders)
				return
			}
		}
		if err := s.index.Refresh(ctx, s.Folders, s.Meter); err != nil {
			s.Meter.Warn("looking at this machine's own files: %v", err)
			return
		}
		if err := s.index.Save(s.Cache); err != nil {
			s.Meter.Warn("what is known of this machine's own files cannot be kept: %v", err)
		}
	})
	return s.index
}

// Wanted returns what reports whether an image has a chunk.
func Wanted(x *ckm.Index) func(prefix uint64) bool {
	has := make(map[uint64]struct{}, x.Chunks())
	for c := range x.Chunks() {
		has[x.ID(c).Prefix()] = struct{}{}
	}
	return func(prefix uint64) bool { _, ok := has[prefix]; return ok }
}

// String implements assemble.Seed.
func (s *Seed) String() string { return "this machine's own files" }

// Holds implements assemble.Seed.
func (s *Seed) Holds() iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for _, f := range s.load(context.Background()).Files {
			for _, c := range f.Chunks {
				if !yield(c.Prefix) {
					return
				}
			}
		}
	}
}

// Chunks implements assemble.Seed.
func (s *Seed) Chunks(ctx context.Context, wanted func(uint64) (int, bool), use func([]byte) error) error {
	files := s.load(ctx).Files
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range readers {
		g.Go(func() error {
			var buf []byte
			for i := int(next.Add(1) - 1); i < len(files) && ctx.Err() == nil; i = int(next.Add(1) - 1) {
				if err := files[i].chunks(&buf, wanted, use); err != nil {
					return err
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

// chunks hands the file's chunks that are wanted to use. A file that is not what
// it was has none.
func (f *File) chunks(buf *[]byte, wanted func(uint64) (int, bool), use func([]byte) error) error {
	for i, c := range f.Chunks {
		if _, ok := wanted(c.Prefix); !ok {
			continue
		}
		r, err := f.open()
		if err != nil {
			return nil //nolint:nilerr // it is fetched instead
		}
		defer r.Close()
		for _, c := range f.Chunks[i:] {
			if _, ok := wanted(c.Prefix); !ok {
				continue
			}
			if cap(*buf) < int(c.Length) {
				*buf = make([]byte, c.Length)
			}
			p := (*buf)[:c.Length]
			if _, err := r.ReadAt(p, c.Offset); err != nil {
				return nil //nolint:nilerr // likewise
			}
			if err := use(p); err != nil {
				return err
			}
		}
		break
	}
	return nil
}

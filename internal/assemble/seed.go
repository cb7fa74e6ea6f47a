package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"sort"
	"sync"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
	"prestage/internal/repo"
)

// A Seed is what this machine has already: another version of the image, another
// image, files of its own. Chunks that it holds are not fetched. Nothing that it
// says is believed: what it hands over is hashed.
type Seed interface {
	// String names the seed, for people.
	String() string
	// Holds returns the prefixes of the chunks that it should hold, some perhaps
	// several times.
	Holds() iter.Seq[uint64]
	// Chunks reads the chunks that are wanted and hands the bytes of each to use,
	// from several goroutines at once, best in the order of the numbers that wanted
	// returns: the image is written in it then. What is not there any more, or
	// cannot be read, is passed over. An error of use ends it.
	Chunks(ctx context.Context, wanted func(prefix uint64) (number int, ok bool), use func(p []byte) error) error
}

// wants are the chunks of an index that are still missing. It may be used from
// several goroutines at once.
type wants struct {
	x     *ckm.Index
	order []uint32 // all chunks, by ID

	mu    sync.Mutex
	bits  []uint64 // of the missing ones, by number
	bytes int64
}

func newWants(x *ckm.Index, missing []int) *wants {
	w := &wants{x: x, bits: make([]uint64, (x.Chunks()+63)/64)}
	for _, c := range missing {
		if !w.misses(c) {
			w.bits[c/64] |= 1 << (c % 64)
			w.bytes += int64(x.ChunkLength(c))
		}
	}
	return w
}

// misses reports whether a chunk is missing.
func (w *wants) misses(c int) bool { return w.bits[c/64]>>(c%64)&1 != 0 }

// frames returns those that have missing chunks.
func (w *wants) frames() (list []int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range w.x.Frames() {
		first, end := w.x.FrameChunks(f)
		for c := first; c < end; c++ {
			if w.misses(c) {
				list = append(list, f)
				break
			}
		}
	}
	return list
}

// missingIn returns runs of missing chunks, from first to before end.
func (w *wants) missingIn(first, end int) (runs [][2]int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := first; c < end; c++ {
		if !w.misses(c) {
			continue
		}
		if n := len(runs); n > 0 && runs[n-1][1] == c {
			runs[n-1][1]++
		} else {
			runs = append(runs, [2]int{c, c + 1})
		}
	}
	return runs
}

// got marks chunks that were written, from first to before end, and returns the
// bytes of those that were missing: two may have written one at the same time.
func (w *wants) got(first, end int) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := w.bytes
	for c := first; c < end; c++ {
		if w.misses(c) {
			w.bits[c/64] &^= 1 << (c % 64)
			w.bytes -= int64(w.x.ChunkLength(c))
		}
	}
	return before - w.bytes
}

// sort prepares looking up by ID, which must be done before that.
func (w *wants) sort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.order != nil {
		return
	}
	w.order = make([]uint32, w.x.Chunks())
	for i := range w.order {
		w.order[i] = uint32(i)
	}
	slices.SortFunc(w.order, func(a, b uint32) int {
		return cmp.Compare(w.x.ID(int(a)).Prefix(), w.x.ID(int(b)).Prefix())
	})
}

// find calls yield with the chunks whose IDs begin with a prefix.
func (w *wants) find(prefix uint64) iter.Seq[int] {
	return func(yield func(int) bool) {
		i := sort.Search(len(w.order), func(i int) bool { return w.x.ID(int(w.order[i])).Prefix() >= prefix })
		for ; i < len(w.order) && w.x.ID(int(w.order[i])).Prefix() == prefix; i++ {
			if !yield(int(w.order[i])) {
				return
			}
		}
	}
}

// wanted returns the missing chunk with the prefix.
func (w *wants) wanted(prefix uint64) (number int, ok bool) {
	for c := range w.find(prefix) {
		w.mu.Lock()
		missing := w.misses(c)
		w.mu.Unlock()
		if missing {
			return c, true
		}
	}
	return 0, false
}

// chunk returns the missing chunk that p is, if it is one.
func (w *wants) chunk(p []byte) (int, bool) {
	id := ckm.Sum(p)
	for c := range w.find(id.Prefix()) {
		w.mu.Lock()
		missing := w.misses(c)
		w.mu.Unlock()
		if missing && w.x.ID(c) == id {
			return c, true
		}
	}
	return 0, false
}

// seed writes what the seeds have to target.
func (t *Fetcher) seed(ctx context.Context, target *Target, w *wants) error {
	t.Reused = make([]int64, len(t.Seeds))
	for i, s := range t.Seeds {
		if len(w.frames()) == 0 {
			return nil
		}
		w.sort()
		var reused atomic.Int64
		err := s.Chunks(ctx, w.wanted, func(p []byte) error {
			c, ok := w.chunk(p)
			if !ok {
				return nil
			}
			if err := target.writeChunks(c, c+1, p); err != nil {
				return writeError{err}
			}
			n := w.got(c, c+1)
			reused.Add(n)
			t.Meter.Add(n)
			return nil
		})
		t.Reused[i] = reused.Load()
		var failed writeError
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &failed):
			return failed.error
		case err != nil:
			t.Meter.Warn("%s: %v; what it lacks is fetched instead", s, err)
		}
	}
	return nil
}

// unheld returns the frames with a missing chunk that no seed should hold; none if
// there are no seeds.
func (t *Fetcher) unheld(w *wants) (list []int) {
	if len(t.Seeds) == 0 {
		return nil
	}
	w.sort()
	held := make([]uint64, len(w.bits))
	for _, s := range t.Seeds {
		for prefix := range s.Holds() {
			for c := range w.find(prefix) {
				held[c/64] |= 1 << (c % 64)
			}
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for f := range w.x.Frames() {
		first, end := w.x.FrameChunks(f)
		for c := first; c < end; c++ {
			if w.misses(c) && held[c/64]>>(c%64)&1 == 0 {
				list = append(list, f)
				break
			}
		}
	}
	return list
}

// writeError is one of the image, and not of a seed.
type writeError struct{ error }

// Estimate says what an image would take from each seed, and what would be
// fetched, if the seeds hold what they should.
func (t *Fetcher) Estimate() (reused []int64, fetched int64) {
	all := make([]int, t.Index.Chunks())
	for i := range all {
		all[i] = i
	}
	w := newWants(t.Index, all)
	w.sort()
	for _, s := range t.Seeds {
		if p, ok := s.(*PatchSeed); ok {
			_, n := p.needed(w.misses)
			fetched += n
		}
		before := w.bytes
		for prefix := range s.Holds() {
			for c := range w.find(prefix) {
				w.got(c, c+1)
			}
		}
		reused = append(reused, before-w.bytes)
	}
	for _, f := range w.frames() {
		fetched += int64(t.Index.Frame(f).Stored)
	}
	return reused, fetched
}

// ImageSeed is an image that was unpacked into dir from the package x. Its user
// may have changed it since.
func ImageSeed(dir string, x *ckm.Index) Seed { return &imageSeed{dir, x} }

type imageSeed struct {
	dir string
	x   *ckm.Index
}

// String implements Seed.
func (s *imageSeed) String() string { return s.dir }

// Holds implements Seed.
func (s *imageSeed) Holds() iter.Seq[uint64] { return prefixes(s.x) }

func prefixes(x *ckm.Index) iter.Seq[uint64] {
	return func(yield func(uint64) bool) {
		for c := range x.Chunks() {
			if !yield(x.ID(c).Prefix()) {
				return
			}
		}
	}
}

// Chunks implements Seed.
func (s *imageSeed) Chunks(ctx context.Context, wanted func(uint64) (int, bool), use func([]byte) error) error {
	t, err := OpenTarget(s.dir, s.x, false)
	if err != nil {
		return err
	}
	defer t.Close()
	segments := s.x.Segments()
	type place struct {
		number        int // of the chunk in the other image
		segment, skip uint32
	}
	var list []place
	for i := range segments {
		for n := range segments[i].Count {
			if number, ok := wanted(s.x.ID(int(segments[i].Chunk + n)).Prefix()); ok {
				list = append(list, place{number, uint32(i), n})
			}
		}
	}
	slices.SortFunc(list, func(a, b place) int { return a.number - b.number })
	return inParallel(ctx, len(list), func(i int, buf *[]byte) error {
		part := segments[list[i].segment]
		skip := list[i].skip
		part.Offset += uint64(s.x.RunLength(part.Chunk, skip))
		part.Chunk, part.Count = part.Chunk+skip, 1
		// It may have been found in another place.
		if _, ok := wanted(s.x.ID(int(part.Chunk)).Prefix()); !ok {
			return nil
		}
		p := grow(buf, s.x.ChunkLength(int(part.Chunk)))
		if t.read(&part, p) != nil {
			return nil
		}
		return use(p)
	})
}

// PackageSeed is another package that lies on this machine.
func PackageSeed(r repo.Repository, x *ckm.Index) Seed { return &packageSeed{r, x} }

type packageSeed struct {
	r repo.Repository
	x *ckm.Index
}

// String implements Seed.
func (s *packageSeed) String() string {
	return fmt.Sprintf("%s in %s", repo.ImageName(s.x.Name, s.x.Version), s.r)
}

// Holds implements Seed.
func (s *packageSeed) Holds() iter.Seq[uint64] { return prefixes(s.x) }

// Chunks implements Seed.
func (s *packageSeed) Chunks(ctx context.Context, wanted func(uint64) (int, bool), use func([]byte) error) error {
	data, err := s.r.Data(ctx, s.x.Name, s.x.Version)
	if err != nil {
		return err
	}
	defer data.Close()
	return inParallel(ctx, s.x.Frames(), func(f int, buf *[]byte) error {
		first, end := s.x.FrameChunks(f)
		for ; first < end; first++ {
			if _, ok := wanted(s.x.ID(first).Prefix()); ok {
				break
			}
		}
		if first == end {
			return nil
		}
		frame := s.x.Frame(f)
		r, err := data.ReadRange(ctx, int64(frame.Offset), int64(frame.Stored))
		if err != nil {
			return err
		}
		defer r.Close()
		stored := grow(buf, int(frame.Stored))
		if _, err := io.ReadFull(r, stored); err != nil {
			return nil // it is damaged there
		}
		raw, err := s.x.DecodeFrame(f, make([]byte, 0, s.x.FrameLength(f)+ckm.DecodeSlack), stored)
		if err != nil {
			return nil
		}
		all, _ := s.x.FrameChunks(f)
		for c := first; c < end; c++ {
			at := s.x.RunLength(uint32(all), uint32(c-all))
			if err := use(raw[at : at+int64(s.x.ChunkLength(c))]); err != nil {
				return err
			}
		}
		return nil
	})
}

// inParallel calls work for 0 to n-1, on all processors, roughly in order. Each
// has a buffer for work to grow.
func inParallel(ctx context.Context, n int, work func(i int, buf *[]byte) error) error {
	var next atomic.Int64
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			var buf []byte
			for i := int(next.Add(1) - 1); i < n; i = int(next.Add(1) - 1) {
				if err := ctx.Err(); err != nil {
					return err
				}
				if err := work(i, &buf); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

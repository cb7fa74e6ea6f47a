package pack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"prestage/ckm"
	"prestage/internal/chunk"
	"prestage/internal/disk"
)

// Zero bytes in runs of at least holeMin bytes, counted in whole blocks of the
// stream, are holes. Runs, not the source's own holes, decide: the same content
// makes the same package whether or not it was stored sparsely.
const (
	block   = 4 << 10
	holeMin = 16 << 10
)

var zeros [block]byte

// piece is a chunk of the image before it has a number.
type piece struct {
	data    []byte       // of the window's buffer
	file    uint32       // of the image
	offset  int64        // in the file, if it lies there in one piece
	extents []ckm.Extent // in the file, if not
	use     use
}

// window is a part of the image with the pieces that begin and end in it.
type window struct {
	buf    []byte
	pieces []piece
}

// windowSize must hold a chunk of any size and an undecided run of zeros, after
// what streams before have left there: a stream begins where that is certain.
const (
	windowSize = 2 << 20
	windowRoom = 1 << 20
)

// scanner cuts streams into pieces and passes over their holes.
type scanner struct {
	files []*disk.File
	get   func() []byte                              // a buffer of windowSize bytes
	emit  func(ctx context.Context, w *window) error // takes the window and its buffer
	add   func(n int64)                              // bytes of the image passed

	w    *window
	used int // bytes of the window that are full

	// Of the stream that is being cut:
	f      *disk.File
	number uint32
	where  slicer
	size   int64
	use    use
}

// scan reads all streams once, in order.
func (s *scanner) scan(ctx context.Context, streams []stream) error {
	s.w = &window{buf: s.get()}
	for i := range streams {
		st := &streams[i]
		s.number, s.f = st.file, s.files[st.file]
		err := s.dropZeros(st)
		if err == nil {
			err = s.stream(ctx, st)
		}
		if err != nil {
			return fmt.Errorf("reading %q: %w", s.f.Path, err)
		}
	}
	return s.emit(ctx, s.w)
}

// dropZeros leaves those parts out of joined ones that are zero, however short:
// the ends of most files' last blocks, which nobody wants to hear of.
func (s *scanner) dropZeros(st *stream) error {
	if !st.joined {
		return nil
	}
	kept := st.extents[:0]
	p := make([]byte, restSmall)
	for _, e := range st.extents {
		if err := s.readAt(p[:e.Length], int64(e.Offset)); err != nil {
			return err
		}
		if bytes.Count(p[:e.Length], zeros[:1]) == int(e.Length) {
			s.add(int64(e.Length))
			continue
		}
		kept = append(kept, e)
	}
	st.extents = kept
	return nil
}

// stream reads a stream. Its places are counted from its own start, so that
// what becomes of it depends on nothing else.
func (s *scanner) stream(ctx context.Context, st *stream) error {
	s.where, s.size, s.use = newSlicer(st), st.size(), st.use
	var (
		pos    int64 // of what is not decided yet, which the window's last bytes are
		have   int   // bytes of it
		inHole bool  // the byte before pos belongs to a hole
	)
	for pos < s.size {
		if have == 0 {
			next, err := s.skipHole(pos, inHole)
			if err != nil {
				return err
			}
			if next > pos {
				s.add(next - pos)
				pos, inHole = next, true
				continue
			}
		}
		if len(s.w.buf)-s.used+have < windowRoom {
			if err := s.turn(ctx, have); err != nil {
				return err
			}
		}
		begin := s.used - have
		// What is looked at ends where a block ends, so that no block is seen in halves.
		room := int64(len(s.w.buf) - begin)
		want := int(min(room-(pos+room)%block, s.size-pos))
		if err := s.read(s.w.buf[s.used:begin+want], pos+int64(have)); err != nil {
			return err
		}
		atEnd := pos+int64(want) == s.size
		var done int
		done, inHole = s.cut(s.w.buf[begin:begin+want], pos, atEnd, inHole)
		s.add(int64(done))
		s.used, have, pos = begin+want, want-done, pos+int64(done)
		if !atEnd {
			if err := s.turn(ctx, have); err != nil {
				return err
			}
		}
	}
	return nil
}

// turn takes a new window, into which the last bytes of the old one go along.
func (s *scanner) turn(ctx context.Context, keep int) error {
	next := &window{buf: s.get()}
	copy(next.buf, s.w.buf[s.used-keep:s.used])
	old := s.w
	s.w, s.used = next, keep
	return s.emit(ctx, old)
}

// read fills p with what is at pos of the stream.
func (s *scanner) read(p []byte, pos int64) error {
	for len(p) > 0 {
		off, length := s.where.at(pos)
		n := int(min(length, int64(len(p))))
		if err := s.readAt(p[:n], off); err != nil {
			return err
		}
		p, pos = p[n:], pos+int64(n)
	}
	return nil
}

// readAt fills p with what is at off of the image's file.
func (s *scanner) readAt(p []byte, off int64) error {
	n, err := s.f.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return s.shrunk()
	}
	return err
}

func (s *scanner) shrunk() error {
	if err := s.f.CheckUnchanged(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// skipHole asks the file system where data goes on. A hole that it reports
// counts when it continues one, or when it is long enough by our own rule.
func (s *scanner) skipHole(pos int64, inHole bool) (int64, error) {
	off, length := s.where.at(pos)
	if !inHole && (pos%block != 0 || length < holeMin && pos+length < s.size) {
		return pos, nil
	}
	next, err := s.f.NextData(off)
	if err != nil {
		return 0, err
	}
	next = pos + min(next-off, length)
	if next < s.size {
		next = max(pos, next-next%block)
	}
	if !inHole && next-pos < holeMin {
		return pos, nil
	}
	return next, nil
}

// cut appends the pieces of p, which stands at pos in the stream, to the window
// and returns how many bytes of p are dealt with. What is left needs more of the
// stream to be decided.
func (s *scanner) cut(p []byte, pos int64, atEnd, inHole bool) (done int, stillHole bool) {
	for done < len(p) {
		if inHole {
			end := zeroEnd(p, pos, done)
			if done = end; done == len(p) {
				return done, true
			}
			inHole = false
		}
		start, end, undecided := findHole(p, pos, done, atEnd)
		for start-done >= chunk.Max || start > done && !undecided {
			n := chunk.Cut(p[done:start])
			off, parts := s.where.extent(pos+int64(done), int64(n))
			s.w.pieces = append(s.w.pieces, piece{p[done : done+n : done+n], s.number, off, parts, s.use})
			done += n
		}
		if undecided {
			return done, false
		}
		done, inHole = end, end > start
	}
	return done, inHole
}

// zeroEnd returns the end of the run of zero blocks that begins at i of p.
// The last block of a file may be shorter than the others.
func zeroEnd(p []byte, pos int64, i int) int {
	for i < len(p) {
		n := min(block-int((pos+int64(i))%block), len(p)-i)
		if !isZero(p[i : i+n]) {
			return i
		}
		i += n
	}
	return i
}

// findHole returns the first hole [start, end) of p at or after from, or
// start = end = len(p) when there is none. If more of the file could move
// start, undecided is set, and data is certain up to start only.
func findHole(p []byte, pos int64, from int, atEnd bool) (start, end int, undecided bool) {
	// Every run of holeMin bytes covers a block at one of these places.
	for i := int((holeMin - pos%holeMin) % holeMin); i < len(p); i += holeMin {
		if i < from || !isZero(p[i:min(i+block, len(p))]) {
			continue
		}
		start, end = backOverZeros(p, from, i), zeroEnd(p, pos, i)
		if end-start >= holeMin {
			return start, end, false
		}
	}
	if atEnd {
		return len(p), len(p), false
	}
	// A run at the end of p may go on behind it.
	start = backOverZeros(p, from, len(p))
	return start, start, true
}

// backOverZeros returns the start of the run of zero blocks that ends at i, a
// block's start, but no less than from.
func backOverZeros(p []byte, from, i int) int {
	for i-block >= from && isZero(p[i-block:i]) {
		i -= block
	}
	return i
}

func isZero(p []byte) bool {
	return p[0] == 0 && bytes.Equal(p, zeros[:len(p)])
}

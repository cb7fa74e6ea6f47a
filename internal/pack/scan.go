package pack

import (
	"bytes"
	"context"
	"errors"
	"io"

	"prestage/internal/chunk"
	"prestage/internal/disk"
)

// Zero bytes in runs of at least holeMin bytes, counted in whole blocks of the
// file, are holes. Runs, not the source's own holes, decide: the same content
// makes the same package whether or not it was stored sparsely.
const (
	block   = 4 << 10
	holeMin = 16 << 10
)

var zeros [block]byte

// piece is a chunk of the image before it has a number.
type piece struct {
	data   []byte // of the window's buffer
	offset int64  // in the file
}

// window is a part of a file with the pieces that begin and end in it.
type window struct {
	file   uint32
	buf    []byte
	pieces []piece
}

// windowSize must hold a chunk of any size and an undecided run of zeros.
const windowSize = 2 << 20

// scanner cuts one file into pieces and passes over its holes.
type scanner struct {
	f      *disk.File
	number uint32
	get    func() []byte                              // a buffer of windowSize bytes
	emit   func(ctx context.Context, w *window) error // takes the window and its buffer
	add    func(n int64)                              // bytes of the file passed
}

// scan reads the whole file once, in order.
func (s *scanner) scan(ctx context.Context) error {
	var (
		pos    int64 // offset of buf[0] in the file
		have   int   // bytes of buf that are filled
		inHole bool  // the byte before pos belongs to a hole
		buf    = s.get()
	)
	for pos < s.f.Size {
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
		// The window ends where a block ends, so that no block is seen in halves.
		want := int(min(windowSize-(pos+windowSize)%block, s.f.Size-pos))
		if _, err := s.f.ReadAt(buf[have:want], pos+int64(have)); err != nil && !errors.Is(err, io.EOF) {
			return err
		} else if err != nil {
			return s.shrunk()
		}
		atEnd := pos+int64(want) == s.f.Size
		w := &window{file: s.number, buf: buf}
		var done int
		done, inHole = s.cut(w, buf[:want], pos, atEnd, inHole)
		next := s.get()
		have = copy(next, buf[done:want])
		s.add(int64(done))
		if err := s.emit(ctx, w); err != nil {
			return err
		}
		buf, pos = next, pos+int64(done)
	}
	return nil
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
	next, err := s.f.NextData(pos)
	if err != nil {
		return 0, err
	}
	if next < s.f.Size {
		next = max(pos, next-next%block)
	}
	if !inHole && (pos%block != 0 || next-pos < holeMin) {
		return pos, nil
	}
	return next, nil
}

// cut appends the pieces of p, which stands at pos in the file, to w and
// returns how many bytes of p are dealt with. What is left needs more of the
// file to be decided.
func (s *scanner) cut(w *window, p []byte, pos int64, atEnd, inHole bool) (done int, stillHole bool) {
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
			w.pieces = append(w.pieces, piece{p[done : done+n : done+n], pos + int64(done)})
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

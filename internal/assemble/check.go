package assemble

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"runtime"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
	"prestage/internal/disk"
)

// A Fault is a part of a file that is not what the index says.
type Fault struct {
	File   string `json:"file"`
	Chunk  int    `json:"chunk"`  // number, or -1 when the fault is in none
	Offset int64  `json:"offset"` // bytes
	Length int64  `json:"length"` // bytes
	Reason string `json:"reason"`

	file   int // of the image, by number
	isHole bool
}

// String describes the fault in a line.
func (f Fault) String() string {
	if f.Chunk < 0 {
		return fmt.Sprintf("%s: offset %d, length %d: %s", f.File, f.Offset, f.Length, f.Reason)
	}
	return fmt.Sprintf("%s: chunk %d, offset %d, length %d: %s", f.File, f.Chunk, f.Offset, f.Length, f.Reason)
}

// CompareFaults orders faults by file and offset.
func CompareFaults(a, b Fault) int {
	return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.File, b.File), cmp.Compare(a.Offset, b.Offset))
}

// checkSpan is how much of a file is read at once when it is checked, in bytes.
const checkSpan = 1 << 20

// Check compares all chunks with their IDs and calls bad for each fault, from
// several goroutines at once. It reads every byte that the index places; add
// hears of each.
func (t *Target) Check(ctx context.Context, add func(int64), bad func(Fault)) error {
	g, ctx := errgroup.WithContext(ctx)
	work := make(chan ckm.Segment)
	g.Go(func() error {
		defer close(work)
		for _, s := range t.x.Segments() {
			select {
			case work <- s:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, checkSpan)
			for s := range work {
				if err := t.checkSegment(ctx, s, buf, bad); err != nil {
					return err
				}
				add(t.x.RunLength(s.Chunk, s.Count))
			}
			return nil
		})
	}
	return g.Wait()
}

// checkSegment checks one segment, a part of at most len(buf) bytes at a time.
func (t *Target) checkSegment(ctx context.Context, s ckm.Segment, buf []byte, bad func(Fault)) error {
	for s.Count > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		part := s
		for part.Count = 1; part.Count < s.Count && t.x.RunLength(s.Chunk, part.Count+1) <= int64(len(buf)); {
			part.Count++
		}
		p := buf[:t.x.RunLength(part.Chunk, part.Count)]
		readErr := t.read(&part, p)
		if readErr != nil && part.Count > 1 { // a place that cannot be read spoils its own chunk alone
			part.Count = 1
			p = p[:t.x.RunLength(part.Chunk, 1)]
			readErr = t.read(&part, p)
		}
		at := int64(0)
		for c := part.Chunk; c < part.Chunk+part.Count; c++ {
			n := int64(t.x.ChunkLength(int(c)))
			if readErr != nil || ckm.Sum(p[at:at+n]) != t.x.ID(int(c)) {
				bad(t.fault(&part, int(c), at, n, readErr))
			}
			at += n
		}
		s.Chunk += part.Count
		s.Count -= part.Count
		s.Offset += uint64(at)
	}
	return nil
}

func (t *Target) fault(s *ckm.Segment, chunk int, at, n int64, err error) Fault {
	reason := "the bytes are not what the INDEX says"
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, fs.ErrNotExist) {
		reason = fmt.Sprintf("it cannot be read: %v", err)
	}
	return Fault{File: t.x.Files[s.File].Path, Chunk: chunk, Offset: int64(s.Offset) + at, Length: n,
		Reason: reason, file: int(s.File)}
}

// CheckHoles finds bytes in holes that are not zero, and files of another size.
func (t *Target) CheckHoles(ctx context.Context, bad func(Fault)) error {
	buf := make([]byte, checkSpan)
	holes := t.x.Holes()
	for i, f := range t.files {
		want := t.x.Files[i]
		size, err := t.Size(i)
		if err != nil {
			return err
		}
		if size != int64(want.Size) {
			reason := fmt.Sprintf("the file has %d bytes and should have %d", size, want.Size)
			if size < 0 {
				reason = "the file is missing"
			}
			bad(Fault{File: want.Path, Chunk: -1, Length: int64(want.Size), Reason: reason, file: i})
		}
		if size < 0 {
			continue
		}
		for _, h := range holes[i] {
			if err := checkHole(ctx, f, h, min(size, int64(want.Size)), buf, func(off, n int64) {
				bad(Fault{File: want.Path, Chunk: -1, Offset: off, Length: n, Reason: "a hole that should be zero is not", file: i, isHole: true})
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// checkHole reads what the file system says may be data within a hole.
func checkHole(ctx context.Context, f *os.File, h ckm.Extent, size int64, buf []byte, bad func(off, n int64)) error {
	end := min(int64(h.Offset+h.Length), size)
	for at := int64(h.Offset); at < end; {
		if err := ctx.Err(); err != nil {
			return err
		}
		data, err := disk.NextData(f, at, end)
		if err != nil || data == end {
			return err
		}
		p := buf[:min(int64(len(buf)), end-data)]
		if _, err := f.ReadAt(p, data); err != nil {
			clear(p[1:])
			p[0] = 1 // what cannot be read is not zero
		}
		if i := firstNonZero(p); i >= 0 {
			bad(data+int64(i), int64(len(p)-i))
		}
		at = data + int64(len(p))
	}
	return nil
}

// firstNonZero returns the place of the first byte that is not zero, or -1.
func firstNonZero(p []byte) int {
	for i := 0; i < len(p); i += sparseBlock {
		b := p[i:min(i+sparseBlock, len(p))]
		if isZero(b) {
			continue
		}
		for j, c := range b {
			if c != 0 {
				return i + j
			}
		}
	}
	return -1
}

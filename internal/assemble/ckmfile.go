package assemble

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"sync/atomic"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
	"prestage/internal/repo"
)

// CKMFile is a file that a CKM is written to. WriteAt and ReadAt may be called
// from several goroutines at once.
type CKMFile interface {
	io.ReaderAt
	io.WriterAt
	Size() (int64, error)
	Truncate(size int64) error
	Sync() error
}

// NewCKM creates a copy of the CKM at path, where nothing may be, and brings it
// to the disk. What an error leaves there is the caller's to remove.
func (t *Fetcher) NewCKM(ctx context.Context, path string) error {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = t.CKM(ctx, newFile{f})
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if errors.Is(err, ErrIncomplete) {
		return fmt.Errorf("%s: %w; repair it first (prestage repair)", repo.ImageName(t.Index.Name, t.Index.Version), err)
	}
	return err
}

// newFile is a file of this machine as a CKMFile.
type newFile struct{ *os.File }

// Size implements CKMFile.
func (f newFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// CheckCKM compares every frame of the CKM r, which has the given size, with
// the digest of its stored bytes and calls bad for each that differs or is
// missing, from several goroutines at once. Framed reports whether header,
// trailer and length are right as well. Nothing is decompressed. A place that
// cannot be read is damage; a file that cannot be read any more is an error.
func CheckCKM(ctx context.Context, x *ckm.Index, r io.ReaderAt, size int64, add func(int64), bad func(frame int)) (framed bool, err error) {
	return checkCKM(ctx, x, r, size, checkSpans(x), add, bad)
}

// SampleCKM is CheckCKM for about a share of the frames, from 0 to 1, chosen at
// random, the first and the last ones among them. It calls begin with the
// number of bytes that it is going to read.
func SampleCKM(ctx context.Context, x *ckm.Index, r io.ReaderAt, size int64, share float64, begin, add func(int64), bad func(frame int)) (framed bool, err error) {
	all := checkSpans(x)
	var some []frameSpan
	total := int64(0)
	for i, s := range all {
		if i == 0 || i == len(all)-1 || rand.Float64() < share {
			some = append(some, s)
			total += s.bytes(x)
		}
	}
	begin(total)
	return checkCKM(ctx, x, r, size, some, add, bad)
}

// frameSpan are neighbouring frames, from first to before end.
type frameSpan struct{ first, end int }

func (s frameSpan) bytes(x *ckm.Index) int64 {
	return frameEnd(x, s.end-1) - int64(x.Frame(s.first).Offset)
}

// checkSpans returns all frames in parts of up to checkSpan bytes, or one frame.
func checkSpans(x *ckm.Index) (spans []frameSpan) {
	for first := 0; first < x.Frames(); {
		end := first + 1
		for end < x.Frames() && frameEnd(x, end)-int64(x.Frame(first).Offset) <= checkSpan {
			end++
		}
		spans = append(spans, frameSpan{first, end})
		first = end
	}
	return spans
}

func checkCKM(ctx context.Context, x *ckm.Index, r io.ReaderAt, size int64, spans []frameSpan, add func(int64), bad func(frame int)) (framed bool, err error) {
	if framed, err = checkFraming(x, r, size); err != nil {
		return false, err
	}
	var (
		next   atomic.Int64
		unread atomic.Bool
	)
	g, ctx := errgroup.WithContext(ctx)
	for range runtime.GOMAXPROCS(0) {
		g.Go(func() error {
			buf := make([]byte, checkSpan)
			for i := next.Add(1) - 1; i < int64(len(spans)); i = next.Add(1) - 1 {
				span := spans[i]
				off := int64(x.Frame(span.first).Offset)
				p := grow(&buf, int(span.bytes(x)))
				n, err := r.ReadAt(p, off)
				spoilt := err != nil && !errors.Is(err, io.EOF)
				if spoilt {
					unread.Store(true)
				}
				for f := span.first; f < span.end; f++ {
					from := int64(x.Frame(f).Offset) - off
					end := from + int64(x.Frame(f).Stored)
					if spoilt { // a place that cannot be read spoils its own frame alone
						m, _ := r.ReadAt(p[from:end], off+from)
						n = int(from) + m
					}
					if end > int64(n) || x.CheckStored(f, p[from:end]) != nil {
						bad(f)
					}
				}
				add(int64(len(p)))
				if err := ctx.Err(); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return false, err
	}
	if unread.Load() { // in a file that cannot be read at all any more, nothing was found damaged
		if _, err := checkFraming(x, r, size); err != nil {
			return false, err
		}
	}
	return framed, nil
}

func frameEnd(x *ckm.Index, f int) int64 {
	return int64(x.Frame(f).Offset) + int64(x.Frame(f).Stored)
}

func grow(buf *[]byte, n int) []byte {
	if cap(*buf) < n {
		*buf = make([]byte, n)
	}
	return (*buf)[:n]
}

// checkFraming compares length, header and trailer.
func checkFraming(x *ckm.Index, r io.ReaderAt, size int64) (bool, error) {
	if size != int64(x.CKMLength) {
		return false, nil
	}
	for off, want := range map[int64][]byte{0: ckm.Header(x.CompatibleFeatures), size - ckm.TrailerSize: x.Trailer().Append(nil)} {
		got := make([]byte, len(want))
		if _, err := r.ReadAt(got, off); err != nil && !errors.Is(err, io.EOF) {
			return false, err
		}
		if !bytes.Equal(got, want) {
			return false, nil
		}
	}
	return true, nil
}

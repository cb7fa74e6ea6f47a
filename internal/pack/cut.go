package pack

import (
	"context"
	"sync"

	"prestage/ckm"
	"prestage/internal/disk"
)

var windowBufs = sync.Pool{New: func() any { b := make([]byte, windowSize); return &b }}

// Cut calls yield with the chunks that a file would have inside an image, in
// order, and where each lies in it. What yield is given it must not keep.
func Cut(ctx context.Context, f *disk.File, yield func(offset int64, p []byte) error) error {
	if f.Size == 0 {
		return nil
	}
	s := scanner{
		files: []*disk.File{f}, add: func(int64) {},
		get: func() []byte { return *windowBufs.Get().(*[]byte) },
		emit: func(ctx context.Context, w *window) error {
			defer windowBufs.Put(&w.buf)
			for _, p := range w.pieces {
				if err := yield(p.offset, p.data); err != nil {
					return err
				}
			}
			return ctx.Err()
		},
	}
	return s.scan(ctx, []stream{{extents: []ckm.Extent{{Length: uint64(f.Size)}}}})
}

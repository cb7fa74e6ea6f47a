package patch

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"sync"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/guest"
	"prestage/internal/repo"
)

// Package is a package that can be read.
type Package struct {
	Index *ckm.Index
	Data  repo.Data
}

// keptFrames is how many decompressed frames of a package are kept: what is read
// lies close to what was read before.
const keptFrames = 24

// content reads chunks of a package, and its image as if it were unpacked.
type content struct {
	ctx context.Context
	Package
	placed []placed // in the order of the image

	mu     sync.Mutex
	frames map[int]*list.Element // of recent
	recent *list.List            // of *frame, the last used first
}

// placed is a run of chunks, or a part of one, in a file of the image.
type placed struct {
	file    uint32
	segment uint32
	offset  uint64
	length  uint64
	skip    uint32 // bytes of the chunk before it, of a split
}

// frame is a frame that was read or is being read.
type frame struct {
	number int
	once   sync.Once
	raw    []byte
	err    error
}

func newContent(ctx context.Context, p Package) *content {
	c := &content{ctx: ctx, Package: p, frames: make(map[int]*list.Element), recent: list.New()}
	for i, s := range p.Index.Segments() {
		if s.Extents == nil {
			n := p.Index.RunLength(s.Chunk, s.Count)
			c.placed = append(c.placed, placed{s.File, uint32(i), s.Offset, uint64(n), 0})
		}
		skip := uint32(0)
		for _, e := range s.Extents {
			c.placed = append(c.placed, placed{s.File, uint32(i), e.Offset, e.Length, skip})
			skip += uint32(e.Length)
		}
	}
	slices.SortFunc(c.placed, func(a, b placed) int { return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.offset, b.offset)) })
	return c
}

// frame returns the bytes of a frame.
func (c *content) frame(number int) ([]byte, error) {
	c.mu.Lock()
	e := c.frames[number]
	if e != nil {
		c.recent.MoveToFront(e)
	} else {
		e = c.recent.PushFront(&frame{number: number})
		c.frames[number] = e
		if c.recent.Len() > keptFrames {
			last := c.recent.Back()
			delete(c.frames, c.recent.Remove(last).(*frame).number)
		}
	}
	f := e.Value.(*frame)
	c.mu.Unlock()
	f.once.Do(func() { f.raw, f.err = c.readFrame(number) })
	return f.raw, f.err
}

func (c *content) readFrame(number int) ([]byte, error) {
	f := c.Index.Frame(number)
	r, err := c.Data.ReadRange(c.ctx, int64(f.Offset), int64(f.Stored))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	stored := make([]byte, f.Stored)
	if _, err := io.ReadFull(r, stored); err != nil {
		return nil, fmt.Errorf("reading frame %d of %s: %w", number, c.Data, err)
	}
	raw, err := c.Index.DecodeFrame(number, nil, stored)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.Data, err)
	}
	return raw, nil
}

// appendRun appends the bytes of a run of chunks.
func (c *content) appendRun(b []byte, r ckm.ChunkRun) ([]byte, error) {
	for at, end := int(r.First), int(r.First+r.Count); at < end; {
		f := c.Index.FrameOf(at)
		raw, err := c.frame(f)
		if err != nil {
			return nil, err
		}
		first, last := c.Index.FrameChunks(f)
		last = min(last, end)
		from := c.Index.RunLength(uint32(first), uint32(at-first))
		b = append(b, raw[from:from+c.Index.RunLength(uint32(at), uint32(last-at))]...)
		at = last
	}
	return b, nil
}

// piece is a chunk, or a part of one, in a file of the image.
type piece struct {
	chunk  uint32
	skip   int64 // bytes of the chunk before it
	offset int64 // in the file
	length int64
}

// pieces calls yield with what of the image's chunks lies in a range of a file, in
// order. Holes are passed over.
func (c *content) pieces(file uint32, offset, length int64, yield func(piece) error) error {
	end := offset + length
	i := sort.Search(len(c.placed), func(i int) bool {
		p := &c.placed[i]
		return p.file > file || p.file == file && int64(p.offset+p.length) > offset
	})
	for ; i < len(c.placed) && c.placed[i].file == file && int64(c.placed[i].offset) < end; i++ {
		p := &c.placed[i]
		s := &c.Index.Segments()[p.segment]
		if s.Extents != nil {
			if err := yield(piece{s.Chunk, int64(p.skip), int64(p.offset), int64(p.length)}.cut(offset, end)); err != nil {
				return err
			}
			continue
		}
		before := max(0, offset-int64(p.offset)) // bytes of the run
		n := uint32(sort.Search(int(s.Count), func(n int) bool { return c.Index.RunLength(s.Chunk, uint32(n)+1) > before }))
		for ; n < s.Count; n++ {
			at := int64(p.offset) + c.Index.RunLength(s.Chunk, n)
			if at >= end {
				break
			}
			k := s.Chunk + n
			if err := yield(piece{k, 0, at, int64(c.Index.ChunkLength(int(k)))}.cut(offset, end)); err != nil {
				return err
			}
		}
	}
	return nil
}

// cut returns what of p lies in a range of the file.
func (p piece) cut(from, end int64) piece {
	if before := from - p.offset; before > 0 {
		p.skip, p.offset, p.length = p.skip+before, from, p.length-before
	}
	p.length = min(p.length, end-p.offset)
	return p
}

// file is one of the image's files, read from the package.
type file struct {
	*content
	number uint32
	size   int64
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	n := int(min(int64(len(p)), max(0, f.size-off)))
	clear(p[:n])
	err := f.pieces(f.number, off, int64(n), func(x piece) error {
		k := f.Index.FrameOf(int(x.chunk))
		raw, err := f.frame(k)
		if err != nil {
			return err
		}
		first, _ := f.Index.FrameChunks(k)
		from := f.Index.RunLength(uint32(first), x.chunk-uint32(first)) + x.skip
		copy(p[x.offset-off:], raw[from:from+x.length])
		return nil
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// files finds the files of the machine inside, as far as it can.
func (c *content) files() ([]fsmap.File, error) {
	var files []*disk.File
	for i, f := range c.Index.Files {
		files = append(files, disk.NewFile(f.Path, int64(f.Size), f.Format, &file{c, uint32(i), int64(f.Size)}))
	}
	guests, _ := guest.Open(files)
	m, err := fsmap.ReadNamed(c.ctx, guests)
	if err != nil {
		return nil, err
	}
	m.Free = nil
	return m.Files, nil
}

var errStop = errors.New("stop")

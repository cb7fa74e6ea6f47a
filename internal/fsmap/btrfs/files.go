package btrfs

import (
	"context"
	"slices"

	"prestage/internal/fsmap/volume"
)

const (
	modeMask    = 0xf000
	modeRegular = 0x8000

	mainTree         = 5
	firstSubvolume   = 256
	lastSubvolume    = 1<<64 - 256
	inodeSize        = 160
	dataSize         = 53 // of an item that says where data lies
	dataWritten      = 1
	mostFilesExtents = 1 << 22 // of a file
)

// Files implements volume.FileSystem. A file of several subvolumes that share all
// of it is one file. All trees are read, to see that they are in use.
func (fs *fileSystem) Files(ctx context.Context, yield func(*volume.File) error) error {
	type tree struct {
		root  branch
		files bool // its files are the machine's
	}
	trees := []tree{{fs.root, false}}
	err := fs.walk(fs.root, nil, func(k key, p []byte) error {
		if k.kind != rootItem {
			return nil
		}
		root, refs, err := readRoot(p)
		if err == nil && refs > 0 { // else it was being removed
			trees = append(trees, tree{root, k.object == mainTree || k.object >= firstSubvolume && k.object <= lastSubvolume})
		}
		return err
	})
	if err != nil {
		return err
	}
	seen := make(map[uint64]bool)
	for i, t := range trees {
		s := &scanner{fs: fs, tree: uint64(i), keep: t.files, yield: yield}
		if err := fs.walk(t.root, seen, func(k key, p []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return s.item(k, p)
		}); err != nil {
			return err
		}
		if err := s.finish(); err != nil {
			return err
		}
	}
	return nil
}

// scanner collects files from the items of a tree.
type scanner struct {
	fs      *fileSystem
	tree    uint64
	keep    bool // its files are the machine's
	yield   func(*volume.File) error
	object  uint64
	size    int64 // of the file, -1 if it is not known
	regular bool
	extents []volume.Extent
}

func (s *scanner) item(k key, p []byte) error {
	if k.object != s.object {
		if err := s.finish(); err != nil {
			return err
		}
		s.object, s.size, s.regular = k.object, -1, true
	}
	switch k.kind {
	case inodeItem:
		if len(p) < inodeSize {
			return damaged("an inode is cut short")
		}
		s.size = int64(min(le.Uint64(p[16:]), 1<<62))
		s.regular = le.Uint32(p[52:])&modeMask == modeRegular
	case extentData:
		return s.data(k, p)
	}
	return nil
}

// data reads where a part of a file lies.
func (s *scanner) data(k key, p []byte) error {
	if len(p) < dataSize || p[20] != dataWritten { // inline, or never written
		return nil
	}
	start, stored, offset, n := le.Uint64(p[21:]), le.Uint64(p[29:]), le.Uint64(p[37:]), le.Uint64(p[45:])
	if start == 0 { // a hole
		return nil
	}
	if offset > 1<<62 || n > 1<<62 || k.offset > 1<<62 {
		return damaged("a part of a file of %d bytes at %d", n, offset)
	}
	if p[16] != 0 || p[17] != 0 || p[18] != 0 { // compressed, encrypted: the stored bytes as they are
		offset, n = 0, stored
	} else if s.size >= 0 {
		if k.offset >= uint64(s.size) {
			return nil
		}
		n = min(n, uint64(s.size)-k.offset)
	}
	if n == 0 || offset+n > stored || !s.fs.isAllocated(start, stored) {
		return damaged("a file lies in %d bytes at %d, which are not in use", stored, start)
	}
	e, err := s.fs.place(start+offset, n) // in one chunk, as what is in use is
	if l := len(s.extents); l > 0 && s.extents[l-1].End() == e.Offset {
		s.extents[l-1].Length += e.Length
	} else if l < mostFilesExtents {
		s.extents = append(s.extents, e)
	}
	return err
}

// finish hands the file over that was read.
func (s *scanner) finish() error {
	list := s.extents
	s.extents = nil
	if len(list) == 0 || !s.regular || !s.keep {
		return nil
	}
	return s.yield(&volume.File{ID: s.tree<<48 ^ s.object, Size: max(s.size, 0), Extents: list})
}

// isAllocated reports whether all of a range is in use.
func (fs *fileSystem) isAllocated(start, n uint64) bool {
	i, found := slices.BinarySearchFunc(fs.allocated, start, func(e extent, at uint64) int { return compare(e.start, at) })
	if !found {
		i--
	}
	return i >= 0 && n <= 1<<62 && start+n <= fs.allocated[i].start+fs.allocated[i].length
}

// Free implements volume.FileSystem: what is in no chunk, and what of chunks is not
// in use.
func (fs *fileSystem) Free(ctx context.Context, yield func(volume.Extent) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	var list []volume.Extent
	add := func(from, to int64) {
		if from < to {
			list = append(list, volume.Extent{Offset: from, Length: to - from})
		}
	}
	at := int64(devReserve)
	for _, e := range fs.onDevice() {
		add(at, e.Offset)
		at = max(at, e.End())
	}
	add(at, fs.size)
	next := 0 // of what is in use
	for _, c := range fs.chunks {
		from, end := c.start, c.start+c.length
		gap := func(to uint64) {
			for _, place := range c.places {
				if from < to {
					add(place+int64(from-c.start), place+int64(to-c.start))
				}
			}
		}
		for ; next < len(fs.allocated) && fs.allocated[next].start < end; next++ {
			u := fs.allocated[next]
			if u.start < from || u.start+u.length > end {
				return damaged("%d bytes in use at %d, which is not in one chunk", u.length, u.start)
			}
			gap(u.start)
			from = u.start + u.length
		}
		gap(end)
	}
	if next < len(fs.allocated) {
		return damaged("%d bytes in use at %d, which is in no chunk", fs.allocated[next].length, fs.allocated[next].start)
	}
	slices.SortFunc(list, func(a, b volume.Extent) int { return compare(a.Offset, b.Offset) })
	return join(list, yield)
}

// join calls yield with extents, neighbours joined, without what is reserved.
func join(list []volume.Extent, yield func(volume.Extent) error) error {
	var run volume.Extent
	give := func() error {
		for _, m := range superMirrors {
			if run.Length == 0 || m >= run.End() || m+superReserve <= run.Offset {
				continue
			}
			if before := (volume.Extent{Offset: run.Offset, Length: m - run.Offset}); before.Length > 0 {
				if err := yield(before); err != nil {
					return err
				}
			}
			end := run.End()
			run.Offset = min(m+superReserve, end)
			run.Length = end - run.Offset
		}
		if run.Length <= 0 {
			return nil
		}
		return yield(run)
	}
	for _, e := range list {
		if run.Length > 0 && run.End() == e.Offset {
			run.Length += e.Length
			continue
		}
		if err := give(); err != nil {
			return err
		}
		run = e
	}
	return give()
}

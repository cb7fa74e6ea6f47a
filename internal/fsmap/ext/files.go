package ext

import (
	"context"

	"prestage/internal/fsmap/volume"
)

// What is read of an inode.
const (
	modeMask    = 0xf000
	modeRegular = 0x8000
	modeFolder  = 0x4000
	modeLink    = 0xa000
	flagExtents = 0x80000
	flagInline  = 0x10000000
	mapBytes    = 60 // of block numbers, or of an extent tree's root

	extentMagic = 0xf30a
	mostDepth   = 5
	unwritten   = 1 << 15 // lengths above it are of extents that were never written
	direct      = 12      // blocks that an inode names itself
)

// Files implements volume.FileSystem. It looks at all inodes in use, also at those
// that are no files, and sees that none has a block that is free.
func (fs *fileSystem) Files(ctx context.Context, yield func(*volume.File) error) error {
	s := fs.newScanner()
	return fs.scan(ctx, func(number int64, inode []byte) error {
		f, err := s.file(number, inode)
		if err != nil || f == nil {
			return err
		}
		return yield(f)
	})
}

// scan calls visit with each inode in use, and sees that no other one is marked
// as such.
func (fs *fileSystem) scan(ctx context.Context, visit func(number int64, inode []byte) error) error {
	bitmap, table := make([]byte, fs.block), make([]byte, 1<<18)
	isUsed := func(i int64) bool { return bitmap[i/8]>>(i%8)&1 != 0 }
	for n := range fs.groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		g, err := fs.group(n)
		if err != nil {
			return err
		}
		if g.flags&groupNoInodes != 0 {
			continue
		}
		if err := fs.inodeBitmap(g, bitmap); err != nil {
			return err
		}
		used := fs.inodesPerGroup - g.unusedInodes
		each := int64(len(table)) / fs.inodeSize
		for first := int64(0); first < used; first += each {
			p := table[:min(each, used-first)*fs.inodeSize]
			if _, err := fs.r.ReadAt(p, g.table*fs.block+first*fs.inodeSize); err != nil {
				return err
			}
			for i := first; len(p) > 0; i, p = i+1, p[fs.inodeSize:] {
				if !isUsed(i) {
					continue
				}
				if err := visit(n*fs.inodesPerGroup+i+1, p[:fs.inodeSize]); err != nil {
					return err
				}
			}
		}
		for i := used; i < fs.inodesPerGroup; i++ {
			if isUsed(i) {
				return damaged("group %d uses inodes that were never used", n)
			}
		}
	}
	return nil
}

// scanner reads what inodes say.
type scanner struct {
	fs     *fileSystem
	used   usedMap
	budget int64 // blocks that files may still have
}

// newScanner returns a scanner for all inodes, each once. No block belongs to two
// files, so all of them together have no more than there are; nor have their trees.
// What claims more would take for ever.
func (fs *fileSystem) newScanner() *scanner {
	return &scanner{fs: fs, used: usedMap{fs: fs}, budget: 2 * fs.blocks}
}

// file returns what an inode in use says of a file, or nil if it is none that has
// blocks.
func (s *scanner) file(number int64, inode []byte) (*volume.File, error) {
	fs := s.fs
	flags, links, mode := le.Uint32(inode[0x20:]), le.Uint16(inode[0x1a:]), le.Uint16(inode)&modeMask
	size := s.sizeOf(inode)
	if attributes := int64(le.Uint32(inode[0x68:])) | int64(le.Uint16(inode[0x76:]))<<32; attributes != 0 {
		if !fs.isBlock(attributes, 1) {
			return nil, damaged("inode %d: attributes at %d", number, attributes)
		}
		if err := s.used.check(attributes, 1); err != nil {
			return nil, err
		}
	}
	switch {
	case flags&flagInline != 0:
		return nil, nil
	case mode == modeRegular, mode == modeFolder:
	case mode == modeLink && (flags&flagExtents != 0 || size >= mapBytes): // a short one is where the map would be
	case mode == 0 && number < fs.firstInode: // one for the file system itself
	default:
		return nil, nil
	}
	keep := mode == modeRegular && links > 0 && number >= fs.firstInode && !fs.special[number]
	f, err := s.content(number, inode, size, keep)
	if err != nil || len(f.Extents) == 0 {
		return nil, err
	}
	return f, nil
}

// folder returns where the entries of a directory lie.
func (s *scanner) folder(number int64, inode []byte) ([]volume.Extent, error) {
	f, err := s.content(number, inode, s.sizeOf(inode), true)
	if err != nil {
		return nil, err
	}
	return f.Extents, nil
}

// sizeOf returns the size of what an inode is of. But for files, the upper half of
// the field may be used otherwise.
func (s *scanner) sizeOf(inode []byte) int64 {
	size := int64(le.Uint32(inode[4:]))
	if le.Uint16(inode)&modeMask == modeRegular || s.fs.incompat&incompatLargeDir != 0 {
		size |= int64(le.Uint32(inode[0x6c:])) << 32
	}
	return size
}

// content reads an inode's map. The extents are kept only if that is asked for.
func (s *scanner) content(number int64, inode []byte, size int64, keep bool) (*volume.File, error) {
	if size < 0 {
		return nil, damaged("inode %d has %d bytes", number, uint64(size))
	}
	m := &mapper{scanner: s, inode: number, size: size, f: &volume.File{ID: uint64(number), Size: size}, keep: keep}
	root := inode[0x28 : 0x28+mapBytes]
	if le.Uint32(inode[0x20:])&flagExtents != 0 {
		return m.f, m.extents(root, -1)
	}
	return m.f, m.blockMap(root)
}

// mapper collects a file's extents.
type mapper struct {
	*scanner
	inode int64
	size  int64
	next  int64 // the first logical block that was not said anything of
	keep  bool  // they are a file's
	f     *volume.File
}

// claim takes n blocks from what all files may have.
func (m *mapper) claim(block, n int64) error {
	if !m.fs.isBlock(block, n) {
		return damaged("inode %d: %d blocks at %d", m.inode, n, block)
	}
	if m.budget -= n; m.budget < 0 {
		return damaged("files have more blocks than there are")
	}
	return m.used.check(block, n)
}

// node claims and reads a block of the map itself.
func (m *mapper) node(block int64) ([]byte, error) {
	if err := m.claim(block, 1); err != nil {
		return nil, err
	}
	p := make([]byte, m.fs.block)
	return p, m.fs.readBlock(p, block)
}

// add says where n blocks of the file lie.
func (m *mapper) add(logical, block, n int64, written bool) error {
	if logical < m.next {
		return damaged("inode %d: %d blocks at %d, for block %d of the file", m.inode, n, block, logical)
	}
	m.next = logical + n
	if err := m.claim(block, n); err != nil || !written || !m.keep {
		return err
	}
	e := volume.Extent{Offset: block * m.fs.block, Length: n * m.fs.block}
	e.Length = min(e.Length, m.size-logical*m.fs.block)
	if e.Length <= 0 { // allocated ahead of its end
		return nil
	}
	if l := m.f.Extents; len(l) > 0 && l[len(l)-1].End() == e.Offset {
		l[len(l)-1].Length += e.Length
		return nil
	}
	m.f.Extents = append(m.f.Extents, e)
	return nil
}

// extents reads a node of an extent tree. Depth is what the node must have, -1
// for the root.
func (m *mapper) extents(node []byte, depth int) error {
	if le.Uint16(node) != extentMagic {
		return damaged("inode %d: no extents where they should be", m.inode)
	}
	n, got := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if got > mostDepth || depth >= 0 && got != depth || 12+12*n > len(node) || depth >= 0 && n == 0 {
		return damaged("inode %d: a node of %d extents and depth %d", m.inode, n, got)
	}
	for i := range n {
		e := node[12+12*i : 24+12*i]
		logical := int64(le.Uint32(e))
		if got > 0 {
			if logical < m.next {
				return damaged("inode %d: its extents are out of order", m.inode)
			}
			p, err := m.node(int64(le.Uint32(e[4:])) | int64(le.Uint16(e[8:]))<<32)
			if err != nil {
				return err
			}
			if err := m.extents(p, got-1); err != nil {
				return err
			}
			continue
		}
		length, block := int64(le.Uint16(e[4:])), int64(le.Uint32(e[8:]))|int64(le.Uint16(e[6:]))<<32
		written := length <= unwritten
		if !written {
			length -= unwritten
		}
		if err := m.add(logical, block, length, written); err != nil {
			return err
		}
	}
	return nil
}

// blockMap reads the block numbers of ext2 and ext3.
func (m *mapper) blockMap(root []byte) error {
	end := (m.size + m.fs.block - 1) / m.fs.block
	logical := int64(0)
	for i := range direct + 3 {
		if logical >= end {
			break
		}
		if err := m.pointer(int64(le.Uint32(root[4*i:])), max(0, i-direct+1), &logical, end); err != nil {
			return err
		}
	}
	return nil
}

// pointer reads what a block number stands for: a block of the file, or a block
// of numbers, level deep. Number 0 is a hole.
func (m *mapper) pointer(b int64, level int, logical *int64, end int64) error {
	perBlock := m.fs.block / 4
	if b == 0 {
		n := int64(1)
		for range level {
			n *= perBlock
		}
		*logical += n
		return nil
	}
	if level == 0 {
		*logical++
		return m.add(*logical-1, b, 1, true)
	}
	p, err := m.node(b)
	if err != nil {
		return err
	}
	for i := int64(0); i < perBlock && *logical < end; i++ {
		if err := m.pointer(int64(le.Uint32(p[4*i:])), level-1, logical, end); err != nil {
			return err
		}
	}
	return nil
}

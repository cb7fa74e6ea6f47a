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
	rootInode   = 2
	flagExtents = 0x80000
	flagInline  = 0x10000000
	mapBytes    = 60 // of block numbers, or of an extent tree's root

	extentMagic = 0xf30a
	mostDepth   = 5
	unwritten   = 1 << 15 // lengths above it are of extents that were never written
	direct      = 12      // blocks that an inode names itself
)

// Files implements volume.FileSystem.
func (fs *fileSystem) Files(ctx context.Context, yield func(*volume.File) error) error {
	budget := fs.newBudget()
	return fs.scan(ctx, modeRegular, func(number int64, inode []byte) error {
		if le.Uint32(inode[0x20:])&flagInline != 0 {
			return nil
		}
		f, err := fs.file(number, inode, &budget)
		if err != nil || len(f.Extents) == 0 {
			return err
		}
		return yield(f)
	})
}

// newBudget returns how many blocks all files may have together. No block belongs
// to two files, so they have no more than there are; nor have their trees. What
// claims more would take for ever.
func (fs *fileSystem) newBudget() int64 { return 2 * fs.blocks }

// scan calls visit with each inode of a type that is somebody's file.
func (fs *fileSystem) scan(ctx context.Context, mode uint16, visit func(number int64, inode []byte) error) error {
	table := make([]byte, 1<<18)
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
		used := fs.inodesPerGroup - g.unusedInodes
		each := int64(len(table)) / fs.inodeSize
		for first := int64(0); first < used; first += each {
			p := table[:min(each, used-first)*fs.inodeSize]
			if _, err := fs.r.ReadAt(p, g.table*fs.block+first*fs.inodeSize); err != nil {
				return err
			}
			for i := int64(0); i*fs.inodeSize < int64(len(p)); i++ {
				number, inode := n*fs.inodesPerGroup+first+i+1, p[i*fs.inodeSize:(i+1)*fs.inodeSize]
				links, deleted := le.Uint16(inode[0x1a:]), le.Uint32(inode[0x14:])
				if le.Uint16(inode)&modeMask != mode || links == 0 || deleted != 0 ||
					number < fs.firstInode && number != rootInode || fs.special[number] {
					continue
				}
				if err := visit(number, inode); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// file returns where an inode says that its content lies.
func (fs *fileSystem) file(number int64, inode []byte, budget *int64) (*volume.File, error) {
	size := int64(le.Uint32(inode[4:])) | int64(le.Uint32(inode[0x6c:]))<<32
	if size < 0 {
		return nil, damaged("inode %d has %d bytes", number, size)
	}
	m := &mapper{fs: fs, inode: number, size: size, budget: budget, f: &volume.File{ID: uint64(number), Size: size}}
	root := inode[0x28 : 0x28+mapBytes]
	if le.Uint32(inode[0x20:])&flagExtents != 0 {
		return m.f, m.extents(root, -1)
	}
	return m.f, m.blockMap(root)
}

// mapper collects a file's extents.
type mapper struct {
	fs     *fileSystem
	inode  int64
	size   int64
	next   int64 // the first logical block that was not said anything of
	budget *int64
	f      *volume.File
}

// spend takes n blocks from what all files may have.
func (m *mapper) spend(n int64) error {
	if *m.budget -= n; *m.budget < 0 {
		return damaged("files have more blocks than there are")
	}
	return nil
}

// add says where n blocks of the file lie.
func (m *mapper) add(logical, block, n int64) error {
	if logical < m.next || !m.fs.isBlock(block, n) {
		return damaged("inode %d: %d blocks at %d, for block %d of the file", m.inode, n, block, logical)
	}
	m.next = logical + n
	if err := m.spend(n); err != nil {
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
			if err := m.spend(1); err != nil {
				return err
			}
			p := make([]byte, m.fs.block)
			if err := m.fs.readBlock(p, int64(le.Uint32(e[4:]))|int64(le.Uint16(e[8:]))<<32); err != nil {
				return err
			}
			if err := m.extents(p, got-1); err != nil {
				return err
			}
			continue
		}
		length, block := int64(le.Uint16(e[4:])), int64(le.Uint32(e[8:]))|int64(le.Uint16(e[6:]))<<32
		if length > unwritten {
			length -= unwritten
			if logical < m.next || !m.fs.isBlock(block, length) {
				return damaged("inode %d: %d unwritten blocks at %d", m.inode, length, block)
			}
			m.next = logical + length
			continue
		}
		if err := m.add(logical, block, length); err != nil {
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
		return m.add(*logical-1, b, 1)
	}
	if err := m.spend(1); err != nil {
		return err
	}
	p := make([]byte, m.fs.block)
	if err := m.fs.readBlock(p, b); err != nil {
		return err
	}
	for i := int64(0); i < perBlock && *logical < end; i++ {
		if err := m.pointer(int64(le.Uint32(p[4*i:])), level-1, logical, end); err != nil {
			return err
		}
	}
	return nil
}

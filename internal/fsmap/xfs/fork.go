package xfs

import "prestage/internal/fsmap/volume"

// Of what an inode has: its content, or its attributes.
const (
	formatDevice  = 0
	formatLocal   = 1
	formatExtents = 2
	formatTree    = 3

	mapMagic4  = 0x424d4150 // BMAP
	mapMagic5  = 0x424d4133 // BMA3
	mapHeader4 = 24
	mapHeader5 = 72
	mapSum     = 64
	mapSize    = 16 // bytes of an extent, and of a key and its pointer
)

// mapper collects the extents of a fork.
type mapper struct {
	s     *scanner
	inode uint64
	count uint64 // extents so far
	next  int64  // the first block of the content that was not said anything of
	keep  bool   // they are a file's
	f     *volume.File
}

// fork reads a fork that should have so many extents.
func (m *mapper) fork(p []byte, format byte, count uint64) error {
	switch format {
	case formatDevice, formatLocal:
		if count != 0 {
			return damaged("inode %d has %d extents, and none", m.inode, count)
		}
		return nil
	case formatExtents:
		if count > uint64(len(p)/mapSize) {
			return damaged("inode %d has %d extents in %d bytes", m.inode, count, len(p))
		}
		return m.records(p[:count*mapSize])
	case formatTree:
		if err := m.root(p); err != nil {
			return err
		}
		if m.count != count {
			return damaged("inode %d has %d extents of %d", m.inode, m.count, count)
		}
		return nil
	}
	return damaged("inode %d: content of kind %d", m.inode, format)
}

// root reads the root of a tree, which is in the inode.
func (m *mapper) root(p []byte) error {
	if len(p) < 4 {
		return damaged("inode %d has no room for a tree", m.inode)
	}
	level, n := int(be.Uint16(p)), int(be.Uint16(p[2:]))
	most := (len(p) - 4) / mapSize
	if level < 1 || level > mostDepth || n < 1 || n > most {
		return damaged("inode %d: a tree of %d levels, with %d branches", m.inode, level, n)
	}
	for i := range n {
		if err := m.node(be.Uint64(p[4+8*most+8*i:]), level-1); err != nil {
			return err
		}
	}
	return nil
}

// node reads a block of a tree and what is below.
func (m *mapper) node(number uint64, level int) error {
	s, fs := m.s, m.s.fs
	if s.budget--; s.budget < 0 {
		return damaged("the extents of files have more blocks than there are")
	}
	at, ok := fs.place(number, 1)
	if !ok {
		return damaged("inode %d: a tree at block %d", m.inode, number)
	}
	if err := s.used(at/fs.perGroup, at%fs.perGroup, 1); err != nil {
		return err
	}
	if s.nodes[level] == nil {
		s.nodes[level] = make([]byte, fs.block)
	}
	p := s.nodes[level]
	if _, err := fs.r.ReadAt(p, at*fs.block); err != nil {
		return err
	}
	magic, header := uint32(mapMagic4), mapHeader4
	if fs.v5 {
		magic, header = mapMagic5, mapHeader5
	}
	n, body := int(be.Uint16(p[6:])), p[header:]
	most := len(body) / mapSize
	if be.Uint32(p) != magic || int(be.Uint16(p[4:])) != level || n < 1 || n > most {
		return damaged("inode %d: block %d is not of a tree", m.inode, number)
	}
	if fs.v5 && (!summed(p, mapSum) || int64(be.Uint64(p[24:])) != at*(fs.block/512) ||
		!fs.isOurs(p[40:56]) || be.Uint64(p[56:]) != m.inode) {
		return damaged("inode %d: the checksum or the place of block %d is wrong", m.inode, number)
	}
	if level == 0 {
		return m.records(body[:n*mapSize])
	}
	for i := range n {
		if err := m.node(be.Uint64(body[8*most+8*i:]), level-1); err != nil {
			return err
		}
	}
	return nil
}

// records reads extents, 128 bits each: whether it was never written (1), where
// it is in the content (54), where it lies (52), how many blocks it has (21).
func (m *mapper) records(p []byte) error {
	s, fs := m.s, m.s.fs
	for ; len(p) >= mapSize; p = p[mapSize:] {
		hi, lo := be.Uint64(p), be.Uint64(p[8:])
		unwritten, logical := hi>>63 != 0, int64(hi<<1>>10)
		number, n := hi&0x1ff<<43|lo>>21, int64(lo&(1<<21-1))
		at, ok := fs.place(number, n)
		if !ok || logical < m.next {
			return damaged("inode %d: %d blocks at %d, for block %d of the content", m.inode, n, number, logical)
		}
		m.next = logical + n
		m.count++
		if s.content -= n; s.content < 0 && fs.ro&roReflink == 0 {
			return damaged("files have more blocks than there are")
		}
		if err := s.used(at/fs.perGroup, at%fs.perGroup, n); err != nil {
			return err
		}
		if !unwritten && m.keep {
			m.add(logical, at, n)
		}
	}
	return nil
}

// add says where n blocks of the file lie.
func (m *mapper) add(logical, block, n int64) {
	size := m.s.fs.block
	if logical > (m.f.Size-1)/size { // allocated ahead of its end
		return
	}
	e := volume.Extent{Offset: block * size, Length: min(n*size, m.f.Size-logical*size)}
	if e.Length <= 0 {
		return
	}
	if l := m.f.Extents; len(l) > 0 && l[len(l)-1].End() == e.Offset {
		l[len(l)-1].Length += e.Length
		return
	}
	m.f.Extents = append(m.f.Extents, e)
}

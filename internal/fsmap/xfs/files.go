package xfs

import (
	"context"

	"prestage/internal/fsmap/volume"
)

// Of inodes.
const (
	inodeMagic = 0x494e
	inodeSum   = 100
	core4      = 100 // bytes before the forks
	core5      = 176

	modeMask    = 0xf000
	modeRegular = 0x8000

	flagRealTime = 0x1
	flagCounts   = 0x10 // of the second flags: large counts of extents

	chunkInodes = 64
	sparseUnit  = 4 // inodes that a bit of a sparse chunk stands for
)

// Files implements volume.FileSystem. It looks at all inodes, also at those that
// are no files, and sees that none has a block that is free.
func (fs *fileSystem) Files(ctx context.Context, yield func(*volume.File) error) error {
	s := &scanner{fs: fs, lookup: &lookup{fs: fs}, yield: yield, budget: fs.blocks, content: fs.blocks}
	for number := range fs.groups {
		g, err := fs.group(number)
		if err != nil {
			return err
		}
		err = fs.walk(&g.inodes, func(b int64) error { return s.used(number, b, 1) }, func(record []byte) error {
			if err := ctx.Err(); err != nil {
				return err
			}
			return s.chunk(number, record)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// scanner reads inodes.
type scanner struct {
	fs     *fileSystem
	lookup *lookup
	yield  func(*volume.File) error
	end    int64 // the first inode of the group that was not read
	group  int64 // that it is of
	buf    []byte

	budget  int64 // blocks that extent trees may still have
	content int64 // blocks that files may still have, where no two share one
	nodes   [mostDepth][]byte
}

// used sees that n blocks of a group are not free.
func (s *scanner) used(group, b, n int64) error {
	free, err := s.lookup.overlaps(group, b, n)
	if err == nil && free {
		err = damaged("group %d: %d blocks at %d are free and in use", group, n, b)
	}
	return err
}

// chunk reads 64 inodes that lie together. Those of a sparse chunk do not all
// exist.
func (s *scanner) chunk(group int64, record []byte) error {
	fs := s.fs
	first, free := int64(be.Uint32(record)), be.Uint64(record[8:])
	holes := uint16(0)
	if fs.incompat&incompatSparse != 0 {
		holes = be.Uint16(record[4:])
	}
	if group != s.group {
		s.group, s.end = group, 0
	}
	if first < s.end || first%sparseUnit != 0 {
		return damaged("group %d: inodes at %d", group, first)
	}
	s.end = first + chunkInodes
	if s.buf == nil {
		s.buf = make([]byte, chunkInodes*fs.inode)
	}
	for i := int64(0); i < chunkInodes; {
		if holes>>(i/sparseUnit)&1 != 0 {
			i += sparseUnit
			continue
		}
		end := i + sparseUnit
		for end < chunkInodes && holes>>(end/sparseUnit)&1 == 0 {
			end += sparseUnit
		}
		if err := s.inodes(group, first, i, end, free); err != nil {
			return err
		}
		i = end
	}
	return nil
}

// inodes reads inodes from one on, in a chunk that says which of them are free.
func (s *scanner) inodes(group, chunk, from, to int64, free uint64) error {
	fs := s.fs
	start, end := (chunk+from)*fs.inode, (chunk+to)*fs.inode // in the group
	b := start / fs.block
	n := (end+fs.block-1)/fs.block - b
	if !fs.inGroup(group, b, n) {
		return damaged("group %d: inodes at %d lie outside", group, chunk)
	}
	if err := s.used(group, b, n); err != nil {
		return err
	}
	p := s.buf[:end-start]
	if _, err := fs.r.ReadAt(p, group*fs.perGroup*fs.block+start); err != nil {
		return err
	}
	for i := from; i < to; i++ {
		if free>>i&1 != 0 {
			continue
		}
		number := uint64(group)<<fs.inodeBits | uint64(chunk+i)
		f, err := s.inode(number, p[(i-from)*fs.inode:(i-from+1)*fs.inode])
		if err != nil {
			return err
		}
		if f != nil {
			if err := s.yield(f); err != nil {
				return err
			}
		}
	}
	return nil
}

// inode returns what an inode says of a file, or nil if it is none that has
// blocks.
func (s *scanner) inode(number uint64, p []byte) (*volume.File, error) {
	fs := s.fs
	version, core := p[4], int64(core4)
	if fs.v5 {
		core = core5
	}
	if be.Uint16(p) != inodeMagic || fs.v5 != (version == 3) || version < 1 || version > 3 {
		return nil, damaged("inode %d is none", number)
	}
	if fs.v5 && (!summed(p, inodeSum) || be.Uint64(p[152:]) != number || !fs.isOurs(p[160:176])) {
		return nil, damaged("the checksum of inode %d is wrong", number)
	}
	mode, links := be.Uint16(p[2:]), be.Uint32(p[16:])
	if version == 1 {
		links = uint32(be.Uint16(p[6:]))
	}
	if mode == 0 { // never used
		return nil, nil
	}
	regular := mode&modeMask == modeRegular
	size := int64(be.Uint64(p[56:]))
	if size < 0 {
		return nil, damaged("inode %d has %d bytes", number, uint64(size))
	}
	if regular && be.Uint16(p[90:])&flagRealTime != 0 {
		return nil, damaged("inode %d lies on a device that there is not", number)
	}
	data, attributes := p[core:], []byte(nil)
	if at := 8 * int64(p[82]); at > 0 {
		if at >= int64(len(data)) {
			return nil, damaged("inode %d: attributes at %d", number, at)
		}
		data, attributes = data[:at], data[at:]
	}
	extents, others := uint64(be.Uint32(p[76:])), uint64(be.Uint16(p[80:]))
	if fs.v5 && be.Uint64(p[120:])&flagCounts != 0 {
		if fs.incompat&incompatCounts == 0 {
			return nil, damaged("inode %d has a flag that the volume does not know", number)
		}
		extents, others = be.Uint64(p[24:]), uint64(be.Uint32(p[76:]))
	}
	m := &mapper{s: s, inode: number, f: &volume.File{ID: number, Size: size}, keep: regular && links > 0 && !fs.special[number]}
	if err := m.fork(data, p[5], extents); err != nil {
		return nil, err
	}
	if attributes != nil {
		a := &mapper{s: s, inode: number}
		if err := a.fork(attributes, p[83], others); err != nil {
			return nil, err
		}
	}
	if len(m.f.Extents) == 0 {
		return nil, nil
	}
	return m.f, nil
}

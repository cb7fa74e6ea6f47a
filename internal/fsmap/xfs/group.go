package xfs

import (
	"context"

	"prestage/internal/fsmap/volume"
)

// The headers of a group: a sector each, after the superblock's copy.
const (
	freeHeader  = 1
	inodeHeader = 2
	listHeader  = 3

	freeHeaderMagic  = 0x58414746 // XAGF
	inodeHeaderMagic = 0x58414749 // XAGI
	listMagic        = 0x5841464c // XAFL
	freeHeaderSum    = 216
	inodeHeaderSum   = 312
	listSum          = 32
	listStart        = 36 // of the numbers, in version 5
)

// group is an allocation group, as its headers say.
type group struct {
	number       int64
	free, inodes tree
	others       []tree
	freeBlocks   int64
	reserve      []int64 // blocks for the trees of free space, which are used
}

// header reads one of a group's headers.
func (fs *fileSystem) header(number, sector int64, magic uint32, sum, uuid int) ([]byte, error) {
	p := make([]byte, fs.sector)
	if _, err := fs.r.ReadAt(p, number*fs.perGroup*fs.block+sector*fs.sector); err != nil {
		return nil, err
	}
	if sector == listHeader && !fs.v5 {
		return p, nil // it has no header itself
	}
	if be.Uint32(p) != magic {
		return nil, damaged("header %d of group %d is none", sector, number)
	}
	if fs.v5 && (!summed(p, sum) || !fs.isOurs(p[uuid:uuid+16])) {
		return nil, damaged("the checksum of header %d of group %d is wrong", sector, number)
	}
	return p, nil
}

// group reads the headers of a group.
func (fs *fileSystem) group(number int64) (*group, error) {
	free, err := fs.header(number, freeHeader, freeHeaderMagic, freeHeaderSum, 64)
	if err != nil {
		return nil, err
	}
	inodes, err := fs.header(number, inodeHeader, inodeHeaderMagic, inodeHeaderSum, 296)
	if err != nil {
		return nil, err
	}
	for _, p := range [][]byte{free, inodes} {
		if be.Uint32(p[4:]) != 1 || int64(be.Uint32(p[8:])) != number || int64(be.Uint32(p[12:])) != fs.length(number) {
			return nil, damaged("the headers of group %d are of another", number)
		}
	}
	g := &group{
		number:     number,
		free:       tree{freeTree, number, int64(be.Uint32(free[16:])), int(be.Uint32(free[28:]))},
		inodes:     tree{inodeTree, number, int64(be.Uint32(inodes[20:])), int(be.Uint32(inodes[24:]))},
		freeBlocks: int64(be.Uint32(free[52:])),
	}
	g.others = append(g.others, tree{sizeTree, number, int64(be.Uint32(free[20:])), int(be.Uint32(free[32:]))})
	for _, t := range []struct {
		feature    uint32
		kind       *kind
		root, deep []byte
	}{
		{roReverse, ownerTree, free[24:], free[36:]},
		{roReflink, referencesTree, free[88:], free[92:]},
		{roFreeInodes, freeInodeTree, inodes[328:], inodes[332:]},
	} {
		if fs.ro&t.feature != 0 {
			g.others = append(g.others, tree{t.kind, number, int64(be.Uint32(t.root)), int(be.Uint32(t.deep))})
		}
	}
	if g.free.levels < 1 || g.free.levels > mostDepth {
		return nil, damaged("group %d: a tree of %d levels", number, g.free.levels)
	}
	list, err := fs.header(number, listHeader, listMagic, listSum, 8)
	if err != nil {
		return nil, err
	}
	if fs.v5 {
		list = list[listStart:]
	}
	first, last, count := int64(be.Uint32(free[40:])), int64(be.Uint32(free[44:])), int64(be.Uint32(free[48:]))
	size := int64(len(list) / 4)
	// Two sizes of the list were in use. One that only the other explains is
	// dropped by Linux, which loses these blocks: they are not free either way.
	if first < size && last < size && count > 0 && (last-first+size)%size+1 == count {
		for i := range count {
			g.reserve = append(g.reserve, int64(be.Uint32(list[(first+i)%size*4:])))
		}
	}
	return g, nil
}

// Free implements volume.FileSystem.
func (fs *fileSystem) Free(ctx context.Context, yield func(volume.Extent) error) error {
	for number := range fs.groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		g, err := fs.group(number)
		if err != nil {
			return err
		}
		if err := fs.freeOf(ctx, g, yield); err != nil {
			return err
		}
	}
	return nil
}

// freeOf calls yield with what is free in a group.
func (fs *fileSystem) freeOf(ctx context.Context, g *group, yield func(volume.Extent) error) error {
	var (
		base  = g.number * fs.perGroup
		run   volume.Extent // that was not given yet
		total int64
		end   int64 // of the last record
		l     = &lookup{fs: fs}
	)
	// What is certainly in use must not be free.
	used := func(b, n int64) error {
		free, err := l.overlaps(g.number, b, n)
		if err == nil && free {
			err = damaged("group %d: block %d is free and in use", g.number, b)
		}
		return err
	}
	for _, b := range g.reserve {
		if err := used(b, 1); err != nil {
			return err
		}
	}
	see := func(b int64) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return used(b, 1)
	}
	for _, t := range append(g.others, g.inodes) {
		if err := fs.walk(&t, see, func([]byte) error { return nil }); err != nil {
			return err
		}
	}
	if start := fs.logStart - base; start >= 0 && start < fs.perGroup {
		if err := used(start, fs.logBlocks); err != nil {
			return err
		}
	}
	err := fs.walk(&g.free, see, func(record []byte) error {
		b, n := int64(be.Uint32(record)), int64(be.Uint32(record[4:]))
		if !fs.inGroup(g.number, b, n) || b < end {
			return damaged("group %d: %d free blocks at %d", g.number, n, b)
		}
		end, total = b+n, total+n
		e := volume.Extent{Offset: (base + b) * fs.block, Length: n * fs.block}
		if run.Length > 0 && run.End() == e.Offset {
			run.Length += e.Length
			return nil
		}
		last := run
		if run = e; last.Length == 0 {
			return nil
		}
		return yield(last)
	})
	if err != nil {
		return err
	}
	if total != g.freeBlocks {
		return damaged("group %d: %d blocks are free, and %d by its header", g.number, total, g.freeBlocks)
	}
	if run.Length == 0 {
		return nil
	}
	return yield(run)
}

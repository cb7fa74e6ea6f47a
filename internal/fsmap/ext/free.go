package ext

import (
	"cmp"
	"context"
	"slices"

	"prestage/internal/fsmap/volume"
)

// blocks is a range of blocks.
type blocks struct{ first, n int64 }

// metadata returns the blocks of bitmaps and inode tables, in ascending order.
// They need not lie in the group that they describe.
func (fs *fileSystem) metadata() ([]blocks, error) {
	table := (fs.inodesPerGroup*fs.inodeSize + fs.block - 1) / fs.block
	var list []blocks
	if fs.mmp != 0 {
		list = append(list, blocks{fs.mmp, 1})
	}
	for n := range fs.groups {
		g, err := fs.group(n)
		if err != nil {
			return nil, err
		}
		list = append(list, blocks{g.blockBitmap, 1}, blocks{g.inodeBitmap, 1}, blocks{g.table, table})
	}
	slices.SortFunc(list, func(a, b blocks) int { return cmp.Compare(a.first, b.first) })
	for i := 1; i < len(list); i++ {
		if a, b := list[i-1], list[i]; a.first+a.n > b.first {
			return nil, damaged("tables of groups overlap at block %d", b.first)
		}
	}
	return list, nil
}

// base returns how many blocks at a group's start hold the superblock's copy and
// group descriptors, and how many behind them are set aside for more of these.
func (fs *fileSystem) base(n int64) (count, aside int64) {
	perBlock := fs.block / fs.descSize
	all := (fs.groups + perBlock - 1) / perBlock
	if fs.hasSuper(n) {
		count = 1
	}
	if fs.incompat&incompatMetaBG == 0 {
		if count > 0 {
			return count + all, fs.reservedDescs
		}
		return 0, 0
	}
	if count > 0 {
		count += min(all, fs.metaGroup)
	}
	if n/perBlock >= fs.metaGroup && (n%perBlock <= 1 || n%perBlock == perBlock-1) {
		count++
	}
	return count, 0
}

// Free implements volume.FileSystem.
func (fs *fileSystem) Free(ctx context.Context, yield func(volume.Extent) error) error {
	meta, err := fs.metadata()
	if err != nil {
		return err
	}
	var (
		run    blocks // free blocks that were not given yet
		total  int64
		bitmap = make([]byte, fs.block)
	)
	give := func() error {
		if run.n == 0 {
			return nil
		}
		e := volume.Extent{Offset: run.first * fs.block, Length: run.n * fs.block}
		run = blocks{}
		return yield(e)
	}
	for n := range fs.groups {
		if err := ctx.Err(); err != nil {
			return err
		}
		g, err := fs.group(n)
		if err != nil {
			return err
		}
		first := fs.firstBlock + n*fs.perGroup
		count := min(fs.perGroup, fs.blocks-first)
		if err := fs.bitmap(g, bitmap); err != nil {
			return err
		}
		for len(meta) > 0 && meta[0].first < first+count {
			m := meta[0]
			for b := max(m.first, first); b < min(m.first+m.n, first+count); b++ {
				at := b - first
				if g.flags&groupNoBitmap == 0 && bitmap[at/8]>>(at%8)&1 == 0 {
					return damaged("block %d of the tables is free", b)
				}
				bitmap[at/8] |= 1 << (at % 8)
			}
			if m.first+m.n > first+count {
				break
			}
			meta = meta[1:]
		}
		for i := int64(0); i < count; i++ {
			if i%8 == 0 && bitmap[i/8] == 0xff {
				if err := give(); err != nil {
					return err
				}
				i += 7
				continue
			}
			if bitmap[i/8]>>(i%8)&1 != 0 {
				if err := give(); err != nil {
					return err
				}
				continue
			}
			if run.n == 0 {
				run.first = first + i
			}
			run.n++
			total++
		}
	}
	if total != fs.free {
		return damaged("%d blocks are free, and %d by the superblock", total, fs.free)
	}
	return give()
}

// bitmap reads which blocks of a group are in use. A bitmap that was never
// written has but what lies at the group's start.
func (fs *fileSystem) bitmap(g *group, p []byte) error {
	count, aside := fs.base(g.number)
	if g.flags&groupNoBitmap != 0 {
		clear(p)
		for i := range min(count+aside, fs.perGroup) {
			p[i/8] |= 1 << (i % 8)
		}
		return nil
	}
	if err := fs.readBitmap(g, p, g.blockBitmap, fs.perGroup, g.bitmapSum); err != nil {
		return err
	}
	if firstFree(p, 0, min(count, fs.perGroup)) >= 0 {
		return damaged("group descriptors in group %d are free", g.number)
	}
	return nil
}

// inodeBitmap reads which inodes of a group are in use.
func (fs *fileSystem) inodeBitmap(g *group, p []byte) error {
	return fs.readBitmap(g, p, g.inodeBitmap, fs.inodesPerGroup, g.inodeSum)
}

// readBitmap reads a bitmap of n bits and compares its checksum, if there are any.
func (fs *fileSystem) readBitmap(g *group, p []byte, block, n int64, sum uint32) error {
	if err := fs.readBlock(p, block); err != nil {
		return err
	}
	if fs.ro&roChecksums == 0 {
		return nil
	}
	got := crc(fs.seed, p[:n/8])
	if fs.descSize < 64 || fs.incompat&incompat64Bit == 0 {
		got &= 0xffff
	}
	if got != sum {
		return damaged("the checksum of a bitmap of group %d is wrong", g.number)
	}
	return nil
}

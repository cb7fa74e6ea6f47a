package fat

import (
	"math/bits"

	"prestage/internal/fsmap/volume"
)

// How many clusters the kinds have.
const (
	mostIn12 = 4084
	mostIn16 = 65524
	mostIn32 = 0x0ffffff5
)

// openFAT reads the boot sector of FAT12, FAT16 or FAT32. Nothing in it is a sure
// sign, so all of it must make sense before it is called damaged.
func (fs *fileSystem) openFAT(b []byte, size int64) error {
	fs.sector = int64(le.Uint16(b[11:]))
	perCluster, reserved, copies := int64(b[13]), int64(le.Uint16(b[14:])), int64(b[16])
	rootEntries, media := int64(le.Uint16(b[17:])), b[21]
	switch {
	case b[0] != 0xe9 && (b[0] != 0xeb || b[2] != 0x90),
		fs.sector < 512 || fs.sector > 4096 || bits.OnesCount64(uint64(fs.sector)) != 1,
		bits.OnesCount64(uint64(perCluster)) != 1,
		reserved == 0, copies == 0 || copies > 4,
		media != 0xf0 && media < 0xf8:
		return volume.ErrUnknown
	}
	sectors, tableSectors := int64(le.Uint16(b[19:])), int64(le.Uint16(b[22:]))
	if sectors == 0 {
		sectors = int64(le.Uint32(b[32:]))
	}
	large := tableSectors == 0
	if large {
		tableSectors = int64(le.Uint32(b[36:]))
	}
	if sectors == 0 || tableSectors == 0 || large != (rootEntries == 0) {
		return volume.ErrUnknown
	}
	fs.name, fs.cluster = "FAT", perCluster*fs.sector
	root := (reserved + copies*tableSectors) * fs.sector
	fs.data = root + (rootEntries*entrySize+fs.sector-1)/fs.sector*fs.sector
	if sectors > size/fs.sector || fs.data > sectors*fs.sector-fs.cluster {
		return damaged("FAT of %d sectors of %d bytes in %d bytes, its clusters from %d on", sectors, fs.sector, size, fs.data)
	}
	fs.clusters = (sectors*fs.sector - fs.data) / fs.cluster
	fs.table = table{offset: reserved * fs.sector, stride: tableSectors * fs.sector}
	most := int64(mostIn16)
	switch {
	case large:
		fs.name, fs.table.bits, fs.table.mask, most = "FAT32", 32, 1<<28-1, mostIn32
	case fs.clusters <= mostIn12:
		fs.name, fs.table.bits, fs.table.mask = "FAT12", 12, 1<<12-1
	default:
		fs.name, fs.table.bits, fs.table.mask = "FAT16", 16, 1<<16-1
	}
	fs.table.last = fs.table.mask &^ 7
	fs.table.length = fs.table.size(fs.clusters + firstCluster)
	if fs.clusters > most || fs.table.length > fs.table.stride {
		return damaged("%s of %d clusters, with a table of %d sectors", fs.name, fs.clusters, tableSectors)
	}
	fs.root = place{offset: root, length: rootEntries * entrySize}
	state := b[0x25]
	if large {
		if version := le.Uint16(b[42:]); version != 0 {
			return refused("FAT32 of version %#x", version)
		}
		fs.root = place{cluster: int64(le.Uint32(b[44:])), length: mostFolder, chained: true}
		state = b[0x41]
		if flags := le.Uint16(b[40:]); flags&0x80 != 0 { // one of the tables is used, and the others are not kept
			active := int64(flags & 0xf)
			if active >= copies {
				return damaged("FAT32 uses table %d of %d", active, copies)
			}
			fs.table.offset += active * fs.table.stride
			copies = 1
		}
	}
	return fs.checkFAT(state, media, copies)
}

// checkFAT reads the table and the folders.
func (fs *fileSystem) checkFAT(state, media byte, copies int64) error {
	w := fs.newWalker(false)
	first, err := fs.table.entry(w.cache, 0)
	if err != nil {
		return err
	}
	second, err := fs.table.entry(w.cache, 1)
	if err != nil {
		return err
	}
	// The first entry repeats the kind of medium. Where it does not, something
	// else may have been written over what was FAT once.
	if first != fs.table.mask&^0xff|uint32(media) {
		return damaged("the allocation table of %s begins with %#x", fs.name, first)
	}
	clean, sound := uint32(0), uint32(0)
	switch fs.table.bits {
	case 16:
		clean, sound = 1<<15, 1<<14
	case 32:
		clean, sound = 1<<27, 1<<26
	}
	switch {
	case second&clean != clean || state&1 != 0:
		return refused("%s was not unmounted: %s", fs.name, shutDown)
	case second&sound != sound || state&2 != 0:
		return refused("%s has errors: have it checked", fs.name)
	}
	if err := fs.checkCopies(copies); err != nil {
		return err
	}
	fs.dir = fatFormat{}
	return fs.check(w)
}

package fat

import (
	"bytes"
)

const (
	bootSectors  = 12 // of which the last holds the checksum of the others
	mostExFAT    = 1<<32 - 11
	mostExFolder = 256 << 20 // bytes

	volumeDirty  = 0x2
	volumeFailed = 0x4 // the medium
)

// openExFAT reads the boot sectors of exFAT.
func (fs *fileSystem) openExFAT(b []byte, size int64) error {
	fs.name = "exFAT"
	if n := b[108]; n < 9 || n > 12 || int(n)+int(b[109]) > 25 || len(bytes.Trim(b[11:64], "\x00")) > 0 {
		return damaged("exFAT with sectors of 2^%d bytes, in clusters of 2^%d", n, b[109])
	}
	fs.sector = 1 << b[108]
	fs.cluster = fs.sector << b[109]
	if size < bootSectors*fs.sector {
		return damaged("exFAT in %d bytes", size)
	}
	if err := fs.checkBoot(); err != nil {
		return err
	}
	flags := le.Uint16(b[106:])
	switch {
	case b[105] != 1:
		return refused("exFAT of version %d.%d", b[105], b[104])
	case b[110] != 1:
		return refused("exFAT with %d allocation tables", b[110])
	case flags&volumeDirty != 0:
		return refused("exFAT was not unmounted: %s", shutDown)
	case flags&volumeFailed != 0:
		return refused("exFAT has errors: have it checked")
	}
	sectors, offset, length := le.Uint64(b[72:]), int64(le.Uint32(b[80:])), int64(le.Uint32(b[84:]))
	heap := int64(le.Uint32(b[88:]))
	fs.clusters = int64(le.Uint32(b[92:]))
	if sectors > uint64(size/fs.sector) {
		return damaged("exFAT of %d sectors of %d bytes in %d bytes", sectors, fs.sector, size)
	}
	fs.data = heap * fs.sector
	fs.table = table{offset: offset * fs.sector, stride: length * fs.sector, bits: 32, mask: 1<<32 - 1, last: 1<<32 - 1}
	fs.table.length = fs.table.size(fs.clusters + firstCluster)
	if fs.clusters < 1 || fs.clusters > mostExFAT || fs.clusters > (int64(sectors)*fs.sector-fs.data)/fs.cluster ||
		offset < 2*bootSectors || fs.table.length > fs.table.stride || offset+length > heap {
		return damaged("exFAT of %d sectors, its table of %d at %d, %d clusters at %d", sectors, length, offset, fs.clusters, heap)
	}
	fs.root = place{cluster: int64(le.Uint32(b[96:])), length: mostExFolder, chained: true}
	fs.dir = exFormat{}
	return fs.checkExFAT()
}

// checkBoot compares the boot sectors with their checksum.
func (fs *fileSystem) checkBoot() error {
	p := make([]byte, bootSectors*fs.sector)
	if _, err := fs.r.ReadAt(p, 0); err != nil {
		return err
	}
	sum, sums := uint32(0), p[(bootSectors-1)*fs.sector:]
	for i, c := range p[:len(p)-len(sums)] {
		if i == 106 || i == 107 || i == 112 { // flags and how full it is, which change
			continue
		}
		sum = sum>>1 | sum<<31
		sum += uint32(c)
	}
	for ; len(sums) > 0; sums = sums[4:] {
		if le.Uint32(sums) != sum {
			return damaged("the checksum of exFAT's boot sectors is wrong")
		}
	}
	return nil
}

// checkExFAT finds the bitmap and the table of capital letters, which lie in the
// root, and reads all folders.
func (fs *fileSystem) checkExFAT() error {
	w := fs.newWalker(false)
	d := w.folder(fs.root, "")
	var capitals place
	for {
		e, _, err := d.entry()
		if err != nil {
			return err
		}
		if e == nil || e[0] == typeEnd {
			break
		}
		p := place{cluster: int64(le.Uint32(e[20:])), length: int64(min(le.Uint64(e[24:]), 1<<62))}
		var to *place
		switch e[0] {
		case typeBitmap:
			to = &fs.bitmap
			if want := (fs.clusters + 7) / 8; e[1]&1 != 0 || p.length != want {
				return damaged("the bitmap of exFAT has %d bytes, and not %d", p.length, want)
			}
		case typeCapitals:
			to = &capitals
		default:
			continue
		}
		if to.cluster > 0 || p.cluster < firstCluster {
			return damaged("exFAT with two bitmaps, or with none")
		}
		*to = p
	}
	if fs.bitmap.cluster == 0 || capitals.cluster == 0 {
		return damaged("exFAT without its bitmap or its table of capital letters")
	}
	// From here on everything is compared with the bitmap, itself first.
	pieces := 0
	if err := fs.newWalker(false).runs(&fs.bitmap, func(int64, int64) error { pieces++; return nil }); err != nil {
		return err
	}
	if pieces != 1 {
		return refused("exFAT with a bitmap in pieces")
	}
	w = fs.newWalker(false)
	w.used = &cache{read: func(p []byte, at int64) error {
		_, err := fs.r.ReadAt(p[:min(int64(len(p)), fs.bitmap.length-at)], fs.offset(fs.bitmap.cluster)+at)
		return err
	}}
	for _, p := range []*place{&fs.bitmap, &capitals} {
		if err := w.runs(p, func(int64, int64) error { return nil }); err != nil {
			return err
		}
	}
	return fs.check(w)
}

package fat

import (
	"context"

	"prestage/internal/fsmap/volume"
)

// Free implements volume.FileSystem. Clusters that are in no file and not marked
// as free are in use.
func (fs *fileSystem) Free(ctx context.Context, yield func(volume.Extent) error) error {
	begin := int64(-1) // where free clusters begin, -1 in used ones
	give := func(end int64) error {
		e := volume.Extent{Offset: fs.offset(begin), Length: (end - begin) * fs.cluster}
		begin = -1
		return yield(e)
	}
	err := fs.each(ctx, func(c int64, free bool) error {
		if free && begin < 0 {
			begin = c
		} else if !free && begin >= 0 {
			return give(c)
		}
		return nil
	})
	if err == nil && begin >= 0 {
		err = give(fs.clusters + firstCluster)
	}
	return err
}

// each calls yield with each cluster, in ascending order.
func (fs *fileSystem) each(ctx context.Context, yield func(c int64, free bool) error) error {
	offset, length, width := fs.table.offset, fs.table.length, fs.table.bits
	first := int64(0) // the cluster of the first entry
	if fs.bitmap.cluster > 0 {
		offset, length, width, first = fs.offset(fs.bitmap.cluster), fs.bitmap.length, 1, firstCluster
	}
	buf := make([]byte, piece)
	c, end := first, fs.clusters+firstCluster
	for at := int64(0); at < length; at += piece {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(piece, length-at)]
		if _, err := fs.r.ReadAt(p, offset+at); err != nil {
			return err
		}
		for i, n := int64(0), int64(len(p))*8/width; i < n && c < end; i, c = i+1, c+1 {
			if c < firstCluster {
				continue
			}
			var e uint32
			switch width {
			case 1:
				e = uint32(p[i/8] >> (i % 8) & 1)
			case 12:
				e = fs.table.twelve(uint32(le.Uint16(p[i*12/8:])), i)
			case 16:
				e = uint32(le.Uint16(p[i*2:]))
			default:
				e = le.Uint32(p[i*4:]) & fs.table.mask
			}
			if err := yield(c, e == 0); err != nil {
				return err
			}
		}
	}
	return nil
}

// isUsed sees that n clusters from c on are in use after exFAT's bitmap. FAT has
// none: there, being in a file is being in use.
func (w *walker) isUsed(c, n int64) error {
	if w.used == nil {
		return nil
	}
	for at, end := c-firstCluster, c-firstCluster+n; at < end; {
		p, i, err := w.used.get(at / 8)
		if err != nil {
			return err
		}
		if at%8 == 0 && end-at >= 8 && p[i] == 0xff {
			at += 8
			continue
		}
		if p[i]>>(at%8)&1 == 0 {
			return damaged("cluster %d of %s is in use, and free in the bitmap", at+firstCluster, w.fs.name)
		}
		at++
	}
	return nil
}

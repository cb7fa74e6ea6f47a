package ntfs

import (
	"context"
	"fmt"
	"math/bits"

	"prestage/internal/fsmap/volume"
)

const (
	mapPiece  = 4 << 10 // bytes of the bitmap that are kept together
	mapPieces = 1024    // how many are kept
)

// usedMap looks up clusters in the bitmap. It keeps what it read last; files lie
// near their neighbours.
type usedMap struct {
	fs     *fileSystem
	number [mapPieces]int64 // of the piece that is kept there, and 1
	bits   [mapPieces][]byte
}

// check fails if not all clusters of r are marked as used.
func (u *usedMap) check(r run) error {
	const each = mapPiece * 8
	for at, end := r.cluster, r.cluster+r.length; at < end; {
		p, err := u.piece(at / each)
		if err != nil {
			return err
		}
		stop := min(end, (at/each+1)*each)
		for ; at < stop; at++ {
			i := at % each
			if i%8 == 0 && stop-at >= 8 && p[i/8] == 0xFF {
				at += 7
				continue
			}
			if p[i/8]>>(i%8)&1 == 0 {
				return damage("cluster %d is in use, and free in the bitmap", at)
			}
		}
	}
	return nil
}

func (u *usedMap) piece(number int64) ([]byte, error) {
	slot := number % mapPieces
	if u.number[slot] == number+1 {
		return u.bits[slot], nil
	}
	if u.bits[slot] == nil {
		u.bits[slot] = make([]byte, mapPiece)
	}
	p := u.bits[slot]
	u.number[slot] = 0
	n := min(mapPiece, u.fs.bitmap.initialized-number*mapPiece)
	if err := u.fs.content(&u.fs.bitmap, p[:n], number*mapPiece); err != nil {
		return nil, fmt.Errorf("NTFS bitmap: %w", err)
	}
	clear(p[n:])
	u.number[slot] = number + 1
	return p, nil
}

// Free implements volume.FileSystem.
func (fs *fileSystem) Free(ctx context.Context, yield func(volume.Extent) error) error {
	size, clusters := fs.geometry.cluster, fs.geometry.clusters
	free := int64(-1) // where free clusters begin, -1 in used ones
	give := func(end int64) error {
		e := volume.Extent{Offset: free * size, Length: min(end*size, fs.end) - free*size}
		free = -1
		if e.Length <= 0 {
			return nil
		}
		return yield(e)
	}
	buf := make([]byte, piece)
	for at := int64(0); at < clusters; {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := buf[:min(piece, (clusters-at+7)/8)]
		if err := fs.content(&fs.bitmap, p, at/8); err != nil {
			return fmt.Errorf("NTFS bitmap: %w", err)
		}
		for _, b := range p {
			n := min(8, clusters-at)
			if n < 8 {
				b |= 0xFF << n // there are no such clusters
			}
			for i := int64(0); i < n; {
				used := free < 0
				if used { // up to the next free one
					i += int64(bits.TrailingZeros8(^(b >> i)))
				} else {
					i += int64(bits.TrailingZeros8(b >> i))
				}
				if i >= n {
					break
				}
				if used {
					free = at + i
				} else if err := give(at + i); err != nil {
					return err
				}
			}
			at += n
		}
	}
	if free >= 0 {
		return give(clusters)
	}
	return nil
}

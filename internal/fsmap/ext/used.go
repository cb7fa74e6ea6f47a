package ext

// mostBitmaps is how many bitmaps are kept.
const mostBitmaps = 64

// usedMap looks up blocks in the bitmaps. It keeps those that it read last; files
// lie near their neighbours.
type usedMap struct {
	fs   *fileSystem
	kept map[int64][]byte // by group
}

// check fails if one of n blocks of the volume is marked as free.
func (u *usedMap) check(b, n int64) error {
	for n > 0 {
		number := (b - u.fs.firstBlock) / u.fs.perGroup
		p, err := u.bitmap(number)
		if err != nil {
			return err
		}
		first := u.fs.firstBlock + number*u.fs.perGroup
		end := min(b+n, first+u.fs.perGroup)
		if free := firstFree(p, b-first, end-first); free >= 0 {
			return damaged("block %d is in use, and free in the bitmap", first+free)
		}
		b, n = end, b+n-end
	}
	return nil
}

// firstFree returns the first bit from one on that is not set, or -1.
func firstFree(bitmap []byte, from, to int64) int64 {
	for i := from; i < to; i++ {
		if i%8 == 0 && to-i >= 8 && bitmap[i/8] == 0xff {
			i += 7
			continue
		}
		if bitmap[i/8]>>(i%8)&1 == 0 {
			return i
		}
	}
	return -1
}

func (u *usedMap) bitmap(number int64) ([]byte, error) {
	if p := u.kept[number]; p != nil {
		return p, nil
	}
	g, err := u.fs.group(number)
	if err != nil {
		return nil, err
	}
	p := make([]byte, u.fs.block)
	if err := u.fs.bitmap(g, p); err != nil {
		return nil, err
	}
	if len(u.kept) >= mostBitmaps || u.kept == nil {
		u.kept = make(map[int64][]byte)
	}
	u.kept[number] = p
	return p, nil
}

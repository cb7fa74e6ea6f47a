package fat

import (
	"io"
)

const (
	piece     = 96 << 10 // bytes of a table that are read together; a multiple of 12, so that no entry is cut
	kept      = 4 << 10  // bytes of a table that are kept together
	keptCount = 256      // how many are kept
)

// cache keeps what was read of a table last; files lie near their neighbours.
type cache struct {
	read   func(p []byte, at int64) error
	number [keptCount]int64 // of what is kept there, and 1
	bytes  [keptCount][]byte
}

// get returns what is kept together with the byte at an offset, and the byte's
// place there. What lies behind the table is zero.
func (c *cache) get(at int64) ([]byte, int64, error) {
	number := at / kept
	slot := number % keptCount
	if c.number[slot] == number+1 {
		return c.bytes[slot], at % kept, nil
	}
	if c.bytes[slot] == nil {
		c.bytes[slot] = make([]byte, kept)
	}
	c.number[slot] = 0
	clear(c.bytes[slot])
	if err := c.read(c.bytes[slot], number*kept); err != nil {
		return nil, 0, err
	}
	c.number[slot] = number + 1
	return c.bytes[slot], at % kept, nil
}

// table is the allocation table: for each cluster the one that follows it in its
// file.
type table struct {
	offset, length int64 // bytes that have entries
	stride         int64 // from a copy to the next
	bits           int64 // of an entry
	mask           uint32
	last           uint32 // from here on, no cluster follows
}

// size returns the bytes of n entries.
func (t *table) size(n int64) int64 { return (n*t.bits + 7) / 8 }

// newCache returns a cache of the table.
func (t *table) newCache(r io.ReaderAt) *cache {
	return &cache{read: func(p []byte, at int64) error {
		_, err := r.ReadAt(p[:min(int64(len(p)), t.length-at)], t.offset+at)
		return err
	}}
}

// entry returns the entry of a cluster that is one of the volume.
func (t *table) entry(c *cache, cluster int64) (uint32, error) {
	p, i, err := c.get(cluster * t.bits / 8)
	if err != nil {
		return 0, err
	}
	if t.bits != 12 {
		if t.bits == 16 {
			return uint32(le.Uint16(p[i:])), nil
		}
		return le.Uint32(p[i:]) & t.mask, nil
	}
	low := uint32(p[i])
	if p, i, err = c.get(cluster*t.bits/8 + 1); err != nil {
		return 0, err
	}
	return t.twelve(low|uint32(p[i])<<8, cluster), nil
}

// twelve takes a cluster's 12 bits out of the two bytes that they lie in.
func (t *table) twelve(v uint32, cluster int64) uint32 {
	if cluster%2 == 1 {
		return v >> 4
	}
	return v & t.mask
}

package guest

import (
	"cmp"
	"math"
	"slices"

	"prestage/internal/disk"
)

// places are where the parts of a container lie in its file. What is free for the
// machine inside can be left out only if nothing else is in the same place.
type places struct {
	f    *disk.File
	unit int64 // bytes; blocks begin at multiples of it
	// Blocks have all the same size, and there are many of them.
	block  int64    // bytes
	blocks []uint32 // where they begin, in units
	others []region // all else
}

// add adds a block.
func (p *places) add(at int64) error {
	if at%p.unit != 0 || at < 0 || at/p.unit > math.MaxUint32 {
		return damaged("a block at %d", at)
	}
	p.blocks = append(p.blocks, uint32(at/p.unit))
	return nil
}

// check sees that no two parts share bytes.
func (p *places) check() error {
	slices.Sort(p.blocks)
	at := func(i int) int64 { return int64(p.blocks[i]) * p.unit }
	for i := 1; i < len(p.blocks); i++ {
		if at(i)-at(i-1) < p.block {
			return damaged("two blocks of the disk are at %d", at(i))
		}
	}
	slices.SortFunc(p.others, func(a, b region) int { return cmp.Compare(a.offset, b.offset) })
	end := int64(0)
	for _, r := range p.others {
		if r.offset < end {
			return damaged("tables overlap at %d", r.offset)
		}
		end = r.offset + r.length
		i, _ := slices.BinarySearchFunc(p.blocks, r.offset-p.block+1, func(b uint32, first int64) int {
			return cmp.Compare(int64(b)*p.unit, first)
		})
		if i < len(p.blocks) && at(i) < end {
			return damaged("a block of the disk is at %d, where a table is", at(i))
		}
	}
	return nil
}

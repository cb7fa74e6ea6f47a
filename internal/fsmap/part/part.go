// Package part reads partition tables: MBR with logical partitions, and GPT as
// the UEFI specification has it.
package part

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"

	"prestage/internal/fsmap/volume"
)

var le = binary.LittleEndian

// Partition is a part of a disk.
type Partition struct {
	Number         int // as the machine inside counts them
	Offset, Length int64
}

// mostPartitions bounds what is read of a table.
const mostPartitions = 1024

// ofTable is the number of a part of the disk that the table itself lies in.
const ofTable = 0

// Read returns the partitions of the disk in the first size bytes of r, in the
// order of their offsets. The error wraps volume.ErrUnknown if there is no
// partition table, and volume.ErrDamaged if it contradicts itself.
func Read(r io.ReaderAt, size int64) ([]Partition, error) {
	list, err := read(r, size) // and where the table lies
	if err != nil {
		return nil, err
	}
	slices.SortFunc(list, func(a, b Partition) int { return int(min(max(a.Offset-b.Offset, -1), 1)) })
	for i, p := range list {
		if i > 0 && p.Offset < list[i-1].Offset+list[i-1].Length {
			if number := max(p.Number, list[i-1].Number); min(p.Number, list[i-1].Number) == ofTable {
				return nil, damaged("partition %d overlaps it", number)
			}
			return nil, damaged("partitions %d and %d overlap", list[i-1].Number, p.Number)
		}
	}
	return slices.DeleteFunc(list, func(p Partition) bool { return p.Number == ofTable }), nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: the partition table: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// inside says whether the partition lies on the disk, and is one at all.
func (p Partition) inside(size int64) bool {
	return p.Offset > 0 && p.Length > 0 && p.Offset < size && p.Length <= size-p.Offset
}

package part

import (
	"io"

	"prestage/internal/fsmap/volume"
)

// The layout of a boot record. Addresses in it count sectors, which have 512
// bytes on the disks of virtual machines that are not GPT.
const (
	recordSize   = 512
	entriesAt    = 446
	entrySize    = 16
	sector       = 512
	firstLogical = 5
)

// Types of entries that are not partitions themselves.
const (
	typeEmpty       = 0x00
	typeExtended    = 0x05
	typeExtendedLBA = 0x0f
	typeExtendedOld = 0x85
	typeProtective  = 0xee
)

type entry struct {
	status, kind byte
	start, count int64 // sectors
}

func (e entry) isExtended() bool {
	return e.kind == typeExtended || e.kind == typeExtendedLBA || e.kind == typeExtendedOld
}

// record reads the entries of a boot record. ok is false if it is none: boot
// sectors of file systems end as one does, and have code where the entries are.
func record(r io.ReaderAt, at int64) (entries [4]entry, ok bool, err error) {
	b := make([]byte, recordSize)
	if _, err := r.ReadAt(b, at); err != nil {
		return entries, false, err
	}
	if b[510] != 0x55 || b[511] != 0xaa {
		return entries, false, nil
	}
	for i := range entries {
		e := b[entriesAt+i*entrySize:][:entrySize]
		entries[i] = entry{e[0], e[4], int64(le.Uint32(e[8:])), int64(le.Uint32(e[12:]))}
		if e[0] != 0 && e[0] != 0x80 {
			return entries, false, nil
		}
	}
	return entries, true, nil
}

func read(r io.ReaderAt, size int64) (list []Partition, err error) {
	if size < recordSize {
		return nil, volume.ErrUnknown
	}
	entries, ok, err := record(r, 0)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, volume.ErrUnknown
	}
	used := false
	for _, e := range entries {
		switch {
		case e.kind == typeEmpty:
		case e.kind == typeProtective:
			return readGPT(r, size)
		case e.start == 0 || e.count == 0 || e.start*sector >= size:
			return nil, volume.ErrUnknown // the end of a boot sector's code, by chance
		default:
			used = true
		}
	}
	if !used {
		return nil, volume.ErrUnknown
	}
	logical := false
	for i, e := range entries {
		switch {
		case e.kind == typeEmpty:
		case e.isExtended():
			if logical {
				return nil, damaged("it has two extended partitions")
			}
			logical = true
			more, err := readLogical(r, size, e)
			if err != nil {
				return nil, err
			}
			list = append(list, more...)
		default:
			p := Partition{i + 1, e.start * sector, e.count * sector}
			if !p.inside(size) {
				return nil, damaged("partition %d ends after the disk", p.Number)
			}
			list = append(list, p)
		}
	}
	return list, nil
}

// readLogical follows the chain of boot records in an extended partition. Each
// has one logical partition, relative to itself, and the place of the next one,
// relative to the extended partition.
func readLogical(r io.ReaderAt, size int64, extended entry) (list []Partition, err error) {
	logical := 0
	for next := int64(0); ; {
		number := firstLogical + logical
		if len(list) >= 2*mostPartitions {
			return nil, damaged("more than %d logical partitions", mostPartitions)
		}
		here := (extended.start + next) * sector
		if here > size-recordSize || next >= extended.count {
			return nil, damaged("logical partition %d lies outside", number)
		}
		entries, ok, err := record(r, here)
		if err != nil {
			return nil, err
		}
		if !ok {
			return nil, damaged("logical partition %d has no boot record", number)
		}
		if e := entries[0]; e.kind != typeEmpty {
			p := Partition{number, here + e.start*sector, e.count * sector}
			if !p.inside(size) || p.Offset <= here {
				return nil, damaged("logical partition %d lies outside", number)
			}
			list = append(list, p)
			logical++
		}
		list = append(list, Partition{ofTable, here, recordSize})
		link := entries[1]
		if link.kind == typeEmpty || link.count == 0 {
			return list, nil
		}
		if !link.isExtended() || link.start <= next { // forward only: the chain ends
			return nil, damaged("the chain of logical partitions is broken after number %d", number)
		}
		next = link.start
	}
}

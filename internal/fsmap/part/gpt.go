package part

import (
	"bytes"
	"hash/crc32"
	"io"
)

const (
	gptMagic       = "EFI PART"
	gptHeaderSize  = 92 // bytes, at least
	gptEntrySize   = 128
	mostGPTEntries = 1 << 12
)

// readGPT reads the table by its header at the disk's start, or by its copy at
// the end if the first one is damaged.
func readGPT(r io.ReaderAt, size int64) ([]Partition, error) {
	for _, sector := range []int64{512, 4096} {
		for _, at := range []int64{sector, size/sector*sector - sector} {
			list, err := table(r, size, sector, at)
			if list != nil || err != nil {
				return list, err
			}
		}
	}
	return nil, damaged("no GPT header has a right checksum")
}

// table reads the table whose header is at offset at: nil if the header is none,
// or if it or its entries do not have their checksums.
func table(r io.ReaderAt, size, sector, at int64) ([]Partition, error) {
	if at < sector || at > size-sector {
		return nil, nil
	}
	h := make([]byte, sector)
	if _, err := r.ReadAt(h, at); err != nil {
		return nil, err
	}
	n := int64(le.Uint32(h[12:]))
	if !bytes.HasPrefix(h, []byte(gptMagic)) || n < gptHeaderSize || n > sector {
		return nil, nil
	}
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	if crc32.ChecksumIEEE(h[:n]) != sum || le.Uint64(h[24:]) != uint64(at/sector) {
		return nil, nil
	}
	first, count, width := le.Uint64(h[72:]), int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
	if count > mostGPTEntries || width < gptEntrySize || width > 4096 || width%8 != 0 ||
		first >= uint64(size/sector) || count*width > size-int64(first)*sector {
		return nil, damaged("its GPT has %d entries of %d bytes at sector %d", count, width, first)
	}
	entries := make([]byte, count*width)
	if _, err := r.ReadAt(entries, int64(first)*sector); err != nil && err != io.EOF {
		return nil, err
	}
	if crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]) {
		return nil, nil
	}
	list := []Partition{{ofTable, at, sector}}
	if n := count * width; n > 0 {
		list = append(list, Partition{ofTable, int64(first) * sector, n})
	}
	if other := le.Uint64(h[32:]); other > 0 && other < uint64(size/sector) && int64(other)*sector != at {
		list = append(list, Partition{ofTable, int64(other) * sector, sector})
	}
	for i := range count {
		e := entries[i*width:][:gptEntrySize]
		if [16]byte(e) == [16]byte{} {
			continue
		}
		from, to := le.Uint64(e[32:]), le.Uint64(e[40:]) // the last sector is part of it
		if from == 0 || to < from || to >= uint64(size/sector) {
			return nil, damaged("partition %d lies outside of the disk", i+1)
		}
		list = append(list, Partition{int(i + 1), int64(from) * sector, int64(to-from+1) * sector})
	}
	if len(list) > mostPartitions+3 {
		return nil, damaged("more than %d partitions", mostPartitions)
	}
	return list, nil
}

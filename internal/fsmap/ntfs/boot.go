package ntfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"

	"prestage/internal/fsmap/volume"
)

var le = binary.LittleEndian

const (
	bootSize   = 512
	mostRecord = 4096    // bytes; Windows makes records of 1024 and of 4096
	mostBlock  = 2 << 20 // bytes of a cluster
)

// geometry is what the boot sector says of the volume.
type geometry struct {
	sector   int64 // bytes
	cluster  int64 // bytes
	clusters int64 // how many
	record   int64 // bytes of a record of the file table
	mft      int64 // first cluster of the file table
}

// readBoot reads the boot sector.
func readBoot(r io.ReaderAt, size int64) (g geometry, err error) {
	p := make([]byte, bootSize)
	if size < bootSize {
		return g, fmt.Errorf("%w: it is too small for NTFS", volume.ErrUnknown)
	}
	if _, err := r.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		return g, fmt.Errorf("reading NTFS boot sector: %w", err)
	}
	if string(p[3:11]) != "NTFS    " || p[510] != 0x55 || p[511] != 0xAA {
		return g, fmt.Errorf("%w: it has no NTFS boot sector", volume.ErrUnknown)
	}
	damaged := func(what string, value int64) (geometry, error) {
		return g, fmt.Errorf("NTFS boot sector: %w: %s %d", volume.ErrDamaged, what, value)
	}

	g.sector = int64(le.Uint16(p[0x0B:]))
	if g.sector < 512 || g.sector > 4096 || !isPower(g.sector) {
		return damaged("sector size", g.sector)
	}
	// Up to 128 it is a number of sectors, above it is a power of two: 0xF4 are
	// 4096.
	perCluster := int64(p[0x0D])
	if perCluster > 128 {
		if perCluster < 256-20 {
			return damaged("sectors per cluster", perCluster)
		}
		perCluster = 1 << (256 - perCluster)
	}
	g.cluster = perCluster * g.sector
	if !isPower(perCluster) || g.cluster > mostBlock {
		return damaged("cluster size", g.cluster)
	}
	sectors := le.Uint64(p[0x28:])
	if sectors == 0 || sectors > uint64(size/g.sector) {
		return g, fmt.Errorf("NTFS boot sector: %w: the volume has %d sectors, there are %d", volume.ErrDamaged, sectors, size/g.sector)
	}
	g.clusters = int64(sectors) / perCluster

	// Above zero it is a number of clusters, below it is a power of two of bytes.
	switch n := int64(int8(p[0x40])); {
	case n > 0:
		g.record = n * g.cluster
	case n >= -12:
		g.record = 1 << -n
	}
	if g.record < 512 || g.record > mostRecord || !isPower(g.record) {
		return damaged("size of file records", g.record)
	}
	mft := le.Uint64(p[0x30:])
	if mft == 0 || mft >= uint64(g.clusters) {
		return damaged("cluster of the file table", int64(mft))
	}
	g.mft = int64(mft)
	return g, nil
}

func isPower(n int64) bool { return n > 0 && bits.OnesCount64(uint64(n)) == 1 }

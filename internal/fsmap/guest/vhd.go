package guest

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"strings"
	"unicode/utf16"

	"prestage/internal/disk"
)

// The VHD format is described by Microsoft's "Virtual Hard Disk Image Format
// Specification" (version 1.0). All numbers are big-endian.
const (
	sectorSize = 512

	vhdFixed        = 2
	vhdDynamic      = 3
	vhdDifferencing = 4

	vhdHeaderSize = 1024
	vhdUnused     = 1<<32 - 1
	vhdLeastBlock = 64 << 10
	vhdMostBlock  = 256 << 20
)

// vhd is a dynamic VHD: blocks, each behind a bitmap of its sectors.
type vhd struct {
	f          *disk.File
	number     uint32
	table      int64 // where it lies
	blocks     int64
	block      int64 // bytes
	bitmapSize int64
	tables     tables
	bitmap     []byte // of the block that was asked for last
	bitmapOf   int64  // and 1
}

// summed reports whether the ones' complement sum at a place of p is right.
func summed(p []byte, at int) bool {
	sum := uint32(0)
	for i, c := range p {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return binary.BigEndian.Uint32(p[at:]) == ^sum
}

// vhdFooter returns the footer, at the file's end or, of dynamic ones, its copy at
// the start.
func vhdFooter(f *disk.File) ([]byte, error) {
	p := make([]byte, sectorSize)
	for _, at := range []int64{f.Size - sectorSize, 0} {
		if at < 0 {
			continue
		}
		if err := readFull(f, p, at); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(p, []byte("conectix")) && summed(p, 64) {
			return p, nil
		}
	}
	return nil, damaged("a VHD without its footer")
}

func openVHD(f *disk.File, number uint32) (layout, int64, error) {
	foot, err := vhdFooter(f)
	if err != nil {
		return nil, 0, err
	}
	be := binary.BigEndian
	size := be.Uint64(foot[48:])
	kind, header := be.Uint32(foot[60:]), be.Uint64(foot[16:])
	switch {
	case foot[84] != 0:
		return nil, 0, refused("a VHD with a saved state: start the virtual machine and shut it down")
	case kind == vhdFixed:
		if size > uint64(f.Size) {
			return nil, 0, damaged("a VHD of %d bytes with %d", f.Size, size)
		}
		return flat{number, 0, int64(size)}, int64(size), nil
	case kind != vhdDynamic && kind != vhdDifferencing:
		return nil, 0, refused("a VHD of kind %d", kind)
	case header > uint64(f.Size) || f.Size-int64(header) < vhdHeaderSize || size > mostSize:
		return nil, 0, damaged("a VHD with its header at %d", header)
	}
	p := make([]byte, vhdHeaderSize)
	if err := readFull(f, p, int64(header)); err != nil {
		return nil, 0, err
	}
	if !bytes.HasPrefix(p, []byte("cxsparse")) || !summed(p, 36) {
		return nil, 0, damaged("the header of the VHD is none")
	}
	if kind == vhdDifferencing {
		return nil, 0, refused("a differencing VHD depends on %q: merge it first", vhdParent(p))
	}
	v := &vhd{f: f, number: number, table: int64(be.Uint64(p[16:])), blocks: int64(be.Uint32(p[28:])), block: int64(be.Uint32(p[32:]))}
	v.tables = newTables(f)
	if v.block < vhdLeastBlock || v.block > vhdMostBlock || bits.OnesCount64(uint64(v.block)) != 1 ||
		v.table < 0 || v.table%sectorSize != 0 || v.table > f.Size || v.blocks*4 > f.Size-v.table || int64(size) > v.blocks*v.block {
		return nil, 0, damaged("a VHD of %d blocks of %d bytes, for %d", v.blocks, v.block, size)
	}
	v.bitmapSize = (v.block/sectorSize/8 + sectorSize - 1) / sectorSize * sectorSize
	return v, int64(size), v.check(int64(header))
}

// check sees that no two blocks of the disk, or of its tables, are in one place.
func (v *vhd) check(header int64) error {
	up := (v.blocks*4 + sectorSize - 1) / sectorSize * sectorSize
	p := &places{f: v.f, unit: sectorSize, block: v.bitmapSize + v.block,
		others: []region{{0, sectorSize}, {header, vhdHeaderSize}, {v.table, up}}}
	for n := range v.blocks {
		e, err := v.tables.get(v.table+4*n, 4)
		if err != nil {
			return err
		}
		if sector := binary.BigEndian.Uint32(e); sector != vhdUnused {
			if err := p.add(int64(sector) * sectorSize); err != nil {
				return err
			}
		}
	}
	return p.check()
}

// vhdParent returns the name of what a differencing VHD depends on.
func vhdParent(header []byte) string {
	var units []uint16
	for p := header[64 : 64+512]; len(p) > 0; p = p[2:] {
		u := binary.BigEndian.Uint16(p)
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return strings.ToValidUTF8(string(utf16.Decode(units)), "?")
}

func (v *vhd) at(off int64) (place, int64, error) {
	n := off / v.block
	e, err := v.tables.get(v.table+4*n, 4)
	if err != nil {
		return place{}, 0, err
	}
	in := off % v.block
	sector := binary.BigEndian.Uint32(e)
	if sector == vhdUnused {
		return place{}, v.block - in, nil
	}
	start := int64(sector) * sectorSize
	if err := inFile(v.f, start, v.block); err != nil {
		return place{}, 0, err
	}
	if v.bitmapOf != n+1 {
		if v.bitmap == nil {
			v.bitmap = make([]byte, v.bitmapSize)
		}
		v.bitmapOf = 0
		if err := readFull(v.f, v.bitmap, start); err != nil {
			return place{}, 0, err
		}
		v.bitmapOf = n + 1
	}
	// The run of sectors that were written, or were not.
	first := in / sectorSize
	set := v.isSet(first)
	end := first + 1
	for ; end < v.block/sectorSize && v.isSet(end) == set; end++ {
	}
	length := end*sectorSize - in
	if !set {
		return place{}, length, nil
	}
	return place{stored, v.number, start + v.bitmapSize + in}, length, nil
}

func (v *vhd) isSet(sector int64) bool { return v.bitmap[sector/8]<<(sector%8)&0x80 != 0 }

func (*vhd) unpack(int64) ([]byte, error) { return nil, nil }

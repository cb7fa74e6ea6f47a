package guest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"math/bits"

	"prestage/internal/disk"
)

// The VHDX format is described by Microsoft's [MS-VHDX]. All numbers are
// little-endian.
const (
	vhdxHeader1, vhdxHeader2   = 64 << 10, 128 << 10
	vhdxHeaderSize             = 4 << 10
	vhdxRegions1, vhdxRegions2 = 192 << 10, 256 << 10
	vhdxRegionsSize            = 64 << 10
	vhdxMetadataSize           = 64 << 10 // of the table
	vhdxUnit                   = 1 << 20
	vhdxMostSize               = 64 << 40

	vhdxRequired  = 1 // a region that must be understood
	vhdxItem      = 4 // likewise, an item of metadata
	vhdxHasParent = 2

	// States of blocks.
	vhdxPresent = 6
	vhdxPartly  = 7
)

// GUIDs, as they are stored.
var (
	vhdxBAT        = guid(0x2dc27766, 0xf623, 0x4200, 0x9d64115e9bfd4a08)
	vhdxMetadata   = guid(0x8b7ca206, 0x4790, 0x4b9a, 0xb8fe575f050f886e)
	vhdxParameters = guid(0xcaa16737, 0xfa36, 0x4d43, 0xb3b633f0aa44e76b)
	vhdxSize       = guid(0x2fa54224, 0xcd1b, 0x4876, 0xb2115dbed83bf4b8)
	vhdxSector     = guid(0x8141bf1d, 0xa96f, 0x4709, 0xba47f233a8faab5f)
	vhdxPhysical   = guid(0xcda348c7, 0x445d, 0x4471, 0x9cc9e9885251c556)
	vhdxIdentity   = guid(0xbeca12ab, 0xb2e6, 0x4523, 0x93efc309e000c746)
	vhdxParent     = guid(0xa8d35f2d, 0xb30b, 0x454d, 0xabf7d3d84834ab0c)
)

func guid(a uint32, b, c uint16, d uint64) (g [16]byte) {
	binary.LittleEndian.PutUint32(g[:], a)
	binary.LittleEndian.PutUint16(g[4:], b)
	binary.LittleEndian.PutUint16(g[6:], c)
	binary.BigEndian.PutUint64(g[8:], d)
	return g
}

// vhdx is a VHDX without a parent.
type vhdx struct {
	f      *disk.File
	number uint32
	block  int64 // bytes
	ratio  int64 // blocks for which there is one entry more in the table
	table  int64 // where it lies
	tables tables
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checked reports whether the checksum of a structure is right, which is at 4.
func checked(p []byte) bool {
	want := binary.LittleEndian.Uint32(p[4:])
	sum := crc32.Update(0, castagnoli, p[:4])
	sum = crc32.Update(sum, castagnoli, make([]byte, 4))
	return crc32.Update(sum, castagnoli, p[8:]) == want
}

func openVHDX(f *disk.File, number uint32) (layout, int64, error) {
	h, err := vhdxHeader(f)
	if err != nil {
		return nil, 0, err
	}
	le := binary.LittleEndian
	if v := le.Uint16(h[66:]); v != 1 {
		return nil, 0, refused("a VHDX of version %d", v)
	}
	if err := checkLog(f, h); err != nil {
		return nil, 0, err
	}
	regions, err := vhdxRegions(f)
	if err != nil {
		return nil, 0, err
	}
	v := &vhdx{f: f, number: number, table: regions[vhdxBAT].offset}
	v.tables = newTables(f)
	size, err := v.metadata(regions[vhdxMetadata])
	if err != nil {
		return nil, 0, err
	}
	blocks := (size + v.block - 1) / v.block
	if entries := blocks + max(0, blocks-1)/v.ratio; entries > regions[vhdxBAT].length/8 {
		return nil, 0, damaged("a VHDX of %d bytes with a table of %d", size, regions[vhdxBAT].length)
	}
	log := region{int64(le.Uint64(h[72:])), int64(le.Uint32(h[68:]))}
	return v, size, v.check(blocks, log, regions[vhdxBAT], regions[vhdxMetadata])
}

// check sees that no two blocks of the disk, or of its tables, are in one place.
func (v *vhdx) check(blocks int64, tables ...region) error {
	p := &places{f: v.f, unit: vhdxUnit, block: v.block, others: append(tables, region{0, vhdxUnit})}
	for n := range blocks {
		e, err := v.tables.get(v.table+8*(n+n/v.ratio), 8)
		if err != nil {
			return err
		}
		if e := binary.LittleEndian.Uint64(e); e&7 == vhdxPresent {
			if err := p.add(int64(e >> 20 << 20)); err != nil {
				return err
			}
		}
	}
	return p.check()
}

// vhdxHeader returns the header that is in force.
func vhdxHeader(f *disk.File) ([]byte, error) {
	var best []byte
	for _, at := range []int64{vhdxHeader1, vhdxHeader2} {
		p := make([]byte, vhdxHeaderSize)
		if err := readFull(f, p, at); err != nil {
			return nil, err
		}
		if bytes.HasPrefix(p, []byte("head")) && checked(p) &&
			(best == nil || binary.LittleEndian.Uint64(p[8:]) > binary.LittleEndian.Uint64(best[8:])) {
			best = p
		}
	}
	if best == nil {
		return nil, damaged("a VHDX without its header")
	}
	return best, nil
}

// region is a part of the file.
type region struct{ offset, length int64 }

func vhdxRegions(f *disk.File) (map[[16]byte]region, error) {
	p := make([]byte, vhdxRegionsSize)
	found := false
	for _, at := range []int64{vhdxRegions1, vhdxRegions2} {
		if err := readFull(f, p, at); err != nil {
			return nil, err
		}
		if found = bytes.HasPrefix(p, []byte("regi")) && checked(p); found {
			break
		}
	}
	le := binary.LittleEndian
	n := le.Uint32(p[8:])
	if !found || n > 2047 {
		return nil, damaged("a VHDX without its table of regions")
	}
	list := make(map[[16]byte]region)
	for e := p[16:]; n > 0; n, e = n-1, e[32:] {
		id := [16]byte(e)
		r := region{int64(le.Uint64(e[16:])), int64(le.Uint32(e[24:]))}
		if id != vhdxBAT && id != vhdxMetadata {
			if le.Uint32(e[28:])&vhdxRequired != 0 {
				return nil, refused("a VHDX with a region that is not known here")
			}
			continue
		}
		if r.offset < vhdxUnit || r.offset > f.Size || r.length > f.Size-r.offset {
			return nil, damaged("a VHDX with a region of %d bytes at %d", r.length, r.offset)
		}
		list[id] = r
	}
	if len(list) != 2 {
		return nil, damaged("a VHDX without the table of its blocks")
	}
	return list, nil
}

// metadata reads what is said of the disk, and returns its size.
func (v *vhdx) metadata(r region) (size int64, err error) {
	if r.length < vhdxMetadataSize {
		return 0, damaged("a VHDX with %d bytes of metadata", r.length)
	}
	p := make([]byte, vhdxMetadataSize)
	if err := readFull(v.f, p, r.offset); err != nil {
		return 0, err
	}
	le := binary.LittleEndian
	n := int(le.Uint16(p[10:]))
	if !bytes.HasPrefix(p, []byte("metadata")) || n > 2047 {
		return 0, damaged("a VHDX without its metadata")
	}
	items := make(map[[16]byte][]byte)
	for e := p[32:]; n > 0 && len(e) >= 32; n, e = n-1, e[32:] {
		id := [16]byte(e)
		at, length := int64(le.Uint32(e[16:])), int64(le.Uint32(e[20:]))
		switch id {
		case vhdxParameters, vhdxSize, vhdxSector:
		case vhdxParent:
			return 0, refused("a differencing VHDX depends on another disk: merge it first")
		case vhdxPhysical, vhdxIdentity:
			continue
		default:
			if le.Uint32(e[24:])&vhdxItem != 0 {
				return 0, refused("a VHDX with metadata that is not known here")
			}
			continue
		}
		if at < vhdxMetadataSize || at > r.length || length > r.length-at || length < 4 || length > 16 {
			return 0, damaged("a VHDX with metadata of %d bytes at %d", length, at)
		}
		q := make([]byte, 16)
		if err := readFull(v.f, q[:length], r.offset+at); err != nil {
			return 0, err
		}
		items[id] = q
	}
	if len(items) != 3 {
		return 0, damaged("a VHDX that does not say its size")
	}
	v.block = int64(le.Uint32(items[vhdxParameters]))
	flags, sector := le.Uint32(items[vhdxParameters][4:]), int64(le.Uint32(items[vhdxSector]))
	total := le.Uint64(items[vhdxSize])
	switch {
	case flags&vhdxHasParent != 0:
		return 0, refused("a differencing VHDX depends on another disk: merge it first")
	case v.block < vhdxUnit || v.block > 256<<20 || bits.OnesCount64(uint64(v.block)) != 1 || sector != 512 && sector != 4096 || total > vhdxMostSize:
		return 0, damaged("a VHDX of %d bytes in blocks of %d, sectors of %d", total, v.block, sector)
	}
	v.ratio = (1 << 23) * sector / v.block
	return int64(total), nil
}

func (v *vhdx) at(off int64) (place, int64, error) {
	n, in := off/v.block, off%v.block
	e, err := v.tables.get(v.table+8*(n+n/v.ratio), 8)
	if err != nil {
		return place{}, 0, err
	}
	entry := binary.LittleEndian.Uint64(e)
	switch entry & 7 {
	case vhdxPresent:
	case vhdxPartly:
		return place{}, 0, refused("a VHDX with blocks of another disk: merge it first")
	default:
		return place{}, v.block - in, nil
	}
	start := int64(entry >> 20 << 20)
	if err := inFile(v.f, start, v.block); err != nil {
		return place{}, 0, err
	}
	return place{stored, v.number, start + in}, v.block - in, nil
}

func (*vhdx) unpack(int64) ([]byte, error) { return nil, nil }

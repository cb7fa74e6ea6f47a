package guest

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"prestage/internal/disk"
)

// The VMDK format is described by VMware's "Virtual Disk Format 5.0". All numbers
// are little-endian; sizes and places are in sectors of 512 bytes.
const (
	vmdkHeader     = 512
	vmdkDescriptor = 64 << 10 // bytes of one that are read

	vmdkPerTable   = 512 // grains, always
	vmdkLeastGrain = 8   // sectors
	vmdkMostGrain  = 4 << 10
	vmdkMostTables = 8 << 20

	vmdkZeroed = 1 << 2 // tables say which grains are zero
	vmdkPacked = 1 << 16
	vmdkAtEnd  = 1<<64 - 1 // the directory is described at the file's end
)

// vmdk is a sparse extent: grains, found by a directory of tables.
type vmdk struct {
	f         *disk.File
	number    uint32
	grain     int64 // bytes
	directory int64 // where it lies
	flags     uint32
	size      int64
	tables    tables
}

// openVMDK opens a disk whose descriptor, or only extent, is the file.
func (o *opener) openVMDK(i int) (layout, int64, error) {
	f := o.files[i]
	text, err := descriptor(f)
	if err != nil {
		return nil, 0, err
	}
	if text == "" {
		return nil, 0, refused("a part of a VMDK whose descriptor is not here")
	}
	if id := value(text, "parentCID"); id != "" && !strings.EqualFold(id, "ffffffff") {
		return nil, 0, refused("a VMDK depends on %q: consolidate its snapshots first", value(text, "parentFileNameHint"))
	}
	parts, err := o.extents(i, text)
	if err != nil {
		return nil, 0, err
	}
	all := &joined{}
	for _, p := range parts {
		all.parts = append(all.parts, p)
		all.ends = append(all.ends, all.size()+p.length)
	}
	return all, all.size(), nil
}

// descriptor returns the text that describes a disk: the file itself, or a part of
// a sparse extent.
func descriptor(f *disk.File) (string, error) {
	p := make([]byte, min(f.Size, vmdkDescriptor))
	if err := readFull(f, p, 0); err != nil {
		return "", err
	}
	if bytes.HasPrefix(p, []byte("KDMV")) && len(p) >= vmdkHeader {
		at, n := binary.LittleEndian.Uint64(p[28:]), binary.LittleEndian.Uint64(p[36:])
		if at == 0 || n == 0 {
			return "", nil
		}
		if at > uint64(f.Size/sectorSize) {
			return "", damaged("a VMDK with its descriptor at sector %d", at)
		}
		p = make([]byte, min(n*sectorSize, vmdkDescriptor, uint64(f.Size)-at*sectorSize))
		if err := readFull(f, p, int64(at)*sectorSize); err != nil {
			return "", err
		}
	}
	p, _, _ = bytes.Cut(p, []byte{0})
	return string(p), nil
}

// value returns what a line of a descriptor says, without quotes.
func value(text, key string) string {
	for line := range strings.Lines(text) {
		if k, v, ok := strings.Cut(line, "="); ok && strings.EqualFold(strings.TrimSpace(k), key) {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	return ""
}

var extentLine = regexp.MustCompile(`(?m)^\s*(RW|RDONLY|NOACCESS)\s+(\d+)\s+([A-Z]+)(?:\s+"([^"]*)")?(?:\s+(\d+))?\s*$`)

// part is an extent of a disk.
type part struct {
	layout
	length int64
}

// extents opens the files that a descriptor names.
func (o *opener) extents(self int, text string) (list []part, err error) {
	lines := extentLine.FindAllStringSubmatch(text, -1)
	if len(lines) == 0 || len(lines) > 4096 {
		return nil, damaged("a VMDK with %d extents", len(lines))
	}
	used := make(map[int]bool) // files of the image
	kept := &pages{}
	total := int64(0)
	for _, m := range lines {
		sectors, err := strconv.ParseInt(m[2], 10, 64)
		if err != nil || sectors <= 0 || sectors > mostSize/sectorSize || total > mostSize-sectors*sectorSize {
			return nil, damaged("a VMDK with an extent of %s sectors", m[2])
		}
		p := part{length: sectors * sectorSize}
		total += p.length
		if m[3] == "ZERO" {
			p.layout = nothing{p.length}
			list = append(list, p)
			continue
		}
		i := o.find(self, m[4])
		if i < 0 {
			return nil, refused("a VMDK with an extent %q that is not in the image: pack the folder that holds it", m[4])
		}
		if used[i] || o.parts[i] {
			return nil, refused("a VMDK with an extent %q that lies where another does", m[4])
		}
		if p.layout, err = o.extent(i, m, p.length, kept); err != nil {
			return nil, fmt.Errorf("extent %q: %w", m[4], err)
		}
		used[i] = true
		list = append(list, p)
	}
	for i := range used {
		if i != self {
			o.parts[i] = true
		}
	}
	return list, nil
}

// find returns the number of the file that a descriptor calls by a name, or -1. A
// sparse disk of one file may have been renamed since.
func (o *opener) find(self int, name string) int {
	at := path.Join(path.Dir(o.files[self].Path), strings.ReplaceAll(name, `\`, "/"))
	i := slices.IndexFunc(o.files, func(f *disk.File) bool { return f.Path == at })
	head := make([]byte, 4)
	if i < 0 && readFull(o.files[self], head, 0) == nil && string(head) == "KDMV" {
		return self
	}
	return i
}

// extent opens an extent as a line of the descriptor describes it.
func (o *opener) extent(i int, m []string, length int64, kept *pages) (layout, error) {
	f := o.files[i]
	switch m[3] {
	case "FLAT", "VMFS":
		at := int64(0)
		if m[5] != "" {
			sectors, err := strconv.ParseInt(m[5], 10, 64)
			if err != nil || sectors > mostSize/sectorSize {
				return nil, damaged("it begins at sector %s", m[5])
			}
			at = sectors * sectorSize
		}
		if at > f.Size || length > f.Size-at {
			return nil, damaged("%d bytes at %d of %d", length, at, f.Size)
		}
		return flat{uint32(i), at, length}, nil
	case "SPARSE":
		v, err := openSparse(f, uint32(i), kept)
		if err == nil && v.size < length {
			err = damaged("it has %d bytes of %d", v.size, length)
		}
		return v, err
	}
	return nil, refused("it is of a kind that is not known here (%s)", m[3])
}

// openSparse opens a sparse extent.
func openSparse(f *disk.File, number uint32, kept *pages) (*vmdk, error) {
	h := make([]byte, vmdkHeader)
	if err := readFull(f, h, 0); err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	if !bytes.HasPrefix(h, []byte("KDMV")) {
		return nil, refused("it is of a kind that is not known here (%q)", h[:4])
	}
	if le.Uint64(h[56:]) == vmdkAtEnd {
		// The header's copy is before the last sector, which marks the end.
		if f.Size < 3*sectorSize {
			return nil, damaged("it has no footer")
		}
		if err := readFull(f, h, f.Size-2*sectorSize); err != nil {
			return nil, err
		}
		if !bytes.HasPrefix(h, []byte("KDMV")) || le.Uint64(h[56:]) == vmdkAtEnd {
			return nil, damaged("it has no footer: it was cut short")
		}
	}
	version, grain, capacity := le.Uint32(h[4:]), le.Uint64(h[20:]), le.Uint64(h[12:])
	v := &vmdk{f: f, number: number, flags: le.Uint32(h[8:]), tables: tables{f, kept}}
	directory := le.Uint64(h[56:])
	switch {
	case version < 1 || version > 3:
		return nil, refused("it is of version %d", version)
	case h[72] != 0:
		return nil, refused("it was not closed: start the virtual machine and shut it down")
	case grain < vmdkLeastGrain || grain > vmdkMostGrain || bits.OnesCount64(grain) != 1 || le.Uint32(h[44:]) != vmdkPerTable ||
		capacity > mostSize/sectorSize || capacity/grain/vmdkPerTable > vmdkMostTables || directory > uint64(f.Size/sectorSize):
		return nil, damaged("%d sectors in grains of %d, its directory at %d", capacity, grain, directory)
	case v.flags&vmdkPacked != 0 && le.Uint16(h[77:]) != 1:
		return nil, refused("it is compressed by method %d", le.Uint16(h[77:]))
	}
	v.grain, v.size, v.directory = int64(grain)*sectorSize, int64(capacity)*sectorSize, int64(directory)*sectorSize
	return v, v.check()
}

// check sees that no two grains of the disk, or of its tables, are in one place.
// Compressed ones are read alone.
func (v *vmdk) check() error {
	perTable := v.grain * vmdkPerTable
	count := (v.size + perTable - 1) / perTable
	p := &places{f: v.f, unit: sectorSize, block: v.grain, others: []region{{0, sectorSize}, {v.directory, count * 4}}}
	entries := make([]byte, vmdkPerTable*4)
	for n := range count {
		e, err := v.tables.get(v.directory+4*n, 4)
		if err != nil {
			return err
		}
		table := int64(binary.LittleEndian.Uint32(e)) * sectorSize
		if table == 0 {
			continue
		}
		p.others = append(p.others, region{table, vmdkPerTable * 4})
		if v.flags&vmdkPacked != 0 {
			continue
		}
		if err := readFull(v.f, entries, table); err != nil {
			return err
		}
		for e := entries; len(e) > 0; e = e[4:] {
			if sector := int64(binary.LittleEndian.Uint32(e)); sector > 1 || sector == 1 && v.flags&vmdkZeroed == 0 {
				if err := p.add(sector * sectorSize); err != nil {
					return err
				}
			}
		}
		if int64(len(p.blocks)) > v.f.Size/v.grain+1 {
			return damaged("it has more grains than its %d bytes hold", v.f.Size)
		}
	}
	return p.check()
}

// entry returns the sector of the grain at an offset, 0 if there is none, and how
// many bytes of the disk from there on it is for.
func (v *vmdk) entry(off int64) (sector, length int64, err error) {
	n, in := off/v.grain, off%v.grain
	p, err := v.tables.get(v.directory+4*(n/vmdkPerTable), 4)
	if err != nil {
		return 0, 0, err
	}
	table := int64(binary.LittleEndian.Uint32(p)) * sectorSize
	if table == 0 {
		return 0, (vmdkPerTable-n%vmdkPerTable)*v.grain - in, nil
	}
	if p, err = v.tables.get(table+4*(n%vmdkPerTable), 4); err != nil {
		return 0, 0, err
	}
	sector = int64(binary.LittleEndian.Uint32(p))
	if sector == 1 && v.flags&vmdkZeroed != 0 {
		sector = 0
	}
	return sector, v.grain - in, nil
}

func (v *vmdk) at(off int64) (place, int64, error) {
	e, n, err := v.entry(off)
	if err != nil {
		return place{}, 0, err
	}
	in := off % v.grain
	if e == 0 {
		return place{}, n, nil
	}
	if err := inFile(v.f, e*sectorSize, v.grain); err != nil {
		return place{}, 0, err
	}
	if v.flags&vmdkPacked != 0 {
		return place{state: packed, file: v.number}, n, nil
	}
	return place{stored, v.number, e*sectorSize + in}, n, nil
}

// unpack implements layout. Before a compressed grain stand its first sector and
// its size.
func (v *vmdk) unpack(off int64) ([]byte, error) {
	e, _, err := v.entry(off)
	if err != nil {
		return nil, err
	}
	h := make([]byte, 12)
	if err := readFull(v.f, h, e*sectorSize); err != nil {
		return nil, err
	}
	n := int64(binary.LittleEndian.Uint32(h[8:]))
	if n > 2*v.grain+sectorSize || int64(binary.LittleEndian.Uint64(h))*sectorSize != off-off%v.grain {
		return nil, damaged("a compressed grain at sector %d that is none", e)
	}
	p := make([]byte, max(0, min(n, v.f.Size-e*sectorSize-12)))
	if err := readFull(v.f, p, e*sectorSize+12); err != nil {
		return nil, err
	}
	r, err := zlib.NewReader(bytes.NewReader(p))
	if err != nil {
		return nil, damaged("a compressed grain at sector %d: %v", e, err)
	}
	unit := make([]byte, v.grain)
	if _, err := io.ReadFull(r, unit); err != nil && err != io.ErrUnexpectedEOF {
		return nil, damaged("a compressed grain at sector %d: %v", e, err)
	}
	return unit, nil
}

// nothing is an extent of zeros.
type nothing struct{ length int64 }

func (l nothing) at(off int64) (place, int64, error) { return place{}, l.length - off, nil }
func (nothing) unpack(int64) ([]byte, error)         { return nil, nil }

// joined are the extents of a disk, one after the other.
type joined struct {
	parts []part
	ends  []int64 // where they end in the disk
}

func (l *joined) size() int64 {
	if len(l.ends) == 0 {
		return 0
	}
	return l.ends[len(l.ends)-1]
}

func (l *joined) find(off int64) (i int, start int64) {
	i, _ = slices.BinarySearch(l.ends, off+1)
	if i > 0 {
		start = l.ends[i-1]
	}
	return i, start
}

func (l *joined) at(off int64) (place, int64, error) {
	i, start := l.find(off)
	p, n, err := l.parts[i].at(off - start)
	return p, min(n, l.ends[i]-off), err
}

func (l *joined) unpack(off int64) ([]byte, error) {
	i, start := l.find(off)
	return l.parts[i].unpack(off - start)
}

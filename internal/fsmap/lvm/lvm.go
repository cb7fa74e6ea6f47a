// Package lvm reads where the linear logical volumes of LVM2 lie in a physical
// volume.
//
// It follows the format as LVM2's own sources and lvmdump's texts show it: a label
// in one of the first sectors, areas of metadata with a header each, and a text in
// a ring.
package lvm

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"prestage/internal/fsmap/volume"
)

var le = binary.LittleEndian

const (
	sector       = 512
	labelSectors = 4
	areaMagic    = " LVM2 x[5A%r0N*>"
	areaHeader   = 512
	mostText     = 4 << 20 // bytes of metadata that are read
	ignored      = 1       // a place of metadata
)

// Volume is a logical volume.
type Volume struct {
	Name string // of the group and the volume, / between
	Size int64  // bytes
	// Parts are where it lies in the physical volume, in order; none if Why is set.
	Parts []volume.Extent
	Why   error // nothing can be told of where it lies
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: LVM: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// sum is the checksum of LVM2: CRC-32 that begins with another value and is not
// inverted.
func sum(p []byte) uint32 {
	const initial = 0xf597a6cf
	return ^crc32.Update(^uint32(initial), crc32.IEEETable, p)
}

// Read returns the logical volumes that a physical volume, the first size bytes of
// r, has parts of. The error wraps volume.ErrUnknown if it is none,
// volume.ErrDamaged if what it says makes no sense.
func Read(r io.ReaderAt, size int64) ([]Volume, error) {
	label, err := findLabel(r, size)
	if err != nil {
		return nil, err
	}
	id, areas, err := readLabel(label)
	if err != nil {
		return nil, err
	}
	own := append([]volume.Extent{{Offset: 0, Length: labelSectors * sector}}, areas...)
	var text []byte
	for _, a := range areas {
		t, err := readArea(r, size, a)
		if err != nil {
			return nil, err
		}
		if text != nil && t != nil && !bytes.Equal(text, t) {
			return nil, damaged("two areas of metadata differ")
		}
		if t != nil {
			text = t
		}
	}
	if text == nil {
		return nil, damaged("no metadata; it is on another disk")
	}
	return readGroup(text, id, size, own)
}

// findLabel returns the sector with the label.
func findLabel(r io.ReaderAt, size int64) ([]byte, error) {
	p := make([]byte, labelSectors*sector)
	if size < int64(len(p)) {
		return nil, volume.ErrUnknown
	}
	if _, err := r.ReadAt(p, 0); err != nil {
		return nil, err
	}
	for i := range uint64(labelSectors) {
		s := p[i*sector : (i+1)*sector]
		if bytes.HasPrefix(s, []byte("LABELONE")) && le.Uint64(s[8:]) == i && string(s[24:32]) == "LVM2 001" {
			if sum(s[20:]) != le.Uint32(s[16:]) {
				return nil, damaged("the label's checksum is wrong")
			}
			return s, nil
		}
	}
	return nil, volume.ErrUnknown
}

// readLabel returns the physical volume's ID and its areas of metadata.
func readLabel(s []byte) (id string, areas []volume.Extent, err error) {
	at := le.Uint32(s[20:])
	if at < 32 || at > sector-40 {
		return "", nil, damaged("a header at %d of its label", at)
	}
	p := s[at:]
	id, p = string(p[:32]), p[40:]
	for list := range 2 { // areas of data, of metadata
		for {
			if len(p) < 16 {
				return "", nil, damaged("a label with too many areas")
			}
			offset, length := le.Uint64(p), le.Uint64(p[8:])
			p = p[16:]
			if offset == 0 {
				break
			}
			if list == 1 {
				areas = append(areas, volume.Extent{Offset: int64(offset), Length: int64(length)})
			}
		}
	}
	return id, areas, nil
}

// readArea returns the text in an area of metadata, nil if there is none.
func readArea(r io.ReaderAt, size int64, a volume.Extent) ([]byte, error) {
	if a.Offset < 0 || a.Length < 2*areaHeader || a.Offset > size || a.Length > size-a.Offset {
		return nil, damaged("an area of %d bytes at %d", a.Length, a.Offset)
	}
	h := make([]byte, areaHeader)
	if _, err := r.ReadAt(h, a.Offset); err != nil {
		return nil, err
	}
	if string(h[4:20]) != areaMagic || sum(h[4:]) != le.Uint32(h) {
		return nil, damaged("the header of an area of metadata is none")
	}
	offset, length, want, flags := le.Uint64(h[40:]), le.Uint64(h[48:]), le.Uint32(h[56:]), le.Uint32(h[60:])
	if offset == 0 || flags&ignored != 0 {
		return nil, nil
	}
	if offset < areaHeader || offset >= uint64(a.Length) || length > mostText || length > uint64(a.Length)-areaHeader {
		return nil, damaged("%d bytes of metadata at %d", length, offset)
	}
	text := make([]byte, length)
	first := min(length, uint64(a.Length)-offset)
	if _, err := r.ReadAt(text[:first], a.Offset+int64(offset)); err != nil {
		return nil, err
	}
	if _, err := r.ReadAt(text[first:], a.Offset+areaHeader); err != nil {
		return nil, err
	}
	if sum(text) != want {
		return nil, damaged("the checksum of the metadata is wrong")
	}
	return bytes.TrimRight(text, "\x00"), nil
}

// readGroup returns the volumes that a text describes, of which the physical
// volume id has parts. Own are the extents of its labels and metadata.
func readGroup(text []byte, id string, size int64, own []volume.Extent) ([]Volume, error) {
	root, err := parse(string(text))
	if err != nil {
		return nil, err
	}
	for _, group := range root.names {
		g := root.section(group)
		if g == nil || g.section("physical_volumes") == nil {
			continue
		}
		m := mapper{size: size, taken: own}
		if m.extent, err = g.sectors("extent_size"); err != nil {
			return nil, err
		}
		physical := g.section("physical_volumes")
		for _, name := range physical.names {
			if p := physical.section(name); p != nil && strings.ReplaceAll(p.text("id"), "-", "") == id {
				m.name = name
				if m.start, err = p.sectors("pe_start"); err != nil {
					return nil, err
				}
			}
		}
		if m.name == "" {
			return nil, damaged("its metadata does not know it")
		}
		return m.volumes(group, g.section("logical_volumes"))
	}
	return nil, damaged("metadata without a volume group")
}

// mapper finds where volumes lie in the physical volume.
type mapper struct {
	name          string // of it, in the metadata
	start, extent int64  // bytes
	size          int64
	taken         []volume.Extent // what something has
}

// volumes reads all volumes, also those that nobody sees: none may have what
// another one has.
func (m *mapper) volumes(group string, list *section) (volumes []Volume, err error) {
	if list == nil {
		return nil, nil
	}
	shared := make(map[string]bool) // volumes whose bytes others show as well
	for _, name := range list.names {
		l := list.section(name)
		for _, n := range l.names {
			for _, key := range []string{"origin", "cow_store", "merging_store", "external_origin"} {
				shared[l.section(n).text(key)] = true
			}
		}
	}
	for _, name := range list.names {
		l := list.section(name)
		v := Volume{Name: group + "/" + name}
		v.Parts, v.Size, v.Why = m.parts(l)
		m.taken = append(m.taken, v.Parts...)
		if !slices.Contains(l.list("status"), "VISIBLE") {
			continue
		}
		if shared[name] {
			v.Parts, v.Why = nil, fmt.Errorf("%w: an LVM volume with snapshots", volume.ErrRefused)
		}
		volumes = append(volumes, v)
	}
	slices.SortFunc(m.taken, func(a, b volume.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
	for i := 1; i < len(m.taken); i++ {
		if m.taken[i-1].End() > m.taken[i].Offset {
			return nil, damaged("two volumes lie at %d", m.taken[i].Offset)
		}
	}
	return volumes, nil
}

// parts returns where a volume lies.
func (m *mapper) parts(l *section) (parts []volume.Extent, size int64, err error) {
	n, err := l.number("segment_count")
	if err != nil {
		return nil, 0, err
	}
	for i := range n {
		s := l.section(fmt.Sprintf("segment%d", i+1))
		if s == nil {
			return nil, 0, damaged("a volume without its segment %d", i+1)
		}
		start, err1 := s.number("start_extent")
		count, err2 := s.number("extent_count")
		if err1 != nil || err2 != nil || start*m.extent != size || count == 0 || count > m.size/m.extent {
			return nil, 0, damaged("a segment of %d extents at %d", count, start)
		}
		if kind := s.text("type"); kind != "striped" {
			return nil, 0, fmt.Errorf("%w: an LVM volume of kind %s", volume.ErrRefused, kind)
		}
		stripes := s.list("stripes")
		if len(stripes) != 2 {
			return nil, 0, fmt.Errorf("%w: an LVM volume in stripes", volume.ErrRefused)
		}
		if stripes[0] != m.name {
			return nil, 0, fmt.Errorf("%w: an LVM volume that is on several disks", volume.ErrRefused)
		}
		at, err := number(stripes[1])
		if err != nil {
			return nil, 0, err
		}
		e := volume.Extent{Offset: m.start + at*m.extent, Length: count * m.extent}
		if at > m.size/m.extent || e.End() > m.size {
			return nil, 0, damaged("a segment of %d bytes at %d", e.Length, e.Offset)
		}
		parts = append(parts, e)
		size += e.Length
	}
	return parts, size, nil
}

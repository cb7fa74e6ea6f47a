// Package guest shows the disks in the files of an image as the machine inside
// sees them: raw ones, and those in VHD, VHDX, qcow2 and VMDK containers.
//
// Containers are read as hostile input. What is refused stays opaque: the image
// is packed as it lies, with a line that says why.
package guest

import (
	"errors"
	"fmt"
	"io"
	"slices"

	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/volume"
)

// place says where bytes of a guest are.
type place struct {
	state  state
	file   uint32 // number, in the image's order
	offset int64
}

type state int

const (
	absent state = iota // they are zero, and nowhere
	stored              // as they are
	shared              // as they are, and something else than the disk has them too
	packed              // compressed, as a part of a unit
)

// layout is a container's map.
type layout interface {
	// at returns where the byte at an offset of the guest is, and how many bytes
	// follow it there: at least one, perhaps more than the guest has. What is
	// packed is given by whole units, and the place is where the unit begins.
	at(off int64) (p place, n int64, err error)
	// unpack returns the unit that is packed at an offset of the guest.
	unpack(off int64) ([]byte, error)
}

// guest is a disk in a container.
type guest struct {
	name   string
	size   int64
	files  []*disk.File // of the image
	layout layout

	unit   []byte // that was unpacked last
	unitAt int64  // of the guest; -1 if none is
}

// Name implements fsmap.Guest.
func (g *guest) Name() string { return g.name }

// Size implements fsmap.Guest.
func (g *guest) Size() int64 { return g.size }

// ReadAt implements io.ReaderAt, for one goroutine at a time.
func (g *guest) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	done := 0
	for done < len(p) {
		if off >= g.size {
			return done, io.EOF
		}
		at, n, err := g.layout.at(off)
		if err != nil {
			return done, err
		}
		q := p[done : done+int(min(n, g.size-off, int64(len(p)-done)))]
		switch at.state {
		case absent:
			clear(q)
		case stored, shared:
			if err := readFull(g.files[at.file], q, at.offset); err != nil {
				return done, err
			}
		case packed:
			if q, err = g.unpacked(q, off); err != nil {
				return done, err
			}
		}
		done, off = done+len(q), off+int64(len(q))
	}
	return done, nil
}

// unpacked fills p, or a part of it, from the packed unit at an offset.
func (g *guest) unpacked(p []byte, off int64) ([]byte, error) {
	if g.unit == nil || off < g.unitAt || off >= g.unitAt+int64(len(g.unit)) {
		unit, err := g.layout.unpack(off)
		if err != nil {
			return nil, err
		}
		g.unit, g.unitAt = unit, off-off%int64(len(unit))
	}
	return p[:copy(p, g.unit[off-g.unitAt:])], nil
}

// readFull reads what a container says is there. Its last block may be cut off
// where it is zero.
func readFull(f *disk.File, p []byte, off int64) error {
	n, err := f.ReadAt(p, off)
	if n < len(p) && errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	if n == len(p) {
		return nil
	}
	return err
}

// Map implements fsmap.Guest.
func (g *guest) Map(offset, length int64, yield func(fsmap.Extent) error) error {
	for end := min(offset+length, g.size); offset < end; {
		at, n, err := g.layout.at(offset)
		if err != nil {
			return err
		}
		n = min(n, end-offset)
		if e := (fsmap.Extent{File: at.file, Offset: at.offset, Length: n}); at.state == stored {
			if e.Length = min(n, g.files[at.file].Size-e.Offset); e.Length > 0 {
				if err := yield(e); err != nil {
					return err
				}
			}
		}
		offset += n
	}
	return nil
}

// flat is a disk that lies in a file as it is, perhaps behind something else.
type flat struct {
	file   uint32
	offset int64
	length int64
}

func (l flat) at(off int64) (place, int64, error) {
	return place{stored, l.file, l.offset + off}, l.length - off, nil
}

func (flat) unpack(int64) ([]byte, error) { return nil, errors.ErrUnsupported }

// Open returns the disks in the files of an image, and a line for each that
// cannot be shown.
func Open(files []*disk.File) (guests []fsmap.Guest, notes []string) {
	o := opener{files: files, parts: make(map[int]bool)}
	opened := make([]*guest, len(files))
	errs := make([]error, len(files))
	// Descriptors first: the files that they name are no disks by themselves.
	var order [2][]int
	for i, f := range files {
		order[rank(f)] = append(order[rank(f)], i)
	}
	for _, i := range slices.Concat(order[0], order[1]) {
		if o.parts[i] {
			continue
		}
		opened[i], errs[i] = o.open(i)
	}
	for i, f := range files {
		switch {
		case errs[i] != nil:
			notes = append(notes, fmt.Sprintf("%s: %v", f.Path, errs[i]))
		case opened[i] != nil && !o.parts[i]:
			guests = append(guests, opened[i])
		}
	}
	return guests, notes
}

// rank returns 0 for a file that describes a disk, 1 for others.
func rank(f *disk.File) int {
	if f.Format != "vmdk" {
		return 1
	}
	if text, err := descriptor(f); err != nil || text == "" {
		return 1
	}
	return 0
}

// opener opens the disks of an image.
type opener struct {
	files []*disk.File
	parts map[int]bool // files that are a part of the disk of another
}

func (o *opener) open(i int) (*guest, error) {
	f := o.files[i]
	g := &guest{name: f.Path, files: o.files}
	var err error
	switch f.Format {
	case "raw":
		g.size, g.layout = f.Size, flat{uint32(i), 0, f.Size}
	case "vhd":
		g.layout, g.size, err = openVHD(f, uint32(i))
	case "vhdx":
		g.layout, g.size, err = openVHDX(f, uint32(i))
	case "qcow2":
		g.layout, g.size, err = openQCOW2(f, uint32(i))
	case "vmdk":
		g.layout, g.size, err = o.openVMDK(i)
	default:
		err = refused("what is in a %s is not known here", f.Format)
	}
	if err != nil {
		return nil, err
	}
	if g.size < 0 || g.size > mostSize {
		return nil, damaged("a disk of %d bytes", g.size)
	}
	return g, nil
}

// mostSize is what the largest disk has that is looked at: 256 TiB.
const mostSize = 1 << 48

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrRefused, fmt.Sprintf(format, args...))
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// tables reads the tables of a file through a small cache: those of large disks
// are too large to keep.
type tables struct {
	f    *disk.File
	kept *pages
}

// pages are what was read of tables. All files of a disk share them.
type pages struct{ kept map[page][]byte }

type page struct {
	f      *disk.File
	number int64
}

const (
	tablePage  = 4 << 10
	tablePages = 1 << 10
)

func newTables(f *disk.File) tables { return tables{f, &pages{}} }

// get returns n bytes of a table at an offset that n divides; n is a power of two
// and at most 8.
func (t *tables) get(off int64, n int) ([]byte, error) {
	if off < 0 || off > t.f.Size-int64(n) {
		return nil, damaged("a table at %d, which is outside", off)
	}
	number := off / tablePage
	p := t.kept.kept[page{t.f, number}]
	if p == nil {
		p = make([]byte, tablePage)
		if err := readFull(t.f, p, number*tablePage); err != nil {
			return nil, err
		}
		if len(t.kept.kept) >= tablePages || t.kept.kept == nil {
			t.kept.kept = make(map[page][]byte)
		}
		t.kept.kept[page{t.f, number}] = p
	}
	return p[off%tablePage:][:n], nil
}

// inFile sees that n bytes at an offset begin in the file, whose end may be cut.
func inFile(f *disk.File, off, n int64) error {
	if off < 0 || off >= f.Size || n < 0 {
		return damaged("%d bytes of the disk are at %d, behind the end", n, off)
	}
	return nil
}

//go:build linux

package fstest

import (
	"bytes"
	"encoding/binary"
	"io"
	"math/bits"
	"slices"
	"testing"

	"prestage/internal/fsmap/volume"
)

// Open opens a file system.
type Open = func(io.ReaderAt, int64) (volume.FileSystem, error)

// Mutant is a volume that fuzzing changes in many ways, one after the other. It
// is changed in place and changed back: making copies would take most of the time.
type Mutant struct {
	b     []byte
	order binary.ByteOrder // of most numbers in it
	sum   func(m *Mutant, at int64)
	// parts are the granules that something depends on: changes go there.
	parts []int64
	saved []saved
	cost  int64 // bytes that are read of it without changes
}

// saved is what was there before a change.
type saved struct {
	at int64
	b  []byte
}

// A part is so many bytes; volumes are mostly zeros and content, where changes
// find nothing.
const (
	granule     = 64
	mostChanges = 64
	changeSize  = 6
)

// NewMutant takes a volume of which the extents matter. Sum, unless it is nil, is
// called after each change with its place, and puts checksums right: an attacker
// has them right.
func NewMutant(b []byte, matter []volume.Extent, order binary.ByteOrder, sum func(m *Mutant, at int64)) *Mutant {
	m := &Mutant{b: b, order: order, sum: sum}
	for _, e := range matter {
		behind := false // what is just behind something may become something
		for at := e.Offset / granule * granule; at < e.End() && at+granule <= int64(len(b)); at += granule {
			some := len(bytes.TrimLeft(b[at:at+granule], "\x00")) > 0
			if n := len(m.parts); (some || behind) && (n == 0 || m.parts[n-1] < at) {
				m.parts = append(m.parts, at)
			}
			behind = some
		}
	}
	return m
}

// MutantOf takes a volume that can be read; what is read of it matters.
func MutantOf(t testing.TB, b []byte, open Open, order binary.ByteOrder, sum func(m *Mutant, at int64)) *Mutant {
	t.Helper()
	r := &tracer{Reader: bytes.NewReader(b)}
	v, err := open(r, int64(len(b)))
	if err == nil {
		err = v.Files(t.Context(), func(*volume.File) error { return nil })
	}
	if err == nil {
		err = v.Free(t.Context(), func(volume.Extent) error { return nil })
	}
	if err != nil {
		t.Fatalf("a seed cannot be read: %v", err)
	}
	slices.SortFunc(r.list, func(a, b volume.Extent) int { return int(a.Offset - b.Offset) })
	m := NewMutant(b, r.list, order, sum)
	for _, e := range r.list {
		m.cost += e.Length
	}
	return m
}

// tracer tells what was read.
type tracer struct {
	*bytes.Reader
	list []volume.Extent
}

func (r *tracer) ReadAt(p []byte, off int64) (int, error) {
	r.list = append(r.list, volume.Extent{Offset: off, Length: int64(len(p))})
	return r.Reader.ReadAt(p, off)
}

// Bytes returns n bytes at an offset, which may be changed until Restore.
func (m *Mutant) Bytes(at, n int64) []byte {
	p := m.b[at : at+n]
	m.saved = append(m.saved, saved{at, bytes.Clone(p)})
	return p
}

// Restore undoes all changes.
func (m *Mutant) Restore() {
	for _, s := range slices.Backward(m.saved) {
		copy(m.b[s.at:], s.b)
	}
	m.saved = m.saved[:0]
}

// Change changes the volume as six bytes after the other say: three for the
// place, among those that matter; how; two for a number.
func (m *Mutant) Change(changes []byte) []byte {
	total := int64(len(m.parts)) * granule
	place := func(n int64) int64 { return m.parts[n%total/granule] + n%granule }
	for range mostChanges {
		if len(changes) < changeSize {
			break
		}
		c := changes[:changeSize]
		changes = changes[changeSize:]
		n := int64(c[0]) | int64(c[1])<<8 | int64(c[2])<<16
		value := binary.LittleEndian.Uint16(c[4:])
		how := c[3]
		width := int64(1) << (how >> 3 & 3)
		at := place(n)
		if how>>5&1 == 0 {
			at &^= width - 1
		}
		switch how & 7 {
		case 0, 1:
			m.put(at, width, uint64(value))
		case 2:
			m.put(at, width, uint64(int64(int16(value))))
		case 3: // around a power of two
			m.put(at, width, 1<<(value>>8&63)+uint64(int64(int8(value))))
		case 4, 5:
			m.put(at, width, m.get(at, width)+uint64(int64(int16(value))))
		case 6: // another number that is there
			m.put(at, width, m.get(place(int64(value)*max(1, total>>16))&^(width-1), width))
		case 7: // another structure that is there
			size := int64(16) << (how >> 3 & 7)
			from := place(int64(value)*max(1, total>>16)) &^ (size - 1)
			at = place(n) &^ (size - 1)
			if from+size <= int64(len(m.b)) && at+size <= int64(len(m.b)) {
				copy(m.Bytes(at, size), bytes.Clone(m.b[from:from+size]))
			}
		}
		if m.sum != nil {
			m.sum(m, at)
		}
	}
	return m.b
}

func (m *Mutant) get(at, width int64) uint64 {
	var p [8]byte
	if at+width > int64(len(m.b)) {
		return 0
	}
	copy(p[:], m.b[at:at+width])
	v := m.order.Uint64(p[:])
	if m.order == binary.ByteOrder(binary.BigEndian) {
		return v >> (64 - 8*width)
	}
	return v
}

func (m *Mutant) put(at, width int64, v uint64) {
	if at+width > int64(len(m.b)) {
		return
	}
	if m.order == binary.ByteOrder(binary.BigEndian) {
		v = bits.ReverseBytes64(v) >> (64 - 8*width)
	}
	p := m.Bytes(at, width)
	for i := range p {
		p[i] = byte(v >> (8 * i))
	}
}

// Reader reads a volume in memory.
func Reader(b []byte) io.ReaderAt { return bytes.NewReader(b) }

// AddSeeds adds what a fuzz target of that many volumes begins with: no change,
// and one of each kind.
func AddSeeds(f *testing.F, volumes int) {
	for i := range volumes {
		f.Add(uint8(i), []byte{})
		for how := range 8 {
			f.Add(uint8(i), []byte{byte(how * 40), 1, 0, byte(how<<3 | how), 3, 0})
		}
	}
}

// How many times as much may be read of a volume that is changed, and how many
// times all of it.
const mostCost, mostSizes = 64, 4

// Fuzz changes one of the volumes, reads it, and changes it back.
func Fuzz(t *testing.T, volumes []*Mutant, which uint8, changes []byte, open Open) {
	m := volumes[int(which)%len(volumes)]
	defer m.Restore()
	Check(t, m.Change(changes), mostCost*m.cost+mostSizes*int64(len(m.b)), open)
}

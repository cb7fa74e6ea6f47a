package ntfs

import (
	"math"
	"slices"
	"unicode/utf16"
)

// Types of attributes.
const (
	typeList       = 0x20
	typeFileName   = 0x30
	typeVolumeInfo = 0x70
	typeData       = 0x80
	typeBitmap     = 0xB0
	typeEnd        = 0xFFFFFFFF
)

const (
	residentHeader    = 0x18
	nonResidentHeader = 0x40

	flagCompressed = 0x00FF // of which only one method is in use
	flagEncrypted  = 0x4000

	mostUnit = 8         // power of two of the clusters that are compressed together; Windows uses 4
	mostRuns = 4_000_000 // of one attribute; Windows ends at about a third of it
)

// run is neighbouring clusters of an attribute. Holes are not runs.
type run struct {
	virtual int64 // first cluster, counted in the attribute
	cluster int64 // first cluster, counted in the volume
	length  int64 // clusters
}

// attribute is what a file has of one type and name: its content, or something
// about it.
type attribute struct {
	kind  uint32
	name  string // as it is stored: UTF-16, little endian
	flags uint16

	resident bool
	value    []byte // if resident

	first, next int64 // virtual clusters of this part, and the one after it
	size        int64 // bytes of the content
	initialized int64 // of which those were written; the rest is zero
	unit        uint8 // power of two of the clusters that are compressed together
	runs        []run
}

// is tells whether it is the attribute of that type and name.
func (a *attribute) is(kind uint32, name string) bool { return a.kind == kind && a.name == name }

// parseAttribute reads an attribute, or a part of one, of a record. Its value
// refers to p; its runs are appended to runs, which may be nil.
func parseAttribute(p []byte, clusters int64, runs []run) (a attribute, err error) {
	a.kind, a.flags = le.Uint32(p), le.Uint16(p[0x0C:])
	at, n := int(le.Uint16(p[0x0A:])), 2*int(p[9])
	if n > 0 {
		if at+n > len(p) {
			return a, damage("attribute 0x%x with a name that leads out of it", a.kind)
		}
		a.name = string(p[at : at+n])
	}
	if p[8] == 0 {
		n, at := int64(le.Uint32(p[0x10:])), int64(le.Uint16(p[0x14:]))
		if at+n > int64(len(p)) {
			return a, damage("attribute 0x%x with a value that leads out of it", a.kind)
		}
		a.resident, a.value = true, p[at:at+n]
		a.size, a.initialized = n, n
		return a, nil
	}
	if p[8] != 1 || len(p) < nonResidentHeader {
		return a, damage("attribute 0x%x of %d bytes, form %d", a.kind, len(p), p[8])
	}
	a.first = int64(le.Uint64(p[0x10:]))
	last := int64(le.Uint64(p[0x18:]))
	pairs := int(le.Uint16(p[0x20:]))
	a.unit = p[0x22]
	if a.first < 0 || last < a.first-1 || last == math.MaxInt64 || pairs < nonResidentHeader || pairs > len(p) {
		return a, damage("attribute 0x%x from cluster %d to %d, runs at %d", a.kind, a.first, last, pairs)
	}
	if a.first == 0 { // only the first part says these
		a.size, a.initialized = int64(le.Uint64(p[0x30:])), int64(le.Uint64(p[0x38:]))
		if a.size < 0 || a.initialized < 0 || a.unit > mostUnit {
			return a, damage("attribute 0x%x of %d bytes, %d of them written, unit %d", a.kind, a.size, a.initialized, a.unit)
		}
		a.initialized = min(a.initialized, a.size)
	}
	if a.runs, a.next, err = appendRuns(runs, p[pairs:], a.first, clusters); err != nil {
		return a, err
	}
	if a.next != last+1 {
		return a, damage("attribute 0x%x: runs up to cluster %d, should be %d", a.kind, a.next, last+1)
	}
	return a, nil
}

// appendRuns appends the runs that mapping pairs stand for, neighbours joined.
// next is the virtual cluster after them.
func appendRuns(runs []run, p []byte, first, clusters int64) (_ []run, next int64, err error) {
	next = first
	cluster := int64(0)
	own := len(runs)
	for {
		if len(p) == 0 {
			return nil, 0, damage("runs without an end")
		}
		if p[0] == 0 {
			return runs, next, nil
		}
		n, m := int(p[0]&15), int(p[0]>>4)
		if n == 0 || n > 8 || m > 8 || 1+n+m > len(p) {
			return nil, 0, damage("run with head 0x%02x", p[0])
		}
		length := signed(p[1 : 1+n])
		// So many clusters that their bytes can still be counted.
		if length <= 0 || length > math.MaxInt64/mostBlock-next {
			return nil, 0, damage("run of %d clusters", length)
		}
		if m > 0 {
			// Both summands may be anything: the sum is looked at without a sign.
			cluster = int64(uint64(cluster) + uint64(signed(p[1+n:1+n+m])))
			if cluster < 0 || cluster >= clusters || length > clusters-cluster {
				return nil, 0, damage("run of %d clusters at %d", length, cluster)
			}
			if last := len(runs) - 1; last >= own && runs[last].virtual+runs[last].length == next && runs[last].cluster+runs[last].length == cluster {
				runs[last].length += length
			} else {
				runs = append(runs, run{virtual: next, cluster: cluster, length: length})
			}
		}
		next += length
		p = p[1+n+m:]
	}
}

// signed reads a number of 1 to 8 bytes.
func signed(p []byte) (v int64) {
	for i, b := range p {
		v |= int64(b) << (8 * i)
	}
	shift := 64 - 8*len(p)
	return v << shift >> shift
}

// text returns UTF-16, little endian, as UTF-8. What is no text in it becomes
// U+FFFD, so that two names can become one.
func text(p string) string {
	if p == "" {
		return ""
	}
	units := make([]uint16, len(p)/2)
	for i := range units {
		units[i] = uint16(p[2*i]) | uint16(p[2*i+1])<<8
	}
	return string(utf16.Decode(units))
}

// content reads what lies at off of an attribute that the file system itself
// needs: it has no holes there.
func (fs *fileSystem) content(a *attribute, p []byte, off int64) error {
	if off < 0 || off > a.initialized || int64(len(p)) > a.initialized-off {
		return damage("attribute 0x%x has no %d bytes at %d", a.kind, len(p), off)
	}
	if a.resident {
		copy(p, a.value[off:])
		return nil
	}
	if a.flags&(flagCompressed|flagEncrypted) != 0 {
		return damage("attribute 0x%x of the file system itself is compressed or encrypted", a.kind)
	}
	size := fs.geometry.cluster
	i, found := slices.BinarySearchFunc(a.runs, off/size, func(r run, virtual int64) int {
		switch {
		case virtual < r.virtual:
			return 1
		case virtual >= r.virtual+r.length:
			return -1
		}
		return 0
	})
	if !found {
		return damage("attribute 0x%x has a hole at %d", a.kind, off)
	}
	for ; len(p) > 0; i++ {
		if i == len(a.runs) || off < a.runs[i].virtual*size {
			return damage("attribute 0x%x has a hole at %d", a.kind, off)
		}
		r := a.runs[i]
		skip := off - r.virtual*size
		n := min(int64(len(p)), r.length*size-skip)
		if err := readFull(fs.r, p[:n], r.cluster*size+skip); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

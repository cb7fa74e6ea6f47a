package ntfs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"prestage/internal/fsmap/volume"
)

// mostList bounds an attribute list, as Windows does.
const mostList = 256 << 10

// inode is a file: a base record and those that it goes on in. It is used for
// one after the other.
type inode struct {
	fs *fileSystem
	// claim is called with each run of each attribute, before anything is read
	// from there, unless it is nil.
	claim func(run) error

	number     int64
	sequence   uint16
	directory  bool
	attributes []attribute
	further    int64 // records that were read besides, and what was as large

	runs   []run  // room for the runs of what is in the base record
	record []byte // another record of the same file
}

// load reads the file that has the base record h.
func (in *inode) load(number int64, h header) error {
	in.number, in.sequence, in.directory = number, h.sequence, h.directory
	in.attributes, in.runs, in.further = in.attributes[:0], in.runs[:0], 0
	if err := in.collect(h); err != nil {
		return fmt.Errorf("NTFS file record %d: %w", number, err)
	}
	return nil
}

func (in *inode) collect(h header) error {
	var list *attribute
	err := h.eachAttribute(func(p []byte) error {
		if le.Uint32(p) != typeList {
			return nil
		}
		a, err := in.parse(p)
		if err != nil {
			return err
		}
		if list != nil {
			return damage("two attribute lists")
		}
		list = &a
		return nil
	})
	if err != nil {
		return err
	}
	if list != nil {
		return in.collectListed(h, list)
	}
	err = h.eachAttribute(func(p []byte) error {
		a, err := in.parse(p)
		if err == nil && a.first != 0 {
			err = damage("attribute 0x%x without its start", a.kind)
		}
		in.attributes = append(in.attributes, a)
		return err
	})
	if err != nil {
		return err
	}
	return in.checkSizes()
}

// parse reads an attribute of one of the file's records. All parts of one file
// share the room for runs; a part keeps what it has of it when that grows.
func (in *inode) parse(p []byte) (a attribute, err error) {
	from := len(in.runs)
	a, err = parseAttribute(p, in.fs.geometry.clusters, in.runs)
	if err != nil || a.resident {
		return a, err
	}
	in.runs = a.runs
	a.runs = a.runs[from:len(a.runs):len(a.runs)]
	if in.claim != nil {
		for _, r := range a.runs {
			if err := in.claim(r); err != nil {
				return a, err
			}
		}
	}
	if len(in.runs) > mostRuns {
		return a, fmt.Errorf("%w: it is in more than %d pieces", volume.ErrRefused, mostRuns)
	}
	return a, nil
}

// listed is an entry of an attribute list: where a part of an attribute is.
type listed struct {
	order    int
	record   int64
	sequence uint16
	kind     uint32
	name     string
	first    int64
	instance uint16
}

// parseList reads an attribute list.
func parseList(p []byte) (entries []listed, err error) {
	for len(p) > 0 {
		if len(p) < 0x1A {
			return nil, damage("attribute list with %d bytes at its end", len(p))
		}
		n, at, name := int(le.Uint16(p[4:])), int(p[7]), 2*int(p[6])
		if n < 0x1A || n%8 != 0 || n > len(p) || at+name > n {
			return nil, damage("attribute list with an entry of %d bytes", n)
		}
		e := listed{order: len(entries), kind: le.Uint32(p), first: int64(le.Uint64(p[8:])), instance: le.Uint16(p[0x18:])}
		if name > 0 {
			e.name = string(p[at : at+name])
		}
		e.record, e.sequence = reference(le.Uint64(p[0x10:]))
		entries = append(entries, e)
		p = p[n:]
	}
	return entries, nil
}

// list reads the entries of an attribute list.
func (fs *fileSystem) list(a *attribute) ([]listed, error) {
	if a.size > mostList || a.initialized != a.size {
		return nil, damage("attribute list of %d bytes, %d of them written", a.size, a.initialized)
	}
	p := make([]byte, a.size)
	if err := fs.content(a, p, 0); err != nil {
		return nil, err
	}
	return parseList(p)
}

// collectListed reads the attributes that a list names. It takes each record
// once, and so takes time that is in proportion to the records.
func (in *inode) collectListed(h header, list *attribute) error {
	entries, err := in.fs.list(list)
	if err != nil {
		return err
	}
	in.further += list.size / in.fs.geometry.record
	slices.SortFunc(entries, func(a, b listed) int {
		return cmp.Or(cmp.Compare(a.record, b.record), cmp.Compare(a.instance, b.instance))
	})
	parts := make([]part, 0, len(entries))
	for len(entries) > 0 {
		n := 1
		for n < len(entries) && entries[n].record == entries[0].record {
			n++
		}
		of := h
		if r := entries[0].record; r != in.number {
			if of, err = in.extension(r); err != nil {
				return err
			}
		}
		if entries[0].sequence != of.sequence {
			return damage("goes on in record %d, which is another file's by now", entries[0].record)
		}
		if parts, err = in.take(of, entries[:n], parts); err != nil {
			return err
		}
		entries = entries[n:]
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.order, b.order) })
	return in.join(parts)
}

// part is an attribute, or a part of one, and its place in the attribute list.
type part struct {
	order int
	attribute
}

// extension reads another record of this file.
func (in *inode) extension(number int64) (header, error) {
	if in.record == nil {
		in.record = make([]byte, in.fs.geometry.record)
	}
	in.further++
	h, err := in.fs.readRecord(number, in.record)
	if err != nil {
		return h, fmt.Errorf("goes on in record %d: %w", number, err)
	}
	if base, sequence := reference(h.base); !h.used || h.base == 0 || base != in.number || sequence != in.sequence {
		return h, damage("goes on in record %d, which is not its own", number)
	}
	return h, nil
}

// take appends to parts the attributes of a record that the entries name, which
// are sorted by instance.
func (in *inode) take(h header, entries []listed, parts []part) ([]part, error) {
	found := 0
	err := h.eachAttribute(func(p []byte) error {
		if le.Uint32(p) == typeList {
			return nil
		}
		i, ok := slices.BinarySearchFunc(entries, le.Uint16(p[0x0E:]), func(e listed, instance uint16) int {
			return cmp.Compare(e.instance, instance)
		})
		if !ok {
			return nil // nobody's, as Windows sees it
		}
		a, err := in.parse(p)
		if err != nil {
			return err
		}
		e := entries[i]
		if a.kind != e.kind || a.name != e.name || a.first != e.first {
			return damage("attribute list names 0x%x, and 0x%x is there", e.kind, a.kind)
		}
		// The next record takes this one's place.
		a.value = slices.Clone(a.value)
		found++
		parts = append(parts, part{order: e.order, attribute: a})
		return nil
	})
	if err == nil && found != len(entries) {
		err = damage("record %d has %d attributes, its list %d", entries[0].record, found, len(entries))
	}
	return parts, err
}

// join makes whole attributes of parts, which are in the list's order.
func (in *inode) join(parts []part) error {
	for i := 0; i < len(parts); {
		a := parts[i].attribute
		if a.first != 0 {
			return damage("attribute 0x%x without its start", a.kind)
		}
		n, runs := i+1, len(a.runs)
		for n < len(parts) && !a.resident && parts[n].first > 0 && parts[n].is(a.kind, a.name) {
			runs += len(parts[n].runs)
			n++
		}
		if n > i+1 {
			a.runs = slices.Grow(slices.Clone(a.runs), runs-len(a.runs))
		}
		for _, p := range parts[i+1 : n] {
			if p.first != a.next || p.resident {
				return damage("attribute 0x%x goes on at cluster %d, should be %d", a.kind, p.first, a.next)
			}
			a.runs, a.next = append(a.runs, p.runs...), p.next
		}
		in.attributes = append(in.attributes, a)
		i = n
	}
	return in.checkSizes()
}

// checkSizes sees that no attribute has more content than clusters for it.
func (in *inode) checkSizes() error {
	for _, a := range in.attributes {
		if !a.resident && (a.initialized-1)/in.fs.geometry.cluster >= a.next && a.initialized > 0 {
			return damage("attribute 0x%x of %d bytes in %d clusters", a.kind, a.initialized, a.next)
		}
	}
	return nil
}

// find returns the attribute of that type and name, nil if there is none.
func (in *inode) find(kind uint32, name string) *attribute {
	for i := range in.attributes {
		if in.attributes[i].is(kind, name) {
			return &in.attributes[i]
		}
	}
	return nil
}

// isRootFile tells whether the file has that name in the root directory.
func (in *inode) isRootFile(name string) bool {
	for link := range in.links() {
		if parent, _ := reference(link.parent); parent == recordRoot && len(link.name) == 2*len(name) && strings.EqualFold(text(link.name), name) {
			return true
		}
	}
	return false
}

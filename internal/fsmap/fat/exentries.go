package fat

import (
	"unicode/utf16"
)

// Types of entries of exFAT folders, as they are in use.
const (
	typeEnd      = 0x00
	typeInUse    = 0x80
	typeKind     = 0xe0 // in use; follows another one; may be ignored if it is not known
	typePrimary  = 0x80
	typeBenign   = 0x20
	typeBitmap   = 0x81
	typeCapitals = 0x82
	typeLabel    = 0x83
	typeFile     = 0x85
	typeStream   = 0xc0
	typeName     = 0xc1

	nameUnits = 15
	noTable   = 0x2 // the stream's clusters follow each other
	allocated = 0x1 // it may have clusters
)

// exFormat reads folders of exFAT.
type exFormat struct{}

func (exFormat) next(d *folder, n *node) (bool, error) {
	for {
		e, id, err := d.entry()
		if err != nil || e == nil || e[0] == typeEnd {
			return false, err
		}
		switch {
		case e[0] == typeFile:
			return true, readSet(d, e, id, n)
		case e[0] < typeInUse, e[0]&typeKind == typePrimary|typeBenign:
		case len(d.w.open) == 1 && (e[0] == typeBitmap || e[0] == typeCapitals || e[0] == typeLabel):
		default:
			return false, refused("exFAT with entries that are not known here (%#x)", e[0])
		}
	}
}

// readSet reads the entries of a file, of which e is the first.
func readSet(d *folder, e []byte, id uint64, n *node) error {
	count, sum, attributes := int(e[1]), le.Uint16(e[2:]), le.Uint16(e[4:])
	var (
		got    uint16
		length int // of the name
		units  []uint16
	)
	*n = node{id: id, folder: attributes&attributeFolder != 0}
	if count < 2 {
		return damaged("exFAT: a file of %d entries", count+1)
	}
	for i := range count + 1 {
		if i > 0 {
			var err error
			if e, _, err = d.entry(); err != nil {
				return err
			}
			if e == nil {
				return damaged("exFAT: a file's entries end too early")
			}
		}
		for j, c := range e {
			if i == 0 && (j == 2 || j == 3) {
				continue
			}
			got = got>>1 | got<<15
			got += uint16(c)
		}
		switch {
		case i == 0:
		case i == 1 && e[0] == typeStream:
			length = int(e[3])
			if err := n.stream(d.w.fs, e); err != nil {
				return err
			}
		case i > 1 && e[0] == typeName:
			if d.w.names && len(units) < length {
				for j := range nameUnits {
					units = append(units, le.Uint16(e[2+2*j:]))
				}
			}
		case i > 1 && e[0]&typeKind == typeKind: // benign
		default:
			return refused("exFAT with entries of files that are not known here (%#x)", e[0])
		}
	}
	if got != sum {
		return damaged("exFAT: the checksum of a file's entries is wrong")
	}
	if d.w.names {
		n.name = element(string(utf16.Decode(units[:min(len(units), length)])))
	}
	return nil
}

// stream reads where the content lies.
func (n *node) stream(fs *fileSystem, e []byte) error {
	flags, valid, length, cluster := e[1], le.Uint64(e[8:]), le.Uint64(e[24:]), int64(le.Uint32(e[20:]))
	if flags&allocated == 0 {
		if flags&noTable != 0 || cluster != 0 || length != 0 {
			return damaged("exFAT: a file of %d bytes without clusters", length)
		}
		return nil
	}
	switch {
	case valid > length || length > uint64(fs.clusters*fs.cluster) || cluster == 0 && length > 0,
		n.folder && (valid != length || length == 0 || length > mostExFolder || length%uint64(fs.cluster) != 0):
		return damaged("exFAT: a file of %d bytes, of which %d were written", length, valid)
	}
	n.size, n.valid = int64(length), int64(valid)
	n.place = place{cluster: cluster, contiguous: flags&noTable != 0, length: n.size}
	return nil
}

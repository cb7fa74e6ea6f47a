package fat

import (
	"strings"
	"unicode/utf16"

	"prestage/internal/fsmap/volume"
)

// What entries of FAT folders have.
const (
	attributeLabel  = 0x08
	attributeFolder = 0x10
	attributeLong   = 0x0f // the entry is a part of a long name
	attributeMask   = 0x3f
	deleted         = 0xe5
	lowerBase       = 0x08 // the short name, or its extension, is to be shown in small letters
	lowerExtension  = 0x10

	longUnits = 13 // of UTF-16 in a part
	longParts = 20
)

// kinds are the files of the root whose purpose is known by their name.
var kinds = map[string]volume.Kind{
	"PAGEFILESYS": volume.PageFile,
	"SWAPFILESYS": volume.PageFile,
	"HIBERFILSYS": volume.Hibernation,
}

// fatFormat reads folders of FAT12, FAT16 and FAT32.
type fatFormat struct{}

func (fatFormat) next(d *folder, n *node) (bool, error) {
	var long longName
	for {
		e, id, err := d.entry()
		if err != nil || e == nil || e[0] == 0 {
			return false, err
		}
		attributes := e[11] & attributeMask
		switch {
		case e[0] == deleted:
			long = longName{}
			continue
		case attributes == attributeLong:
			if d.w.names {
				long.add(e)
			}
			continue
		case attributes&attributeLabel != 0, isDots(e):
			long = longName{}
			continue
		}
		fs := d.w.fs
		cluster := int64(le.Uint16(e[26:]))
		if fs.table.bits == 32 {
			cluster |= int64(le.Uint16(e[20:])) << 16
		}
		size := int64(le.Uint32(e[28:]))
		*n = node{id: id, folder: attributes&attributeFolder != 0, size: size, valid: size, place: place{cluster: cluster, length: size}}
		if n.folder {
			n.place = place{cluster: cluster, length: mostFolder, chained: true}
		} else if d == d.w.open[0] {
			n.kind = kinds[string(e[:11])]
		}
		if d.w.names {
			if n.name = long.text(e); n.name == "" {
				n.name = shortName(e)
			}
		}
		return true, nil
	}
}

// isDots reports whether an entry is that of the folder itself or its parent.
func isDots(e []byte) bool {
	name := string(e[:11])
	return name == ".          " || name == "..         "
}

// shortName returns the name in an entry. Which characters those outside of
// ASCII are, nothing on the volume says.
func shortName(e []byte) string {
	name := func(p []byte, lower bool) string {
		r := make([]rune, len(p))
		for i, c := range p {
			r[i] = rune(c)
			if c >= 0x80 || i == 0 && c == 0x05 { // 0x05 stands for 0xE5, which marks what is deleted
				r[i] = '\uFFFD'
			}
		}
		s := strings.TrimRight(string(r), " ")
		if lower {
			s = strings.ToLower(s)
		}
		return s
	}
	s := name(e[:8], e[12]&lowerBase != 0)
	if x := name(e[8:11], e[12]&lowerExtension != 0); x != "" {
		s += "." + x
	}
	return element(s)
}

// longName collects the parts of a long name, of which the last comes first.
type longName struct {
	units [longParts * longUnits]uint16
	parts int // that there are
	next  int // the part that must come, from 1; 0 if all came
	sum   byte
}

func (l *longName) add(e []byte) {
	number := int(e[0] & 0x1f)
	if e[0]&0x40 != 0 && number >= 1 && number <= longParts {
		*l = longName{parts: number, next: number, sum: e[13]}
	}
	if number == 0 || number != l.next || e[13] != l.sum {
		*l = longName{}
		return
	}
	l.next--
	u := l.units[l.next*longUnits:]
	for i := range longUnits {
		at := 1 + 2*i
		if i >= 5 {
			at = 14 + 2*(i-5)
		}
		if i >= 11 {
			at = 28 + 2*(i-11)
		}
		u[i] = le.Uint16(e[at:])
	}
}

// text returns the name if it is that of an entry, and nothing if not.
func (l *longName) text(e []byte) string {
	sum := byte(0)
	for _, c := range e[:11] {
		sum = sum>>1 | sum<<7
		sum += c
	}
	if l.parts == 0 || l.next != 0 || l.sum != sum {
		return ""
	}
	units := l.units[:l.parts*longUnits]
	for i, u := range units {
		if u == 0 {
			units = units[:i]
			break
		}
	}
	if len(units) == 0 {
		return ""
	}
	return element(string(utf16.Decode(units)))
}

// element makes an element of a path of a name: / and NUL, which no honest one
// has, become what else is no text becomes, and so does a name of nothing.
func element(name string) string {
	if name == "" {
		return "\uFFFD"
	}
	return strings.Map(func(r rune) rune {
		if r == '/' || r == 0 {
			return '\uFFFD'
		}
		return r
	}, name)
}

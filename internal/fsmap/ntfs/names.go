package ntfs

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// nameDOS marks the short name of a pair.
const nameDOS = 2

const (
	mostDepth   = 512   // of folders; more are not looked at
	mostSystem  = 8     // of folders in $Extend; Windows has 3
	mostPath    = 32767 // bytes; what Windows can open has fewer characters
	mostFolders = 8192  // that are kept
	// How often, for each record of the file table, a record may be read to find
	// out about folders. Honest ones lie in the order in which they are needed.
	mostLookups = 16
)

// link is a name of a file, and the folder that it is in.
type link struct {
	parent uint64
	space  byte
	name   string // as it is stored
}

// links yields the names of a file. A name that is cut short is none.
func (in *inode) links() iter.Seq[link] {
	return func(yield func(link) bool) {
		for i := range in.attributes {
			a := &in.attributes[i]
			if a.kind != typeFileName || !a.resident || len(a.value) < 0x42 {
				continue
			}
			n := 2 * int(a.value[0x40])
			if n == 0 || 0x42+n > len(a.value) {
				continue
			}
			if !yield(link{parent: le.Uint64(a.value), space: a.value[0x41], name: string(a.value[0x42 : 0x42+n])}) {
				return
			}
		}
	}
}

// folder is a directory's place.
type folder struct {
	sequence uint16
	parent   uint64
	name     string
	ok       bool // it is a directory and has a name
}

// folders finds directories. It keeps those it was asked for last. After too
// many lookups it knows of none.
type folders struct {
	fs      *fileSystem
	kept    map[int64]folder
	lookups int64
}

// get returns the directory with that reference; it is not ok if there is none.
func (f *folders) get(ref uint64) (folder, error) {
	number, sequence := reference(ref)
	d, ok := f.kept[number]
	if !ok {
		var err error
		if d, err = f.read(number); err != nil {
			return folder{}, err
		}
		if f.kept == nil || len(f.kept) >= mostFolders {
			f.kept = make(map[int64]folder)
		}
		f.kept[number] = d
	}
	d.ok = d.ok && d.sequence == sequence
	return d, nil
}

func (f *folders) read(number int64) (d folder, err error) {
	records := f.fs.mft.initialized / f.fs.geometry.record
	if number >= records || f.lookups > mostLookups*records {
		return d, nil
	}
	f.lookups++
	h, err := f.fs.readRecord(number, make([]byte, f.fs.geometry.record))
	if err != nil || !h.used || h.base != 0 || !h.directory {
		return d, nil // not a directory, so that it is nobody's parent
	}
	in := inode{fs: f.fs}
	if err := in.load(number, h); err != nil {
		return d, err
	}
	f.lookups += in.further
	d.sequence = h.sequence
	for l := range in.links() {
		if !d.ok || l.space != nameDOS {
			d.parent, d.name, d.ok = l.parent, element(l.name), true
		}
		if l.space != nameDOS {
			break
		}
	}
	return d, nil
}

// isSystem tells whether a file is the file system's own: it lies in $Extend, or
// in a folder there.
func (f *folders) isSystem(in *inode) (bool, error) {
	for l := range in.links() {
		ref := l.parent
		for range mostSystem {
			if number, _ := reference(ref); number < firstUser {
				if number != recordRoot {
					return true, nil
				}
				break
			}
			d, err := f.get(ref)
			if err != nil {
				return false, err
			}
			if !d.ok {
				break
			}
			ref = d.parent
		}
	}
	return false, nil
}

// path returns the path of a link; there is none if its folders do not lead to
// the root.
func (f *folders) path(l link) (path string, ok bool, err error) {
	elements := []string{element(l.name)}
	ref, length := l.parent, len(elements[0])
	for range mostDepth {
		if number, _ := reference(ref); number < firstUser {
			if number != recordRoot {
				break
			}
			slices.Reverse(elements)
			return strings.Join(elements, "/"), true, nil
		}
		d, err := f.get(ref)
		if err != nil || !d.ok {
			return "", false, err
		}
		if length += 1 + len(d.name); length > mostPath {
			break
		}
		elements = append(elements, d.name)
		ref = d.parent
	}
	return "", false, nil
}

// element makes an element of a path of a name: / and NUL, which no honest one
// has, become what else is no text becomes.
func element(name string) string {
	return strings.Map(func(r rune) rune {
		if r == '/' || r == 0 {
			return '\uFFFD'
		}
		return r
	}, text(name))
}

// Names implements volume.Namer. A file with a long and a short name has the
// long one. A file that no folder leads to has none.
func (fs *fileSystem) Names(ctx context.Context, yield func(id uint64, path string) error) error {
	in := inode{fs: fs}
	folders := folders{fs: fs}
	return fs.scan(ctx, func(number int64, h header) error {
		if number < firstUser || h.directory {
			return nil
		}
		if err := in.load(number, h); err != nil {
			return err
		}
		links := slices.Collect(in.links())
		if slices.ContainsFunc(links, func(l link) bool { return l.space != nameDOS }) {
			links = slices.DeleteFunc(links, func(l link) bool { return l.space == nameDOS })
		}
		for _, l := range links {
			path, ok, err := folders.path(l)
			if err != nil {
				return fmt.Errorf("naming NTFS file record %d: %w", number, err)
			}
			if !ok {
				continue
			}
			if err := yield(uint64(number), path); err != nil {
				return err
			}
		}
		return nil
	})
}

package fsmap

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode"

	"prestage/internal/fsmap/btrfs"
	"prestage/internal/fsmap/ext"
	"prestage/internal/fsmap/fat"
	"prestage/internal/fsmap/lvm"
	"prestage/internal/fsmap/ntfs"
	"prestage/internal/fsmap/part"
	"prestage/internal/fsmap/volume"
	"prestage/internal/fsmap/xfs"
)

// Guest is a disk as the machine inside sees it.
type Guest interface {
	io.ReaderAt
	Name() string // how people call it
	Size() int64  // bytes
	// Map calls yield with the parts of a range that lie in the image's files, in
	// the order of the range.
	Map(offset, length int64, yield func(Extent) error) error
}

// fileSystems are the kinds of file systems that are known.
var fileSystems = []struct {
	name string
	open func(r io.ReaderAt, size int64) (volume.FileSystem, error)
}{{"ext4", ext.Open}, {"NTFS", ntfs.Open}, {"XFS", xfs.Open}, {"FAT", fat.Open}, {"Btrfs", btrfs.Open}}

// Read finds out what it can about the disks of an image. What it cannot, it
// notes: that makes updates larger and loses nothing. It fails only when ctx
// ends.
func Read(ctx context.Context, guests []Guest) (*Map, error) { return readDisks(ctx, guests, false) }

// ReadNamed is Read that also finds out what files are called, where the file
// system can tell.
func ReadNamed(ctx context.Context, guests []Guest) (*Map, error) {
	return readDisks(ctx, guests, true)
}

func readDisks(ctx context.Context, guests []Guest, named bool) (*Map, error) {
	m := &Map{}
	for i, g := range guests {
		r := reader{ctx: ctx, guest: g, number: i, m: m, named: named}
		r.disk()
		if err := ctx.Err(); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// reader reads a disk.
type reader struct {
	ctx    context.Context
	guest  Guest
	number int // of it
	m      *Map
	named  bool
	what   string // is being read
}

// disk reads a disk: its partitions, or what it is as a whole. If it looks like
// both, an old file system's traces are still there, and the table is right: who
// makes a file system on a whole disk wipes the table.
func (r *reader) disk() {
	whole := r.slice(0, r.guest.Size())
	partitions, err := part.Read(r.guest, r.guest.Size())
	switch {
	case errors.Is(err, volume.ErrUnknown):
		r.volume("the disk", whole)
	case err != nil:
		r.note("the disk", err)
	}
	for _, p := range partitions {
		r.volume(fmt.Sprintf("partition %d", p.Number), r.slice(p.Offset, p.Length))
	}
}

// note notes what is opaque. What, and what the error says, may come from the disk
// itself, and is shown on terminals.
func (r *reader) note(what string, err error) {
	printable := func(c rune) rune {
		if !unicode.IsPrint(c) {
			return '?'
		}
		return c
	}
	r.m.Notes = append(r.m.Notes, fmt.Sprintf("%s: %s", r.guest.Name(), strings.Map(printable, fmt.Sprintf("%s: %v", what, err))))
}

// span is a part of a disk as somebody sees it: a partition, or a logical
// volume, which may consist of several parts.
type span struct {
	io.ReaderAt
	size   int64
	nested bool // it is a logical volume
	// locate calls yield with the parts of the disk that a range lies in.
	locate func(offset, length int64, yield func(offset, length int64) error) error
}

// slice is a part of the disk in one piece.
func (r *reader) slice(offset, size int64) span {
	return span{io.NewSectionReader(r.guest, offset, size), size, false, func(off, length int64, yield func(int64, int64) error) error {
		return yield(offset+off, length)
	}}
}

// pieces is what consists of parts of s.
func (s span) pieces(parts []volume.Extent, size int64) span {
	ends := make([]int64, len(parts)) // in what consists of them
	total := int64(0)
	for i, p := range parts {
		total += p.Length
		ends[i] = total
	}
	locate := func(off, length int64, yield func(int64, int64) error) error {
		i, _ := slices.BinarySearch(ends, off+1)
		for ; length > 0 && i < len(parts); i++ {
			n := min(length, ends[i]-off)
			if err := yield(parts[i].End()-(ends[i]-off), n); err != nil {
				return err
			}
			off, length = off+n, length-n
		}
		return nil
	}
	return span{pieced{s, locate}, size, true, func(off, length int64, yield func(int64, int64) error) error {
		return locate(off, length, func(off, length int64) error { return s.locate(off, length, yield) })
	}}
}

// pieced reads what consists of parts of something.
type pieced struct {
	io.ReaderAt
	locate func(offset, length int64, yield func(offset, length int64) error) error
}

// ReadAt implements io.ReaderAt.
func (r pieced) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	err := r.locate(off, int64(len(p)), func(at, n int64) error {
		m, err := r.ReaderAt.ReadAt(p[done:done+int(n)], at)
		done += m
		if int64(m) == n {
			err = nil
		}
		return err
	})
	if err == nil && done < len(p) {
		err = io.EOF
	}
	return done, err
}

// volume reads what is in a volume, if it is a file system. What is found of one
// that turns out to be damaged is forgotten.
func (r *reader) volume(what string, s span) {
	files, free := len(r.m.Files), len(r.m.Free)
	r.what = what
	err := r.fileSystem(s)
	if err == nil {
		return
	}
	clear(r.m.Files[files:])
	r.m.Files, r.m.Free = r.m.Files[:files], r.m.Free[:free]
	r.note(what, err)
}

// fileSystem reads the file system in a volume. Traces of an earlier one must not
// be taken for it, so what is two kinds at once is neither.
func (r *reader) fileSystem(s span) error {
	if ok, err := r.swap(s); ok || err != nil {
		return err
	}
	if ok, err := r.logical(s); ok || err != nil {
		return err
	}
	if name, err := opaque(s, s.size); name != "" || err != nil {
		return cmp.Or(err, fmt.Errorf("%s is kept as it is", name))
	}
	var found []volume.FileSystem
	var names []string
	var failed error
	for _, k := range fileSystems {
		v, err := k.open(s, s.size)
		if errors.Is(err, volume.ErrUnknown) {
			continue
		}
		names = append(names, k.name)
		if err != nil {
			failed = cmp.Or(failed, err)
		} else {
			found = append(found, v)
		}
	}
	switch {
	case len(names) > 1:
		return fmt.Errorf("%w: it looks like %s", volume.ErrRefused, strings.Join(names, " and like "))
	case failed != nil:
		return failed
	case len(found) == 0:
		return r.unknown(s)
	}
	return r.read(s, found[0])
}

// logical reads the logical volumes in a physical one, and reports whether it is
// one.
func (r *reader) logical(s span) (bool, error) {
	volumes, err := lvm.Read(s, s.size)
	if errors.Is(err, volume.ErrUnknown) {
		return false, nil
	}
	if err == nil && s.nested { // hostile ones could go on for ever
		err = fmt.Errorf("%w: LVM in LVM", volume.ErrRefused)
	}
	if err != nil {
		return false, err
	}
	for _, v := range volumes {
		if v.Why != nil {
			r.note(v.Name, v.Why)
			continue
		}
		r.volume(v.Name, s.pieces(v.Parts, v.Size))
	}
	return true, nil
}

// unknown says what is known of a volume without a file system: nothing is lost
// by not knowing one that is all zeros, and that is no news.
func (r *reader) unknown(s span) error {
	head := make([]byte, min(s.size, 64<<10))
	if _, err := s.ReadAt(head, 0); err != nil && err != io.EOF {
		return err
	}
	if !slices.ContainsFunc(head, func(b byte) bool { return b != 0 }) {
		return nil
	}
	return fmt.Errorf("no file system that is known here")
}

func (r *reader) read(s span, v volume.FileSystem) error {
	names, err := r.names(v)
	if err != nil {
		return err
	}
	err = v.Files(r.ctx, func(f *volume.File) error {
		if err := r.swapFile(s, f); err != nil {
			return err
		}
		to := File{Kind: f.Kind, Extents: make([]Extent, 0, len(f.Extents))}
		if name := names[f.ID]; name != "" {
			// The image's own files may be called otherwise in another version.
			to.Path = fmt.Sprintf("%d:%s:%s:%s", r.number, r.what, name, f.Stream)
		}
		for _, e := range f.Extents {
			if err := r.place(s, e, &to.Extents); err != nil {
				return err
			}
		}
		r.m.Files = append(r.m.Files, to)
		return nil
	})
	if err != nil {
		return err
	}
	return v.Free(r.ctx, func(e volume.Extent) error { return r.place(s, e, &r.m.Free) })
}

// names returns a name of each file, if they are asked for and can be told.
func (r *reader) names(v volume.FileSystem) (map[uint64]string, error) {
	n, ok := v.(volume.Namer)
	if !ok || !r.named {
		return nil, nil
	}
	names := make(map[uint64]string)
	// What has no name is a file all the same.
	n.Names(r.ctx, func(id uint64, path string) error {
		if old, ok := names[id]; !ok || path < old { // whatever the order in which they are found
			names[id] = path
		}
		return nil
	})
	return names, r.ctx.Err()
}

// place appends where an extent of a volume lies in the image's files.
func (r *reader) place(s span, e volume.Extent, to *[]Extent) error {
	if e.Offset < 0 || e.Length <= 0 || e.Offset > s.size || e.Length > s.size-e.Offset {
		return fmt.Errorf("%w: %d bytes at %d lie outside", volume.ErrDamaged, e.Length, e.Offset)
	}
	return s.locate(e.Offset, e.Length, func(off, length int64) error {
		return r.guest.Map(off, length, func(x Extent) error {
			if n := len(*to); n > 0 && (*to)[n-1].File == x.File && (*to)[n-1].End() == x.Offset {
				(*to)[n-1].Length += x.Length
			} else {
				*to = append(*to, x)
			}
			return nil
		})
	})
}

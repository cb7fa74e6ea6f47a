package patch

import (
	"errors"
	"hash/maphash"
	"sort"
	"strings"

	"prestage/ckm"
	"prestage/internal/fsmap"
)

// What a chunk is made from.
const (
	// around is how far on both sides of the place where a chunk would be in the
	// version before its base reaches, in bytes.
	around = 512 << 10
	// aroundRest is the same for what is no file's: most of it stays where it is.
	aroundRest = 64 << 10
)

// region is a part of the version before.
type region struct {
	file     int32 // of the machine inside; -1: of the image's file
	image    uint32
	from, to int64 // bytes
}

// matcher finds out what chunks of a version are like in the version before.
type matcher struct {
	old, new *content
	known    ckm.IDSet // of the version before

	oldFiles, newFiles []fsmap.File
	at                 map[uint32]region // what chunks that are new are like; none: nothing
	sequences          map[int32][]part  // of files of the version before
}

// part is a chunk of a file of the machine inside.
type part struct {
	chunk  uint32
	offset int64 // in that file
}

// match looks at all files.
func (m *matcher) match() error {
	var err error
	if m.oldFiles, err = m.old.files(); err != nil {
		return err
	}
	if m.newFiles, err = m.new.files(); err != nil {
		return err
	}
	m.at, m.sequences = make(map[uint32]region), make(map[int32][]part)
	pairs := pairFiles(m.oldFiles, m.newFiles)
	claimed := make(map[uint32]bool) // chunks of files that are like nothing
	for i := range m.newFiles {
		f := &m.newFiles[i]
		if f.Path == "" {
			continue
		}
		seq, err := m.sequence(m.new, f)
		if err != nil {
			return err
		}
		old, ok := pairs[i]
		if !ok {
			for _, p := range seq {
				claimed[p.chunk] = true
			}
			continue
		}
		if err := m.align(seq, size(f), old); err != nil {
			return err
		}
	}
	// What is in no file is most like what was in its place.
	place := ckm.NewPlacement(m.new.Index)
	for c := range m.new.Index.Chunks() {
		n := uint32(c)
		if _, ok := m.at[n]; ok || claimed[n] || m.known.Has(m.new.Index.ID(c)) {
			continue
		}
		for s := range place.Of(c, c+1) {
			m.at[n] = region{-1, s.File, int64(s.Offset) - aroundRest, int64(s.Offset) + int64(m.new.Index.ChunkLength(c)) + aroundRest}
			break
		}
	}
	// Of the files, only where the old ones lie is still needed.
	m.newFiles = nil
	for i := range m.oldFiles {
		m.oldFiles[i].Path = ""
	}
	return nil
}

// align finds where the new chunks of a file would be in its old version: as far
// from what both have, before it, as now; or in proportion.
func (m *matcher) align(seq []part, length int64, old int32) error {
	var before []part
	var where map[uint64]int64 // of the old version's chunks
	oldLength := size(&m.oldFiles[old])
	shift, anchored := int64(0), false
	for _, p := range seq {
		id := m.new.Index.ID(int(p.chunk))
		if m.known.Has(id) {
			if before == nil {
				var err error
				if before, err = m.oldSequence(old); err != nil {
					return err
				}
				where = make(map[uint64]int64, len(before))
				for _, b := range before {
					where[m.old.Index.ID(int(b.chunk)).Prefix()] = b.offset
				}
			}
			if at, ok := where[id.Prefix()]; ok {
				shift, anchored = at-p.offset, true
			}
			continue
		}
		at := p.offset + shift
		if !anchored {
			at = int64(float64(p.offset) * float64(oldLength) / float64(max(length, 1)))
		}
		if _, ok := m.at[p.chunk]; !ok {
			m.at[p.chunk] = region{old, 0, at - around, at + int64(m.new.Index.ChunkLength(int(p.chunk))) + around}
		}
	}
	return nil
}

func size(f *fsmap.File) (n int64) {
	for _, e := range f.Extents {
		n += e.Length
	}
	return n
}

// sequence returns the chunks that begin in a file, in order.
func (m *matcher) sequence(c *content, f *fsmap.File) (seq []part, err error) {
	pos := int64(0)
	for _, e := range f.Extents {
		err := c.pieces(e.File, e.Offset, e.Length, func(p piece) error {
			if p.skip == 0 {
				seq = append(seq, part{p.chunk, pos + p.offset - e.Offset})
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		pos += e.Length
	}
	return seq, nil
}

func (m *matcher) oldSequence(file int32) ([]part, error) {
	seq, ok := m.sequences[file]
	if !ok {
		var err error
		if seq, err = m.sequence(m.old, &m.oldFiles[file]); err != nil {
			return nil, err
		}
		m.sequences[file] = seq
	}
	return seq, nil
}

// base returns what chunks of the version before some chunks of the package are
// made from, within the limits of the format.
func (m *matcher) base(first, end int) (runs []ckm.ChunkRun, err error) {
	seen := make(map[uint32]bool)
	bytes := int64(0)
	add := func(chunk uint32) error {
		n := int64(m.old.Index.ChunkLength(int(chunk)))
		if seen[chunk] {
			return nil
		}
		if bytes+n > ckm.MaxPatchBase {
			return errStop
		}
		last := len(runs) - 1
		if last >= 0 && runs[last].First+runs[last].Count == chunk {
			runs[last].Count++
		} else if len(runs) == ckm.MaxPatchRuns {
			return errStop
		} else {
			runs = append(runs, ckm.ChunkRun{First: chunk, Count: 1})
		}
		seen[chunk] = true
		bytes += n
		return nil
	}
	for c := first; c < end && err == nil; c++ {
		r, ok := m.at[uint32(c)]
		switch {
		case !ok:
		case r.file < 0:
			if int(r.image) < len(m.old.Index.Files) {
				from := max(0, r.from)
				err = m.old.pieces(r.image, from, max(0, r.to-from), func(p piece) error { return add(p.chunk) })
			}
		default:
			var seq []part
			if seq, err = m.oldSequence(r.file); err != nil {
				return nil, err
			}
			i := sort.Search(len(seq), func(i int) bool { return seq[i].offset+int64(m.old.Index.ChunkLength(int(seq[i].chunk))) > r.from })
			for ; i < len(seq) && seq[i].offset < r.to && err == nil; i++ {
				err = add(seq[i].chunk)
			}
		}
	}
	if errors.Is(err, errStop) {
		err = nil
	}
	return runs, err
}

// pairFiles finds the old version of each file that has one: of the same path, or
// of one that differs in numbers alone and is not there any more.
func pairFiles(old, new []fsmap.File) map[int]int32 {
	seed := maphash.MakeSeed()
	byPath := make(map[uint64]int32, len(old))
	for i := range old {
		byPath[maphash.String(seed, old[i].Path)] = int32(i)
	}
	pairs := make(map[int]int32)
	kept := make(map[int32]bool)
	for i := range new {
		if f, ok := byPath[maphash.String(seed, new[i].Path)]; ok && new[i].Path != "" {
			pairs[i] = f
			kept[f] = true
		}
	}
	byPattern := make(map[uint64]int32)
	for i := range old {
		if !kept[int32(i)] && old[i].Path != "" {
			byPattern[maphash.String(seed, pattern(old[i].Path))] = int32(i)
		}
	}
	for i := range new {
		if _, ok := pairs[i]; ok || new[i].Path == "" {
			continue
		}
		if f, ok := byPattern[maphash.String(seed, pattern(new[i].Path))]; ok {
			pairs[i] = f
		}
	}
	return pairs
}

// pattern is a path without the numbers in it, which are those of versions.
func pattern(path string) string {
	var b strings.Builder
	in := false
	for i := range len(path) {
		digit := path[i] >= '0' && path[i] <= '9'
		if !digit {
			b.WriteByte(path[i])
		} else if !in {
			b.WriteByte('#')
		}
		in = digit
	}
	return b.String()
}

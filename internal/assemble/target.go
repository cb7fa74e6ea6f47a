package assemble

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/durable"
)

// sparseBlock is the unit in which zeros are left out of new files, in bytes.
const sparseBlock = 4 << 10

var zeros [sparseBlock]byte

// Target is an image's files in a folder, open to be read, checked or written.
type Target struct {
	x     *ckm.Index
	place *ckm.Placement
	files []*os.File
	flush []*durable.Flusher // of the files, while they are created
	fresh bool               // all files were created empty: zeros need not be written
}

// copyFrom makes the files in root copies of those of the same names in dir that
// share their bytes on the disk, where the file system can, and reports whether
// one is. It is for files that were just created.
func (t *Target) copyFrom(dir string) bool {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return false
	}
	defer root.Close()
	for i, f := range t.x.Files {
		old, err := root.Open(filepath.FromSlash(f.Path))
		if err != nil {
			continue
		}
		if err = disk.Clone(t.files[i], old); err == nil {
			t.fresh = false
			err = t.files[i].Truncate(int64(f.Size))
		}
		old.Close()
		if errors.Is(err, errors.ErrUnsupported) {
			return false // nor are the others
		}
	}
	return !t.fresh
}

// CreateTarget opens the image's files under root for writing, creating those
// that are missing. Fresh reports whether nothing was there.
func CreateTarget(root *os.Root, x *ckm.Index) (*Target, error) {
	t := &Target{x: x, place: ckm.NewPlacement(x), fresh: true}
	if err := t.create(root); err != nil {
		t.Close()
		return nil, fmt.Errorf("in %s: %w", root.Name(), err)
	}
	return t, nil
}

func (t *Target) create(root *os.Root) error {
	for _, f := range t.x.Files {
		name := filepath.FromSlash(f.Path)
		if err := root.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return err
		}
		file, err := root.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
		if errors.Is(err, fs.ErrExist) {
			t.fresh = false
			file, err = root.OpenFile(name, os.O_RDWR, 0)
		}
		if err == nil {
			err = prepare(root, file, name)
		}
		if err != nil {
			return err
		}
		t.files = append(t.files, file)
		t.flush = append(t.flush, durable.NewFlusher(file))
		if err := file.Truncate(int64(f.Size)); err != nil {
			return err
		}
	}
	return nil
}

// prepare makes a file sparse, and lets everybody read it and pass through the
// folders above it, whatever the umask.
func prepare(root *os.Root, file *os.File, name string) error {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if err := root.Chmod(dir, 0o755); err != nil {
			file.Close()
			return err
		}
	}
	err := file.Chmod(0o644)
	if err == nil {
		err = disk.MakeSparse(file)
	}
	if err != nil {
		file.Close()
	}
	return err
}

// OpenTarget opens the image's files in dir, for reading or, to mend them, for
// writing as well: then files that are missing are created.
func OpenTarget(dir string, x *ckm.Index, write bool) (*Target, error) {
	t := &Target{x: x, place: ckm.NewPlacement(x)}
	mode := os.O_RDONLY
	if write {
		mode = os.O_RDWR
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	for _, f := range x.Files {
		name := filepath.FromSlash(f.Path)
		var err error
		if write {
			err = root.MkdirAll(filepath.Dir(name), 0o755)
		}
		var file *os.File
		if err == nil {
			file, err = root.OpenFile(name, mode, 0)
		}
		if write && errors.Is(err, fs.ErrNotExist) {
			if file, err = root.OpenFile(name, mode|os.O_CREATE, 0o644); err == nil {
				err = prepare(root, file, name)
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Close()
			return nil, err
		}
		t.files = append(t.files, file) // nil when it does not exist
	}
	return t, nil
}

// Close closes all files.
func (t *Target) Close() error {
	t.endFlush()
	var errs []error
	for _, f := range t.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Sync brings all files to the disk.
func (t *Target) Sync() error {
	t.endFlush()
	for _, f := range t.files {
		if err := f.Sync(); err != nil {
			return fmt.Errorf("syncing %q: %w", f.Name(), err)
		}
	}
	return nil
}

func (t *Target) endFlush() {
	for _, f := range t.flush {
		f.Close()
	}
	t.flush = nil
}

// Size returns the size of file i in bytes, or -1 when it is missing.
func (t *Target) Size(i int) (int64, error) {
	if t.files[i] == nil {
		return -1, nil
	}
	st, err := t.files[i].Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// WriteFrame writes the chunks of a frame, raw, to all of their places.
func (t *Target) WriteFrame(f int, raw []byte) error {
	first, end := t.x.FrameChunks(f)
	return t.writeChunks(first, end, raw)
}

// writeChunks writes the chunks from first to before end, whose bytes are raw, to
// all of their places.
func (t *Target) writeChunks(first, end int, raw []byte) error {
	for s := range t.place.Of(first, end) {
		at := t.x.RunLength(uint32(first), s.Chunk-uint32(first))
		p := raw[at : at+t.x.RunLength(s.Chunk, s.Count)]
		for _, e := range extents(t.x, &s) {
			if err := t.writeAt(int(s.File), p[:e.Length], int64(e.Offset)); err != nil {
				return err
			}
			p = p[e.Length:]
		}
	}
	return nil
}

// extents returns the segment's extents, one for a run.
func extents(x *ckm.Index, s *ckm.Segment) []ckm.Extent {
	if s.Extents != nil {
		return s.Extents
	}
	return []ckm.Extent{{Offset: s.Offset, Length: uint64(x.RunLength(s.Chunk, s.Count))}}
}

func (t *Target) writeAt(file int, p []byte, off int64) error {
	f := t.files[file]
	if !t.fresh {
		_, err := f.WriteAt(p, off)
		return err
	}
	for len(p) > 0 {
		skip := zeroBlocks(p, off)
		p, off = p[skip:], off+int64(skip)
		n := dataBlocks(p, off)
		if n > 0 {
			if _, err := f.WriteAt(p[:n], off); err != nil {
				return err
			}
			t.flush[file].Wrote(n)
		}
		p, off = p[n:], off+int64(n)
	}
	return nil
}

// zeroBlocks returns how many bytes at the start of p are whole zero blocks.
func zeroBlocks(p []byte, off int64) int {
	if off%sparseBlock != 0 {
		return 0
	}
	n := 0
	for len(p)-n >= sparseBlock && isZero(p[n:n+sparseBlock]) {
		n += sparseBlock
	}
	return n
}

// dataBlocks returns how many bytes of p lie before the next whole zero block.
func dataBlocks(p []byte, off int64) int {
	n := int(-off & (sparseBlock - 1)) // up to the next block's start
	for ; len(p)-n >= sparseBlock; n += sparseBlock {
		if isZero(p[n : n+sparseBlock]) {
			return n
		}
	}
	return len(p)
}

func isZero(p []byte) bool { return p[0] == 0 && bytes.Equal(p, zeros[:len(p)]) }

// read reads a segment's bytes. A file that ends early is io.EOF.
func (t *Target) read(s *ckm.Segment, p []byte) error {
	f := t.files[s.File]
	if f == nil {
		return fs.ErrNotExist
	}
	for _, e := range extents(t.x, s) {
		if _, err := f.ReadAt(p[:e.Length], int64(e.Offset)); err != nil {
			return err
		}
		p = p[e.Length:]
	}
	return nil
}

// readChunk fills p with a chunk, and reports whether it can be read and, if it is
// checked, has its ID.
func (t *Target) readChunk(c int, p []byte, check bool) bool {
	for s := range t.place.Of(c, c+1) {
		if t.read(&s, p) == nil && (!check || ckm.Sum(p) == t.x.ID(c)) {
			return true
		}
	}
	return false
}

// mendShape gives files their sizes and holes their zeros, for which no frame
// is needed.
func (t *Target) mendShape(faults []Fault) error {
	for i, f := range t.x.Files {
		if err := t.files[i].Truncate(int64(f.Size)); err != nil {
			return err
		}
	}
	for _, f := range faults {
		if f.Chunk >= 0 {
			continue
		}
		for off, end := f.Offset, min(f.Offset+f.Length, int64(t.x.Files[f.file].Size)); off < end && f.isHole; off += sparseBlock {
			if _, err := t.files[f.file].WriteAt(zeros[:min(end-off, sparseBlock)], off); err != nil {
				return err
			}
		}
	}
	return nil
}

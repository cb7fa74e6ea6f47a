package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"prestage/ckm"
	"prestage/internal/durable"
)

// Folder is a repository in a folder of the local file system.
type Folder struct {
	dir    string
	strict bool // symbolic links are not followed
}

// NewFolder returns the repository in dir, which need not exist yet.
func NewFolder(dir string) *Folder { return &Folder{dir: dir} }

// NewStrictFolder is NewFolder for a pre-stage folder: a symbolic link in it is
// never read as a file of a package.
func NewStrictFolder(dir string) *Folder { return &Folder{dir, true} }

// String returns the folder's path.
func (r *Folder) String() string { return r.dir }

// Path returns the path of one of the repository's files.
func (r *Folder) Path(file string) string { return filepath.Join(r.dir, file) }

// List implements Repository. A folder that does not exist is ErrNotFound. A
// package whose CKM has the wrong size is listed too: repair can mend it.
func (r *Folder) List(ctx context.Context) ([]Entry, error) {
	entries, _, err := r.Scan(ctx)
	return entries, err
}

// Scan is List that also tells what is wrong: with packages that it leaves out,
// and with those that it lists although their CKM has the wrong size.
func (r *Folder) Scan(ctx context.Context) (entries []Entry, problems []error, err error) {
	files, err := r.files()
	if err != nil {
		return nil, nil, err
	}
	for _, f := range files {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		name, version, ext, _ := ckm.ParseFileName(f)
		if ext == ckm.DataExt {
			if _, found := slices.BinarySearch(files, ckm.IndexName(name, version)); !found {
				problems = append(problems, fmt.Errorf("%s has no INDEX: it is still being copied, or a copy was interrupted", f))
			}
			continue
		}
		e, whole, err := r.entry(name, version)
		if err != nil {
			problems = append(problems, err)
		}
		if whole {
			entries = append(entries, e)
		}
	}
	slices.SortFunc(entries, compareEntries)
	return entries, problems, nil
}

// files returns the sorted names of all files that belong to packages.
func (r *Folder) files() ([]string, error) {
	dir, err := os.ReadDir(r.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: the folder of packages %q does not exist; name another with --images", ErrNotFound, r.dir)
	}
	if err != nil {
		return nil, err
	}
	var files []string
	for _, d := range dir {
		if _, _, _, ok := ckm.ParseFileName(d.Name()); ok {
			files = append(files, d.Name())
		}
	}
	return files, nil
}

// entry describes a package from the head of its INDEX. Usable reports whether
// both files are there and the head can be read; the error tells what is wrong
// all the same.
func (r *Folder) entry(name string, version uint32) (e Entry, usable bool, err error) {
	file := ckm.IndexName(name, version)
	f, err := r.open(file)
	if err != nil {
		return e, false, err
	}
	defer f.Close()
	h, signatures, err := ReadHeadAndSignatures(f)
	if err != nil {
		return e, false, fmt.Errorf("%s: %w", file, err)
	}
	if h.Name != name || h.Version != version {
		return e, false, fmt.Errorf("%s: %w: it is the INDEX of %s; was the file renamed?", file, ckm.ErrFormat, ImageName(h.Name, h.Version))
	}
	st, err := f.Stat()
	if err != nil {
		return e, false, err
	}
	data, err := r.stat(ckm.DataName(name, version))
	if errors.Is(err, fs.ErrNotExist) {
		return e, false, fmt.Errorf("%s has no CKM beside it", file)
	}
	if err != nil {
		return e, false, err
	}
	if uint64(data.Size()) != h.CKMLength {
		err = fmt.Errorf("%s has %d bytes and should have %d; prestage verify tells more", data.Name(), data.Size(), h.CKMLength)
	}
	e = NewEntry(&h.Info, h.Digest, uint64(st.Size()))
	e.SignedBy = KeyIDs(signatures)
	return e, true, err
}

// ReadHead reads no more of an INDEX than its head.
func ReadHead(r io.Reader) (*ckm.Head, error) {
	head := make([]byte, 64)
	if _, err := io.ReadFull(r, head); errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("%w: the INDEX is too short", ckm.ErrFormat)
	} else if err != nil {
		return nil, err
	}
	size, err := ckm.HeadSize(head)
	if err != nil {
		return nil, err
	}
	// Read before making room: the header may claim more than there is.
	rest, err := io.ReadAll(io.LimitReader(r, int64(size-len(head))))
	if err != nil {
		return nil, err
	}
	return ckm.DecodeHead(append(head, rest...))
}

// Index implements Repository.
func (r *Folder) Index(_ context.Context, name string, version uint32) ([]byte, error) {
	f, err := r.open(ckm.IndexName(name, version))
	if err != nil {
		return nil, notFound(err)
	}
	return readIndex(f)
}

// ReadIndexFile reads the INDEX at path, bounded by the format's limit.
func ReadIndexFile(path string) ([]byte, error) {
	f, err := open(path, os.Stat)
	if err != nil {
		return nil, notFound(err)
	}
	return readIndex(f)
}

func readIndex(f *os.File) ([]byte, error) {
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, ckm.MaxIndexSize+1))
}

// open opens a file of the folder, stat describes it.
func (r *Folder) open(file string) (*os.File, error)    { return open(r.Path(file), r.statFunc()) }
func (r *Folder) stat(file string) (fs.FileInfo, error) { return stat(r.Path(file), r.statFunc()) }
func (r *Folder) statFunc() func(string) (fs.FileInfo, error) {
	if r.strict {
		return os.Lstat
	}
	return os.Stat
}

// open opens a regular file and nothing else: a pipe would be waited for.
func open(path string, how func(string) (fs.FileInfo, error)) (*os.File, error) {
	if _, err := stat(path, how); err != nil {
		return nil, err
	}
	return durable.OpenShared(path)
}

func stat(path string, how func(string) (fs.FileInfo, error)) (fs.FileInfo, error) {
	st, err := how(path)
	if err == nil && !st.Mode().IsRegular() {
		err = fmt.Errorf("%q is not a regular file", path)
	}
	return st, err
}

func notFound(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrNotFound, err)
	}
	return err
}

// Data implements Repository.
func (r *Folder) Data(_ context.Context, name string, version uint32) (Data, error) {
	return r.data(ckm.DataName(name, version))
}

// Patch implements Repository.
func (r *Folder) Patch(_ context.Context, name string, version uint32) (Data, error) {
	return r.data(ckm.PatchName(name, version))
}

func (r *Folder) data(file string) (Data, error) {
	f, err := r.open(file)
	if err != nil {
		return nil, notFound(err)
	}
	return &FileData{f}, nil
}

// FileData is a CKM, or a patch, in the local file system.
type FileData struct{ f *os.File }

// OpenFile opens the CKM at path.
func OpenFile(path string) (*FileData, error) {
	f, err := open(path, os.Stat)
	if err != nil {
		return nil, notFound(err)
	}
	return &FileData{f}, nil
}

// String returns the file's path.
func (d *FileData) String() string { return d.f.Name() }

// Close closes the file.
func (d *FileData) Close() error { return d.f.Close() }

// ReadAt reads from the file, see io.ReaderAt.
func (d *FileData) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

// Size returns the file's size in bytes.
func (d *FileData) Size() (int64, error) {
	st, err := d.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// ReadRange implements Data.
func (d *FileData) ReadRange(_ context.Context, off, n int64) (io.ReadCloser, error) {
	return io.NopCloser(io.NewSectionReader(d.f, off, n)), nil
}

// Traits implements Data: one range a processor, short enough to share the
// work evenly.
func (d *FileData) Traits() Traits { return Traits{Readers: 0, MaxSpan: 4 << 20, MaxGap: 64 << 10} }

// Remove removes a package and its patch, of the package its INDEX first: what is
// left in between is not a package any more. The error wraps ErrNotFound when neither file is there.
func (r *Folder) Remove(ctx context.Context, name string, version uint32) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	// Its number must be on record before it goes: a pack that was killed did
	// not get so far. When the disk is full, it is on record afterwards.
	used := r.usedVersions()
	if r.lastVersions()[name] < used[name] {
		if err := r.writeCatalog(ctx, used); err != nil && !durable.IsDiskFull(err) {
			return err
		}
	}
	if err := os.Remove(r.Path(ckm.PatchName(name, version))); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	index := os.Remove(r.Path(ckm.IndexName(name, version)))
	if index != nil && !errors.Is(index, fs.ErrNotExist) {
		return index
	}
	data := os.Remove(r.Path(ckm.DataName(name, version)))
	if data != nil && (index != nil || !errors.Is(data, fs.ErrNotExist)) {
		return notFound(data)
	}
	if err := durable.SyncDir(r.dir); err != nil {
		return err
	}
	return r.writeCatalog(context.WithoutCancel(ctx), used)
}

// WriteCatalog writes catalog.json anew from what is in the folder.
func (r *Folder) WriteCatalog(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	return r.writeCatalog(ctx, r.usedVersions())
}

// writeCatalog is WriteCatalog for one who holds the lock.
func (r *Folder) writeCatalog(ctx context.Context, used map[string]uint32) error {
	entries, err := r.List(ctx)
	if err != nil {
		return err
	}
	c := Catalog{Format: 1, Images: entries, LastVersions: used}
	return durable.WriteFile(r.Path(CatalogName), c.Encode(), 0o644)
}

// lastVersions returns what the catalog remembers of removed versions. Without
// a readable catalog there is nothing to remember.
func (r *Folder) lastVersions() map[string]uint32 {
	if b, err := os.ReadFile(r.Path(CatalogName)); err == nil {
		if c, err := ParseCatalog(b); err == nil && c.LastVersions != nil {
			return c.LastVersions
		}
	}
	return map[string]uint32{}
}

// usedVersions are the highest versions that were ever here: those on record
// and those of all files, of half packages too.
func (r *Folder) usedVersions() map[string]uint32 {
	used := r.lastVersions()
	files, _ := r.files()
	for _, f := range files {
		name, version, _, _ := ckm.ParseFileName(f)
		used[name] = max(used[name], version)
	}
	return used
}

// nextVersion returns the version that a new package of the image gets. The
// caller holds the lock.
func (r *Folder) nextVersion(name string) (uint32, error) {
	files, err := r.files()
	if err != nil {
		return 0, err
	}
	last := r.lastVersions()[name]
	for _, f := range files {
		n, v, _, _ := ckm.ParseFileName(f)
		if n != name && strings.EqualFold(n, name) {
			return 0, fmt.Errorf("there is an image %q already, and names may not differ in case alone; use that name or another", n)
		}
		if n == name {
			last = max(last, v)
		}
	}
	if !isVersion(name, last+1) {
		return 0, fmt.Errorf("image %q has had version %d, the last one there can be; use another name", name, last)
	}
	return last + 1, nil
}

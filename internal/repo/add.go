package repo

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/gofrs/flock"

	"prestage/ckm"
	"prestage/internal/durable"
)

// Names of the files that a folder holds besides packages, catalog and
// unfinished files.
const (
	lockName    = ".prestage.lock"    // held while names appear or go
	packingName = ".prestage.packing" // held, shared, while anybody packs
)

// Names that a new package's files have while they are unfinished.
const (
	newData  = "new" + ckm.DataExt
	newIndex = "new" + ckm.IndexExt
)

// CatalogError says that a change was made, and that catalog.json does not show
// it yet.
type CatalogError struct{ Err error }

func (e CatalogError) Error() string {
	return fmt.Sprintf("%s could not be written: %v", CatalogName, e.Err)
}

// Unwrap returns why.
func (e CatalogError) Unwrap() error { return e.Err }

// Add adds the next version of the image name: write writes the CKM and
// returns its index, which Add gives its version. Several Adds may run at
// once, also in several processes. With a CatalogError, the package is there all
// the same, and what describes it is returned.
//
// The order of events: the CKM is written aside and synced; under the lock a
// version is chosen and the INDEX written aside and synced; the CKM is
// renamed; the INDEX is renamed. A crash before the first renaming leaves
// nothing but unfinished files; after it, the next Add finishes the second.
func (r *Folder) Add(ctx context.Context, name string, write func(w io.Writer) (*ckm.Index, error)) (*ckm.Index, []byte, error) {
	return r.AddSigned(ctx, name, write, nil)
}

// AddSigned is Add for a package that is never to be seen without its signature:
// sign, unless it is nil, adds that to an index that was encoded.
func (r *Folder) AddSigned(ctx context.Context, name string, write func(w io.Writer) (*ckm.Index, error), sign func(x *ckm.Index) error) (*ckm.Index, []byte, error) {
	if err := ckm.CheckName(name); err != nil {
		return nil, nil, err
	}
	if err := durable.MkdirAll(r.dir, 0o755); err != nil {
		return nil, nil, err
	}
	if err := r.makeLock(packingName); err != nil {
		return nil, nil, err
	}
	packing := flock.New(r.Path(packingName))
	if alone, err := packing.TryLock(); err != nil {
		return nil, nil, err
	} else if alone {
		err := r.recover(ctx)
		packing.Unlock()
		if err != nil {
			return nil, nil, err
		}
	}
	if _, err := packing.TryRLockContext(ctx, durable.LockWait); err != nil {
		return nil, nil, err
	}
	defer packing.Unlock()

	// A version that cannot be made is better known before hours of packing.
	if _, err := r.nextVersion(name); err != nil {
		return nil, nil, err
	}
	data, err := durable.CreateTemp(r.dir, newData)
	if err != nil {
		return nil, nil, err
	}
	defer os.Remove(data.Name()) // gone already if all went well
	x, err := writeData(data, write)
	if err != nil {
		return nil, nil, r.noRoom(err)
	}
	x.Name = name
	encoded, err := r.publish(ctx, data.Name(), x, sign)
	return x, encoded, r.noRoom(err)
}

// noRoom says what to do when the disk is full.
func (r *Folder) noRoom(err error) error {
	if durable.IsDiskFull(err) {
		return fmt.Errorf("%w; make room in %s, or pack into another folder with --images", err, r)
	}
	return err
}

// flushing writes to a file and has it flushed along the way.
type flushing struct {
	f       *os.File
	flusher *durable.Flusher
}

func (w flushing) Write(p []byte) (int, error) {
	n, err := w.f.Write(p)
	w.flusher.Wrote(n)
	return n, err
}

func writeData(f *os.File, write func(w io.Writer) (*ckm.Index, error)) (*ckm.Index, error) {
	flusher := durable.NewFlusher(f)
	w := bufio.NewWriterSize(flushing{f, flusher}, 1<<20)
	x, err := write(w)
	if err == nil {
		err = w.Flush()
	}
	flusher.Close()
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return x, durable.SyncClose(f)
}

// publish makes the CKM at path and its index visible as the next version.
func (r *Folder) publish(ctx context.Context, path string, x *ckm.Index, sign func(x *ckm.Index) error) ([]byte, error) {
	unlock, err := r.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if x.Version, err = r.nextVersion(x.Name); err != nil {
		return nil, err
	}
	encoded, err := x.Encode()
	if err == nil && sign != nil { // what is signed is known only now
		encoded, err = signed(x, sign)
	}
	if err != nil {
		return nil, err
	}
	index, err := r.writeIndex(encoded)
	if err != nil {
		return nil, err
	}
	defer os.Remove(index)
	data := r.Path(ckm.DataName(x.Name, x.Version))
	if err := durable.Publish(path, data); err != nil {
		if !errors.Is(err, fs.ErrExist) {
			os.Remove(data) // it may have appeared, and then failed to be synced
		}
		return nil, err
	}
	final := r.Path(ckm.IndexName(x.Name, x.Version))
	if err := durable.Publish(index, final); err != nil {
		if _, statErr := os.Lstat(final); errors.Is(statErr, fs.ErrNotExist) {
			os.Remove(data) // or it would lie here for ever without its INDEX
		}
		return nil, err
	}
	// It is there now: an interruption comes too late.
	if err := r.writeCatalog(context.WithoutCancel(ctx), r.usedVersions()); err != nil {
		return encoded, CatalogError{err}
	}
	return encoded, nil
}

// writeIndex writes an INDEX aside and returns its path.
func (r *Folder) writeIndex(encoded []byte) (string, error) {
	f, err := durable.CreateTemp(r.dir, newIndex)
	if err != nil {
		return "", err
	}
	if _, err = f.Write(encoded); err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
	} else {
		err = durable.SyncClose(f)
	}
	if err != nil {
		os.Remove(f.Name())
		return "", err
	}
	return f.Name(), nil
}

// recover finishes or removes what packs that were killed have left. It is
// called when nobody packs.
func (r *Folder) recover(ctx context.Context) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	dir, err := os.ReadDir(r.dir)
	if err != nil {
		return err
	}
	changed := false
	for _, d := range dir {
		if !durable.IsTemp(d.Name()) {
			continue
		}
		p := r.Path(d.Name())
		switch {
		case strings.Contains(d.Name(), "."+newIndex):
			if err := r.finish(p); err != nil {
				return err
			}
		case !strings.Contains(d.Name(), "."+newData):
			durable.RemoveUnheld(p) // a repair may be at it
			continue
		}
		changed = true
		if err := os.Remove(p); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	if !changed {
		return nil
	}
	return r.writeCatalog(context.WithoutCancel(ctx), r.usedVersions())
}

// finish publishes an INDEX whose CKM was published just before a crash.
func (r *Folder) finish(index string) error {
	b, err := ReadIndexFile(index)
	if err != nil {
		return err
	}
	x, err := ckm.Decode(b)
	if err != nil {
		return nil // cut short in writing: its CKM was never published
	}
	trailer, err := readTrailer(r.Path(ckm.DataName(x.Name, x.Version)))
	final := r.Path(ckm.IndexName(x.Name, x.Version))
	if _, exists := os.Lstat(final); err != nil || trailer != x.Trailer() || exists == nil {
		return nil // another package has that version by now
	}
	return durable.Publish(index, final)
}

func readTrailer(path string) (ckm.Trailer, error) {
	d, err := OpenFile(path)
	if err != nil {
		return ckm.Trailer{}, err
	}
	defer d.Close()
	size, err := d.Size()
	if err != nil {
		return ckm.Trailer{}, err
	}
	return ReadTrailer(d, size)
}

// ReadTrailer reads the trailer of a CKM of the given size in bytes.
func ReadTrailer(r io.ReaderAt, size int64) (ckm.Trailer, error) {
	var buf [ckm.TrailerSize]byte
	if size < ckm.TrailerSize {
		return ckm.ParseTrailer(nil, 0)
	}
	if _, err := r.ReadAt(buf[:], size-ckm.TrailerSize); err != nil {
		return ckm.Trailer{}, err
	}
	return ckm.ParseTrailer(buf[:], uint64(size))
}

// lock takes the folder's lock, waiting until ctx ends.
func (r *Folder) lock(ctx context.Context) (unlock func(), err error) {
	if err := r.makeLock(lockName); err != nil {
		return nil, err
	}
	return durable.Lock(ctx, r.Path(lockName))
}

// makeLock makes a lock file, unless it is there, that all can use who may write
// to the folder: several people may look after it.
func (r *Folder) makeLock(name string) error {
	f, err := os.OpenFile(r.Path(name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err == nil {
		err = errors.Join(f.Chmod(0o666), f.Close()) // whatever the umask
	}
	return err
}

package verify

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/durable"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// RepairPackage makes a package in the folder r whole again from another copy:
// only what is damaged is fetched. Good bytes are never written, so that a
// client may read the package meanwhile, and a cut leaves it no worse. It
// returns the bytes that were mended; the package is verified afterwards. Where
// the INDEX itself is damaged, the error wraps sign.ErrUntrusted if the signatures
// of the other one do not count.
func RepairPackage(ctx context.Context, r *repo.Folder, name string, version uint32, from repo.Repository, trust sign.Trust, m progress.Meter) (mended int64, err error) {
	x, faults, err := index(Folder(r), ckm.IndexName(name, version), name, version)
	if err != nil {
		return 0, err
	}
	other, err := from.Index(ctx, name, version)
	if err != nil {
		return 0, err
	}
	good, err := repo.DecodeIndex(from, other, name, version)
	if err != nil {
		return 0, err
	}
	if x == nil { // what takes its place was said by nobody but from
		if err := trust.Check(good); err != nil {
			return 0, fmt.Errorf("%s: %w", from, err)
		}
	}
	if x != nil && x.Digest() != good.Digest() {
		return 0, fmt.Errorf("%s in %s is another package than the one in %s; remove one of them and pack or push it anew",
			repo.ImageName(name, version), from, r)
	}
	fetch := &assemble.Fetcher{Index: good, Sources: []assemble.Source{assemble.RepositorySource(from, good)}, Meter: m}
	if mended, err = repairData(ctx, fetch, r, good); err != nil {
		return mended, err
	}
	if len(faults) > 0 { // the INDEX goes last, as it does when a package is new
		path := r.Path(ckm.IndexName(name, version))
		if err := durable.WriteFile(path, other, modeOf(r.Path(ckm.DataName(name, version)))); err != nil {
			return mended, err
		}
		mended += int64(len(other))
	}
	_, faults, err = Package(ctx, Folder(r), name, version, m)
	if err == nil && len(faults) > 0 {
		err = fmt.Errorf("%w: %s is still damaged after the repair: %s; check the disk", ckm.ErrMismatch, repo.ImageName(name, version), faults[0])
	}
	return mended, err
}

// modeOf returns the mode of the file at path, or that of a new file.
func modeOf(path string) fs.FileMode {
	if st, err := os.Stat(path); err == nil {
		return st.Mode().Perm()
	}
	return 0o644
}

// repairData mends a CKM in place. One that is missing is built aside.
func repairData(ctx context.Context, fetch *assemble.Fetcher, r *repo.Folder, x *ckm.Index) (n int64, err error) {
	path := r.Path(ckm.DataName(x.Name, x.Version))
	durable.Sweep(filepath.Dir(path), filepath.Base(path))
	st, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return buildData(ctx, fetch, path, modeOf(r.Path(ckm.IndexName(x.Name, x.Version))))
	}
	if err != nil {
		return 0, err
	}
	if !st.Mode().IsRegular() {
		return 0, fmt.Errorf("%q is not a file; remove it and push or copy the package anew", path)
	}
	// A sealed file is opened for the repair alone.
	if mode := st.Mode().Perm(); mode&0o200 == 0 {
		if err := os.Chmod(path, mode|0o200); err != nil {
			return 0, err
		}
		defer func() {
			if chmodErr := os.Chmod(path, mode); err == nil {
				err = chmodErr
			}
		}()
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return 0, err
	}
	n, err = fetch.CKM(ctx, osFile{f})
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return n, err
}

// buildData makes a new CKM.
func buildData(ctx context.Context, fetch *assemble.Fetcher, path string, mode fs.FileMode) (n int64, err error) {
	f, err := durable.CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if n, err = fetch.CKM(ctx, osFile{f}); err != nil {
		return n, err
	}
	if err = f.Chmod(mode); err != nil {
		return n, err
	}
	if err = f.Sync(); err != nil { // also its mode
		return n, err
	}
	return n, durable.ReplaceOpen(f, path)
}

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// RepairImage makes the files of an installed image in dir what x says, chunk
// by chunk, in place, and returns what was wrong.
func RepairImage(ctx context.Context, x *ckm.Index, dir string, from []assemble.Source, m progress.Meter) ([]assemble.Fault, error) {
	t, err := assemble.OpenTarget(dir, x, true)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	fetch := &assemble.Fetcher{Index: x, Sources: from, Meter: m}
	faults, err := fetch.Mend(ctx, t)
	if err == nil && len(faults) > 0 {
		err = durable.SyncTree(dir) // files may have been created
	}
	return faults, err
}

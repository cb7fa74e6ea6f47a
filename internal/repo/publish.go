package repo

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/gofrs/flock"

	"prestage/ckm"
	"prestage/internal/durable"
)

// ErrConflict says that a package cannot be published under its name and version:
// another one has them, or has had them.
var ErrConflict = errors.New("conflict")

// Recover finishes or removes what those have left who were killed while they
// packed or published, unless somebody packs: then he will.
func (r *Folder) Recover(ctx context.Context) error {
	if err := r.makeLock(packingName); err != nil {
		return err
	}
	packing := flock.New(r.Path(packingName))
	alone, err := packing.TryLock()
	if err != nil || !alone {
		return err
	}
	defer packing.Unlock()
	return r.recover(ctx)
}

// Published is what is to be published: a package that was packed elsewhere, and
// checked. Its files lie in the file system of the folder, and are synced.
type Published struct {
	Index   *ckm.Index // decoded
	Encoded []byte     // of which it was
	Data    string     // path of the CKM
	Patch   string     // path of the patch; "": there is none
}

// Publish makes a package visible that keeps its version, in the order in which Add
// does: the CKM, the INDEX, then the patch. It reports false when the same package
// is there already; then its patch is added if there was none, and signatures by keys
// that have not signed it, and nothing else is touched. The error wraps ErrConflict when the version is, or was, another
// package's. With a CatalogError, the package is there all the same.
func (r *Folder) Publish(ctx context.Context, p Published) (added bool, err error) {
	name, version := p.Index.Name, p.Index.Version
	if err := ckm.CheckName(name); err != nil {
		return false, err
	}
	if err := r.Recover(ctx); err != nil {
		return false, err
	}
	packing := flock.New(r.Path(packingName))
	if _, err := packing.TryRLockContext(ctx, durable.LockWait); err != nil {
		return false, err
	}
	defer packing.Unlock()
	unlock, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	there, err := r.Vacant(name, version, p.Index.Digest())
	if err != nil {
		return false, err
	}
	if there {
		err = r.addSignatures(ctx, name, version, p.Index.Signatures)
	} else {
		err = r.publishFiles(p)
	}
	if err != nil {
		return false, r.noRoom(err)
	}
	if p.Patch != "" && !(there && r.HasPatch(name, version)) {
		// A package is whole without its patch: who lacks it uploads it again.
		if err := durable.Replace(p.Patch, r.Path(ckm.PatchName(name, version))); err != nil && there {
			return false, r.noRoom(err)
		}
	}
	// It is there now: an interruption comes too late.
	if err := r.writeCatalog(context.WithoutCancel(ctx), r.usedVersions()); err != nil {
		return !there, CatalogError{err}
	}
	return !there, nil
}

// HasPatch reports whether a patch lies beside a package.
func (r *Folder) HasPatch(name string, version uint32) bool {
	_, err := r.stat(ckm.PatchName(name, version))
	return err == nil
}

// publishFiles publishes CKM and INDEX. A CKM of the same package that lies there
// without an INDEX is what a crash has left.
func (r *Folder) publishFiles(p Published) error {
	path := r.Path(ckm.DataName(p.Index.Name, p.Index.Version))
	if _, err := os.Lstat(path); err == nil {
		if trailer, err := readTrailer(path); err != nil || trailer != p.Index.Trailer() {
			return fmt.Errorf("%w: %s is there and has no INDEX: somebody is copying it there, or a copy was interrupted; finish that, or remove the file", ErrConflict, path)
		}
	}
	index, err := r.writeIndex(p.Encoded)
	if err != nil {
		return err
	}
	defer os.Remove(index)
	final := r.Path(ckm.IndexName(p.Index.Name, p.Index.Version))
	err = durable.Replace(p.Data, path)
	if err == nil {
		err = durable.Publish(index, final)
	}
	if err != nil {
		if _, statErr := os.Lstat(final); errors.Is(statErr, fs.ErrNotExist) {
			os.Rename(path, p.Data) // it may be tried again
		}
	}
	return err
}

// Vacant reports whether the package with that digest is there already (there), or
// says why it cannot come there: the error wraps ErrConflict. It does not take the
// lock: who publishes asks again under it.
func (r *Folder) Vacant(name string, version uint32, digest ckm.Digest) (there bool, err error) {
	image := ImageName(name, version)
	e, whole, entryErr := r.entry(name, version)
	switch {
	case whole && e.PackageDigest == digest.String() && entryErr == nil:
		return true, nil
	case whole && e.PackageDigest != digest.String():
		return false, fmt.Errorf("%w: there is another %s already, with the digest %s; pack the image again into a folder that holds the latest version, and upload that",
			ErrConflict, image, e.PackageDigest)
	case entryErr != nil && !errors.Is(entryErr, fs.ErrNotExist):
		return false, fmt.Errorf("%w: %s is there and is damaged (%v); repair or remove it there first", ErrConflict, image, entryErr)
	}
	files, err := r.files()
	if err != nil {
		return false, err
	}
	last, orphan := r.lastVersions()[name], false
	for _, f := range files {
		n, v, _, _ := ckm.ParseFileName(f)
		if n != name && strings.EqualFold(n, name) {
			return false, fmt.Errorf("%w: there is an image %q already, and names may not differ in case alone; pack it under that name or another", ErrConflict, n)
		}
		if n == name {
			last = max(last, v)
			orphan = orphan || v == version
		}
	}
	if version <= last && !orphan {
		return false, fmt.Errorf("%w: version %d of %s has been there already, and %s is not: if it was removed, machines may have it; pack the image again as version %d or later",
			ErrConflict, last, name, image, last+1)
	}
	return false, nil
}

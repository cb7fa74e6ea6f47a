package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"prestage/ckm"
	"prestage/internal/client"
	"prestage/internal/prestage"
	"prestage/internal/repo"
)

// target is a thing that verify and repair work on: a package in a folder, or
// an installed image.
type target struct {
	folder  *repo.Folder  // holds the package
	staged  bool          // the folder is this machine's pre-stage folder
	store   *client.Store // or: holds the installed image
	name    string
	version uint32
}

// String says what and where the target is.
func (t target) String() string {
	image := repo.ImageName(t.name, t.version)
	switch {
	case t.store != nil:
		return fmt.Sprintf("%s installed in %s", image, t.store.ImageDir(t.name, t.version))
	case t.staged:
		return fmt.Sprintf("%s staged in %s", image, t.folder)
	}
	return fmt.Sprintf("%s in %s", image, t.folder)
}

// targets finds what PATH or IMAGE means: a file of a package, a folder of
// packages, a pre-stage folder, the folder of an installed image; or every copy
// of an image that this machine has.
func (a *app) targets(ctx context.Context, arg, images string) ([]target, error) {
	st, err := os.Stat(arg)
	if err != nil {
		return a.copies(ctx, arg, images)
	}
	staged, err := a.stagedFolder(ctx)
	if err != nil && !errors.Is(err, prestage.ErrNotSetUp) &&
		(staged == "" || same(arg, staged) || same(filepath.Dir(arg), staged)) {
		return nil, err // whether its files are to be sealed is not known
	}
	if !st.IsDir() {
		name, version, _, ok := ckm.ParseFileName(filepath.Base(arg))
		if !ok {
			return nil, usageError{fmt.Errorf("%q is not a file of a package (NAME_N.ckm or NAME_N.index)", arg)}
		}
		dir := filepath.Dir(arg)
		return []target{{folder: repo.NewFolder(dir), staged: same(dir, staged), name: name, version: version}}, nil
	}
	if s, name, version, ok := client.StoreOf(absolute(arg)); ok {
		return []target{{store: s, name: name, version: version}}, nil
	}
	if inner := filepath.Join(arg, prestage.PrestagedFolder); filepath.Base(absolute(arg)) == prestage.ImagesFolder {
		arg = inner
	}
	return a.packages(repo.NewFolder(arg), same(arg, staged))
}

// packages returns all packages of a folder, whole or not.
func (a *app) packages(r *repo.Folder, staged bool) ([]target, error) {
	entries, err := os.ReadDir(r.String())
	if err != nil {
		return nil, err
	}
	var list []target
	for _, e := range entries {
		name, version, _, ok := ckm.ParseFileName(e.Name())
		if n := len(list); ok && (n == 0 || list[n-1].name != name || list[n-1].version != version) {
			list = append(list, target{folder: r, staged: staged, name: name, version: version})
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: %q holds no packages and no installed image", repo.ErrNotFound, r)
	}
	return list, nil
}

// copies returns the copies of an image on this machine: in the folder of
// packages, pre-staged, and installed.
func (a *app) copies(ctx context.Context, arg, images string) ([]target, error) {
	name, version, err := repo.ParseImage(arg)
	if err != nil {
		return nil, fmt.Errorf("%w: %q is neither a path that exists nor the name of an image", repo.ErrNotFound, arg)
	}
	var list []target
	inFolder := func(f *repo.Folder, staged bool) {
		if v := versionIn(f, name, version); v > 0 {
			list = append(list, target{folder: f, staged: staged, name: name, version: v})
		}
	}
	if r, err := a.repository(images); err != nil {
		return nil, err
	} else if f, ok := r.(*repo.Folder); ok {
		inFolder(f, false)
	}
	if staged, err := a.stagedFolder(ctx); err == nil {
		inFolder(repo.NewStrictFolder(staged), true)
	}
	if s, err := a.store(""); err == nil {
		versions, err := s.Versions(name)
		if err != nil {
			return nil, err
		}
		for _, v := range versions {
			if v == version || version == 0 && v == versions[len(versions)-1] {
				list = append(list, target{store: s, name: name, version: v})
			}
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%w: there is no file or folder %q, and no copy of an image of that name on this machine", repo.ErrNotFound, arg)
	}
	return list, nil
}

// versionIn returns the version of an image, or its latest when version is 0,
// that a folder has files of, whole or not; 0 when there is none.
func versionIn(f *repo.Folder, name string, version uint32) (found uint32) {
	entries, _ := os.ReadDir(f.String())
	for _, e := range entries {
		n, v, _, ok := ckm.ParseFileName(e.Name())
		if ok && n == name && (version == 0 || v == version) {
			found = max(found, v)
		}
	}
	return found
}

// stagedFolder returns this machine's pre-stage folder.
func (a *app) stagedFolder(ctx context.Context) (string, error) {
	return prestage.StagedFolder(ctx, a.host())
}

// store returns the image store: dir, or the one in the settings.
func (a *app) store(dir string) (*client.Store, error) {
	if dir != "" {
		return client.NewStore(absolute(dir)), nil
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	if s.VMSFolder == "" {
		return nil, errors.New(`no image store is set up on this machine; run "prestage setup FOLDER" or name one with --store`)
	}
	return client.NewStore(s.VMSFolder), nil
}

func absolute(path string) string {
	if p, err := filepath.Abs(path); err == nil {
		return p
	}
	return path
}

// same reports whether two paths lead to the same folder.
func same(a, b string) bool {
	x, errA := os.Stat(a)
	y, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(x, y)
}

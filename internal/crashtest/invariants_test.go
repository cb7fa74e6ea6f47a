//go:build linux

package crashtest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"prestage/ckm"
	"prestage/internal/repo"
	"prestage/internal/settings"
)

// What can be seen is whole: these checks hold at every moment, whatever
// happened to the program. They read bytes and compare digests and do not rely
// on the program's own verifying.

// checkAll checks every place of the world.
func (w *world) checkAll() error {
	return errors.Join(w.checkImages(), w.checkStaged(), w.checkStore(), w.checkSettings())
}

// checkImages checks the folder of packages.
func (w *world) checkImages() error {
	files, err := os.ReadDir(w.images)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		name, version, ext, ok := ckm.ParseFileName(f.Name())
		switch {
		case strings.HasSuffix(f.Name(), ckm.PatchExt):
			errs = append(errs, w.checkPatch(f.Name()))
		case !ok && f.Name() != repo.CatalogName && !strings.HasPrefix(f.Name(), ".prestage") && f.Name() != "filler":
			errs = append(errs, fmt.Errorf("%s does not belong into the folder of packages", f.Name()))
		case ok && ext == ckm.IndexExt:
			errs = append(errs, w.checkPackage(name, version))
		}
	}
	r := w.run("list", "--json", "--images", w.images)
	var entries []repo.Entry
	if err := json.Unmarshal([]byte(r.out), &entries); err != nil || r.code != 0 {
		errs = append(errs, fmt.Errorf("list: %v: %v", err, r))
	}
	for _, e := range entries {
		errs = append(errs, w.checkPackage(e.Name, e.Version))
	}
	b, err := os.ReadFile(filepath.Join(w.images, repo.CatalogName))
	if err == nil {
		_, err = repo.ParseCatalog(b)
	} else if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return errors.Join(append(errs, err)...)
}

// checkPackage checks that a package is whole, and the one that always had its
// number.
func (w *world) checkPackage(name string, version uint32) error {
	x, _, err := readPackage(w.images, name, version)
	if err != nil {
		return err
	}
	digest := x.Digest().String() // signed or not, it is the same one
	image := repo.ImageName(name, version)
	if had, ok := w.packages[image]; ok && had != digest {
		return fmt.Errorf("%s is two packages: it was %s and is %s", image, had, digest)
	}
	w.packages[image] = digest
	return nil
}

// checkPatch checks that a patch that can be seen is whole, and of a package that is
// there.
func (w *world) checkPatch(file string) error {
	name, version, ok := ckm.ParsePatchName(file)
	if !ok {
		return fmt.Errorf("%s is no patch's name", file)
	}
	b, err := os.ReadFile(filepath.Join(w.images, file))
	if err != nil {
		return err
	}
	h, err := ckm.ParsePatchHeader(b)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	var x [2]*ckm.Index
	for i, v := range []uint32{version, h.BaseVersion} {
		if x[i], err = repo.ReadIndex(context.Background(), repo.NewFolder(w.images), name, v); err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
	}
	p, err := ckm.DecodePatch(b, x[0], x[1])
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	size := uint64(h.Size)
	for _, part := range p.Parts {
		size += uint64(part.Stored)
	}
	if size != uint64(len(b)) {
		return fmt.Errorf("%s has %d bytes and should have %d", file, len(b), size)
	}
	return nil
}

// readPackage reads a package and compares its bytes with its INDEX.
func readPackage(dir, name string, version uint32) (x *ckm.Index, digest string, err error) {
	encoded, err := os.ReadFile(filepath.Join(dir, ckm.IndexName(name, version)))
	if err != nil {
		return nil, "", err
	}
	x, err = ckm.Decode(encoded)
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", ckm.IndexName(name, version), err)
	}
	data, err := os.ReadFile(filepath.Join(dir, ckm.DataName(name, version)))
	if err != nil {
		return nil, "", err
	}
	if x.Name != name || x.Version != version || sha256.Sum256(data) != x.CKMSHA256 {
		return nil, "", fmt.Errorf("%s in %s is not what its INDEX says", repo.ImageName(name, version), dir)
	}
	sum := sha256.Sum256(encoded)
	return x, hex.EncodeToString(sum[:]), nil
}

// checkStaged checks the pre-stage folder: all of a package or nothing, sealed.
func (w *world) checkStaged() error { return w.checkStagedBut(nil) }

// checkStagedBut leaves the files out for which but says so.
func (w *world) checkStagedBut(but func(file string) bool) error {
	files, err := os.ReadDir(w.staged)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, f := range files {
		if f.Name() == ".prestage" || but != nil && but(f.Name()) {
			continue
		}
		name, version, ext, ok := ckm.ParseFileName(f.Name())
		if !ok {
			errs = append(errs, fmt.Errorf("%s does not belong into the pre-stage folder", f.Name()))
			continue
		}
		errs = append(errs, w.checkMode(filepath.Join(w.staged, f.Name()), 0o444))
		if ext == ckm.IndexExt {
			errs = append(errs, w.checkOrigin(name, version))
		}
	}
	return errors.Join(errs...)
}

// checkOrigin checks that a staged package is that of one of the folders it may
// come from, both files of the same.
func (w *world) checkOrigin(name string, version uint32) error {
	index := ckm.IndexName(name, version)
	for _, from := range w.origins {
		if same(filepath.Join(w.staged, index), filepath.Join(from, index)) == nil {
			data := ckm.DataName(name, version)
			return same(filepath.Join(w.staged, data), filepath.Join(from, data))
		}
	}
	return fmt.Errorf("the staged %s is none that was pushed", index)
}

// checkMode checks owner and mode.
func (w *world) checkMode(path string, want fs.FileMode) error {
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	uid := uint32(os.Geteuid())
	if w.user != nil {
		uid = w.user.Uid
	}
	if got := st.Mode() &^ fs.ModeDir; got != want || st.Sys().(*syscall.Stat_t).Uid != uid {
		return fmt.Errorf("%s: mode %v of user %d, not %v", path, got, st.Sys().(*syscall.Stat_t).Uid, want)
	}
	return nil
}

// checkStore checks that what is installed is bit-exact.
func (w *world) checkStore() error { return checkStore(w.medv) }

func checkStore(store string) error {
	images, err := os.ReadDir(store)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, image := range images {
		if image.Name() == "PrestagedImages" || !image.IsDir() {
			continue
		}
		versions, err := os.ReadDir(filepath.Join(store, image.Name()))
		errs = append(errs, err)
		for _, v := range versions {
			if _, err := strconv.Atoi(v.Name()); err == nil {
				errs = append(errs, checkInstalled(filepath.Join(store, image.Name(), v.Name())))
			}
		}
	}
	return errors.Join(errs...)
}

// checkInstalled compares an installed image with its source, which the file's
// name tells.
func checkInstalled(dir string) error {
	files, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(files) != 1 {
		return fmt.Errorf("%s holds %d files, not the image's one", dir, len(files))
	}
	b, err := os.ReadFile(dir + ckm.IndexExt)
	if err == nil {
		_, err = ckm.Decode(b)
	}
	disksMu.Lock()
	source := disks[files[0].Name()]
	disksMu.Unlock()
	return errors.Join(err, same(filepath.Join(dir, files[0].Name()), source))
}

// checkSettings checks that the settings can be read, and lead to folders that
// are there with their rights.
func (w *world) checkSettings() error {
	s, err := settings.File(w.config).Load()
	if err != nil || s.PrestagedImagesPath == "" {
		return err
	}
	return errors.Join(w.checkMode(filepath.Dir(s.PrestagedImagesPath), 0o755), w.checkMode(s.PrestagedImagesPath, 0o755))
}

// same compares two files of which neither is large.
func same(a, b string) error {
	x, err := os.ReadFile(a)
	if err != nil {
		return err
	}
	y, err := os.ReadFile(b)
	if err != nil {
		return err
	}
	if !bytes.Equal(x, y) {
		return fmt.Errorf("%s differs from %s", a, b)
	}
	return nil
}

var unfinished = regexp.MustCompile(`\.partial$|\.removed$`)

// leftovers names the unfinished files of the world.
func (w *world) leftovers() (list []string) {
	filepath.WalkDir(w.dir, func(p string, _ fs.DirEntry, err error) error {
		if err == nil && unfinished.MatchString(filepath.Base(p)) {
			list = append(list, p)
		}
		return nil
	})
	return list
}

// finished fails the test when anything unfinished is left.
func (w *world) finished() {
	w.t.Helper()
	if list := w.leftovers(); len(list) > 0 {
		w.t.Errorf("unfinished files are left: %s", strings.Join(list, ", "))
	}
}

// snapshot describes all that is under a path: kinds, rights, times, contents.
func snapshot(t testing.TB, path string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		what := ""
		switch {
		case st.Mode().IsRegular():
			data, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			what = fmt.Sprintf("%x", sha256.Sum256(data))
		case st.Mode()&fs.ModeSymlink != 0:
			what, _ = os.Readlink(p)
		}
		sys := st.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v %d:%d %v %s\n", p, st.Mode(), sys.Uid, sys.Gid, st.ModTime(), what)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// unchanged takes a snapshot and returns the check that it still holds.
func unchanged(t testing.TB, path string) func() {
	t.Helper()
	before := snapshot(t, path)
	return func() {
		t.Helper()
		if after := snapshot(t, path); after != before {
			t.Errorf("%s has changed\nbefore:\n%safter:\n%s", path, before, after)
		}
	}
}

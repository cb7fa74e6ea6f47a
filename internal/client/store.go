// Package client is what a client machine does with packages: it installs
// images into its image store, the first one from the pre-stage folder.
package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// Store is an image store: NAME/N/ holds the files of a version of an image,
// NAME/N.index what they must be.
type Store struct{ dir string }

// NewStore returns the image store in dir, which need not exist yet.
func NewStore(dir string) *Store { return &Store{dir} }

// OwnFiles returns the path of what is known of the machine's own files.
func (s *Store) OwnFiles() string { return filepath.Join(s.dir, ".own-files") }

// String returns the store's path.
func (s *Store) String() string { return s.dir }

// ImageDir returns the folder of an installed image.
func (s *Store) ImageDir(name string, version uint32) string {
	return filepath.Join(s.dir, name, strconv.FormatUint(uint64(version), 10))
}

func (s *Store) indexPath(name string, version uint32) string {
	return s.ImageDir(name, version) + ckm.IndexExt
}

// Index reads the index of an installed image. The error wraps
// repo.ErrNotFound or ckm.ErrFormat.
func (s *Store) Index(name string, version uint32) (*ckm.Index, error) {
	b, err := repo.ReadIndexFile(s.indexPath(name, version))
	if err != nil {
		return nil, err
	}
	x, err := ckm.Decode(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.indexPath(name, version), err)
	}
	return x, nil
}

// latestIndex returns the bytes of the index of the latest installed version of an
// image, nil if there is none.
func (s *Store) latestIndex(name string) []byte {
	versions, err := s.Versions(name)
	if err != nil || len(versions) == 0 {
		return nil
	}
	b, err := repo.ReadIndexFile(s.indexPath(name, versions[len(versions)-1]))
	if err != nil {
		return nil
	}
	return b
}

// RestoreIndex replaces the damaged index of an installed image by that of r, and
// returns it. The error wraps sign.ErrUntrusted if its signatures do not count.
func (s *Store) RestoreIndex(ctx context.Context, r repo.Repository, trust sign.Trust, name string, version uint32) (*ckm.Index, error) {
	b, err := r.Index(ctx, name, version)
	if err != nil {
		return nil, err
	}
	x, err := repo.DecodeIndex(r, b, name, version)
	if err != nil {
		return nil, err
	}
	if err := trust.Check(x); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	return x, durable.WriteFile(s.indexPath(name, version), b, 0o644)
}

// CheckTrust reports whether the signatures of an installed image count. The
// error wraps sign.ErrUntrusted, or says why that cannot be told.
func (s *Store) CheckTrust(trust sign.Trust, name string, version uint32) error {
	if !trust.Required() {
		return nil
	}
	h, signatures, err := s.head(name, version)
	if err != nil {
		return err
	}
	return trust.CheckHead(h, signatures)
}

// StoreOf finds the store, name and version of an installed image from its
// folder. It reports false when dir is not one.
func StoreOf(dir string) (s *Store, name string, version uint32, ok bool) {
	dir = filepath.Clean(dir)
	image := filepath.Dir(dir)
	v, err := strconv.ParseUint(filepath.Base(dir), 10, 31)
	if err != nil || ckm.CheckName(filepath.Base(image)) != nil {
		return nil, "", 0, false
	}
	s, name, version = NewStore(filepath.Dir(image)), filepath.Base(image), uint32(v)
	_, err = os.Stat(s.indexPath(name, version))
	return s, name, version, err == nil && s.ImageDir(name, version) == dir
}

// Versions returns the versions of an image that are installed, in order.
func (s *Store) Versions(name string) ([]uint32, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var versions []uint32
	for _, e := range entries {
		v, err := strconv.ParseUint(e.Name(), 10, 31)
		if err != nil || !e.IsDir() || strconv.FormatUint(v, 10) != e.Name() {
			continue
		}
		if _, err := os.Stat(s.indexPath(name, uint32(v))); err == nil {
			versions = append(versions, uint32(v))
		}
	}
	slices.Sort(versions)
	return versions, nil
}

// InstalledImage describes a version of an image in the store.
type InstalledImage struct {
	Name    string `json:"name"`
	Version uint32 `json:"version"`
	Dir     string `json:"dir"`  // holds the image's files
	Size    uint64 `json:"size"` // bytes
	// PackageDigest is of the package that it was installed from, "" if its index
	// cannot be read.
	PackageDigest string `json:"package_digest,omitempty"`
	// Verified is when it was installed, every chunk checked. What its user
	// has changed since, verifying it anew tells.
	Verified time.Time `json:"verified"`
}

// List returns all installed images, in order, and what could not be looked at:
// users may have private folders in the store. A version whose index cannot be
// read is listed with no size.
func (s *Store) List() (list []InstalledImage, problems []error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		problems = append(problems, err)
	}
	for _, e := range entries {
		if !e.IsDir() || ckm.CheckName(e.Name()) != nil {
			continue
		}
		versions, err := s.Versions(e.Name())
		if err != nil {
			problems = append(problems, err)
		}
		for _, v := range versions {
			i := InstalledImage{Name: e.Name(), Version: v, Dir: s.ImageDir(e.Name(), v)}
			if st, err := os.Stat(s.indexPath(e.Name(), v)); err == nil {
				i.Verified = st.ModTime().UTC()
			}
			if h, _, err := s.head(e.Name(), v); err == nil {
				i.Size, i.PackageDigest = h.ImageSize(), h.Digest.String()
			}
			list = append(list, i)
		}
	}
	return list, problems
}

// head reads the head of an index, and its signature block.
func (s *Store) head(name string, version uint32) (*ckm.Head, []byte, error) {
	f, err := durable.OpenShared(s.indexPath(name, version))
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return repo.ReadHeadAndSignatures(f)
}

// Remove removes an installed image: it disappears at once, then its bytes are
// freed. The error wraps repo.ErrNotFound.
func (s *Store) Remove(ctx context.Context, name string, version uint32) error {
	unlock, err := s.lock(ctx, name)
	if err != nil {
		return err
	}
	defer unlock()
	dir := s.ImageDir(name, version)
	gone := filepath.Join(filepath.Dir(dir), fmt.Sprintf(".%d.removed", version))
	if err := durable.RemoveTree(gone); err != nil {
		return err
	}
	if err := durable.Replace(dir, gone); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %s is not installed in %s", repo.ErrNotFound, repo.ImageName(name, version), s)
	} else if err != nil {
		return err
	}
	if err := durable.Remove(s.indexPath(name, version)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return durable.RemoveTree(gone)
}

// Files returns the paths of all files of an installed image.
func (s *Store) Files(name string, version uint32) ([]string, error) {
	var files []string
	err := filepath.WalkDir(s.ImageDir(name, version), func(p string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			files = append(files, p)
		}
		return err
	})
	return files, err
}

// lock keeps other programs from installing or removing versions of the image.
func (s *Store) lock(ctx context.Context, name string) (unlock func(), err error) {
	dir := filepath.Join(s.dir, name)
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		if err := durable.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		// All users of the machine may use an image, whatever the umask of
		// the one who installs it.
		if err := os.Chmod(dir, 0o755); err != nil {
			return nil, err
		}
	}
	return durable.Lock(ctx, filepath.Join(dir, ".lock"))
}

// partial returns the folder that an unfinished installation of the package is
// built in, after removing what others have left of this image. The caller
// holds the lock, so nobody works on them.
func (s *Store) partial(x *ckm.Index) (dir string, err error) {
	parent := filepath.Join(s.dir, x.Name)
	want := fmt.Sprintf(".%d-%s.partial", x.Version, x.Digest().String()[:16])
	entries, err := os.ReadDir(parent)
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		n := e.Name()
		if left := strings.HasSuffix(n, ".partial") || strings.HasSuffix(n, ".removed"); left && n[0] == '.' && e.IsDir() && n != want {
			if err := durable.RemoveTree(filepath.Join(parent, n)); err != nil {
				return "", err
			}
		}
	}
	return filepath.Join(parent, want), nil
}

package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/zeebo/blake3"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/progress"
)

// Is reports whether dir is a bundle, whole or not: whether it has a manifest.
func Is(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, ManifestName))
	return err == nil
}

// Verify compares all files of the bundle in dir with its manifest, and finds
// those that it lacks and those that it should not have. Damage is not an error
// but a fault.
func Verify(ctx context.Context, dir string, meter progress.Meter) ([]assemble.Fault, error) {
	m, err := readManifest(dir)
	if errors.Is(err, ckm.ErrFormat) {
		return []assemble.Fault{fault(ManifestName, 0, err.Error())}, nil
	}
	if err != nil {
		return nil, err
	}
	there, faults, err := m.walk(dir)
	if err != nil {
		return nil, err
	}
	total, err := m.contents()
	if err != nil {
		return nil, err
	}
	meter.Begin("verifying the bundle", total)
	for _, f := range m.Files {
		reason := "the file is missing"
		if there[f.Path] {
			reason, err = f.verify(ctx, dir, meter)
		}
		if err != nil {
			return nil, err
		}
		if reason != "" {
			faults = append(faults, fault(f.Path, f.Size, reason))
		}
	}
	slices.SortStableFunc(faults, assemble.CompareFaults)
	return faults, nil
}

func fault(path string, length int64, reason string) assemble.Fault {
	return assemble.Fault{File: path, Chunk: -1, Length: length, Reason: reason}
}

func readManifest(dir string) (*Manifest, error) {
	path := filepath.Join(dir, ManifestName)
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() { // a pipe would be waited for
		return nil, fmt.Errorf("%s: %w: it is not a file", ManifestName, ckm.ErrFormat)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxManifest+1))
	if err != nil {
		return nil, err
	}
	return ParseManifest(b)
}

// walk finds which of the bundle's files are there, and what else is. Nothing
// that is not of the bundle is opened.
func (m *Manifest) walk(dir string) (there map[string]bool, faults []assemble.Fault, err error) {
	there = map[string]bool{}
	foreign := func(path, reason string) { faults = append(faults, fault(path, 0, reason)) }
	look := func(below string) error {
		entries, err := os.ReadDir(filepath.Join(dir, filepath.FromSlash(below)))
		if err != nil {
			return err
		}
		for _, e := range entries {
			path := below + e.Name()
			known := slices.ContainsFunc(m.Files, func(f File) bool { return f.Path == path })
			switch {
			case path == ManifestName, path == ImagesFolder && e.IsDir() && len(m.Images) > 0:
			case !known:
				foreign(path, "it does not belong to the bundle")
			case !e.Type().IsRegular():
				there[path] = true // and one fault is enough
				foreign(path, "it is not a file")
			default:
				there[path] = true
			}
		}
		return nil
	}
	if err := look(""); err != nil {
		return nil, nil, err
	}
	if len(m.Images) == 0 {
		return there, faults, nil
	}
	if st, err := os.Lstat(filepath.Join(dir, ImagesFolder)); err != nil || !st.IsDir() {
		return there, faults, nil // its files are missing, which is said of each
	}
	return there, faults, look(ImagesFolder + "/")
}

// verify compares a file's size and digests, and says what is wrong.
func (f *File) verify(ctx context.Context, dir string, meter progress.Meter) (reason string, err error) {
	path := filepath.Join(dir, filepath.FromSlash(f.Path))
	st, err := os.Lstat(path)
	if err != nil {
		return fmt.Sprintf("it cannot be read: %v", err), nil
	}
	if !st.Mode().IsRegular() {
		return "", nil // walk has said so
	}
	if st.Size() != f.Size {
		return fmt.Sprintf("the file has %d bytes and should have %d", st.Size(), f.Size), nil
	}
	r, err := os.Open(path)
	if err != nil {
		return fmt.Sprintf("it cannot be read: %v", err), nil
	}
	defer r.Close()
	got, err := copyHashed(ctx, io.Discard, r, meter)
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	switch {
	case err != nil:
		return fmt.Sprintf("it cannot be read: %v", err), nil
	case got.Size != f.Size:
		return fmt.Sprintf("the file has %d bytes and should have %d", got.Size, f.Size), nil
	case got.SHA256 != f.SHA256 || got.BLAKE3 != f.BLAKE3:
		return fmt.Sprintf("its bytes are not those of the manifest (SHA-256 %s, not %s)", got.SHA256, f.SHA256), nil
	}
	return "", nil
}

// copyHashed copies all of r to w and returns its size and digests.
func copyHashed(ctx context.Context, w io.Writer, r io.Reader, meter progress.Meter) (f File, err error) {
	sha, blake := sha256.New(), blake3.New()
	buf := make([]byte, 1<<20)
	for {
		if err := ctx.Err(); err != nil {
			return f, err
		}
		n, err := r.Read(buf)
		if _, err := io.MultiWriter(sha, blake, w).Write(buf[:n]); err != nil {
			return f, err
		}
		f.Size += int64(n)
		meter.Add(int64(n))
		if errors.Is(err, io.EOF) {
			f.SHA256, f.BLAKE3 = hex.EncodeToString(sha.Sum(nil)), hex.EncodeToString(blake.Sum(nil))
			return f, nil
		}
		if err != nil {
			return f, err
		}
	}
}

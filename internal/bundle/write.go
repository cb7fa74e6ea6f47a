package bundle

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/durable"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// Options say what a bundle is made of.
type Options struct {
	Out        string // the new folder
	Client     string // the file that becomes Client.MSI
	Program    string // the file that becomes prestage.exe
	Settings   Settings
	Images     []Image
	Repository repo.Repository // where the images are; not needed without any
	Trust      sign.Trust      // whose signatures the images must have
	Medium     int64           // its size in bytes; 0: any; or AskMedium
	Created    time.Time
	Creator    string
	Meter      progress.Meter
}

// Write makes a bundle, whole or not at all: it is built aside, read back and
// compared, and then renamed. The error wraps assemble.ErrIncomplete or
// ckm.ErrFormat when a package is damaged, sign.ErrUntrusted, and ckm.ErrMismatch when the medium
// does not keep what is written to it.
func Write(ctx context.Context, o Options) (*Manifest, error) {
	var err error
	if o.Out, err = filepath.Abs(o.Out); err != nil {
		return nil, err
	}
	if err := checkOut(o.Out); err != nil {
		return nil, err
	}
	w := &writer{Options: o, parts: map[string]part{}}
	if err := w.plan(ctx); err != nil {
		return nil, err
	}
	if err := w.checkRoom(); err != nil {
		return nil, err
	}
	if err := w.build(ctx); err != nil {
		if durable.IsDiskFull(err) {
			err = fmt.Errorf("%w; the medium is full, or its file system has no files as large (FAT32: under 4 GiB; use exFAT or NTFS). Nothing was left there", err)
		}
		return nil, err
	}
	return &w.manifest, nil
}

// checkOut refuses what cannot become a new folder.
func checkOut(out string) error {
	if isRoot(out) {
		return fmt.Errorf("%q is the root of a file system; name a new folder in it, for instance %q", out, filepath.Join(out, "prestage"))
	}
	entries, err := os.ReadDir(out)
	switch {
	case err == nil && len(entries) > 0:
		return fmt.Errorf("folder %q is there already and not empty; name a new one, or remove it first", out)
	case err == nil || !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if st, err := os.Stat(filepath.Dir(out)); err != nil || !st.IsDir() {
		return fmt.Errorf("folder %q does not exist; create it first, or insert the medium", filepath.Dir(out))
	}
	return nil
}

// A writer makes one bundle.
type writer struct {
	Options
	manifest Manifest
	parts    map[string]part // by path
}

// part is how a file comes to be in the bundle: from a file, from bytes, or as
// the CKM of a package.
type part struct {
	from  string
	bytes []byte
	index *ckm.Index
}

// plan fills the manifest with all but the digests of what is still to be
// copied, so that its size, and the bundle's, are known before anything is written.
func (w *writer) plan(ctx context.Context) error {
	m := &w.manifest
	*m = Manifest{Format: manifestFormat, Created: w.Created.UTC().Truncate(time.Second), Creator: w.Creator, Settings: w.Settings, Images: []string{}}
	if err := w.addFile(ClientName, w.Client, "\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Windows Installer package"); err != nil {
		return err
	}
	if err := w.addFile(ProgramName, w.Program, "MZ", "a program for Windows"); err != nil {
		return err
	}
	for _, image := range w.Images {
		if err := w.addImage(ctx, image); err != nil {
			return err
		}
	}
	slices.Sort(m.Images)
	start, readme, err := m.render()
	if err != nil {
		return err
	}
	w.addBytes(StartName, start)
	w.addBytes(ReadmeName, readme)
	slices.SortFunc(m.Files, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	if err := m.check(); err != nil {
		return err
	}
	b, err := m.encode()
	if err == nil && len(b) > maxManifest {
		err = fmt.Errorf("these are too many images for one bundle: %s would have more than %d bytes", ManifestName, maxManifest)
	}
	return err
}

// noDigest holds a digest's place until it is known.
var noDigest = strings.Repeat("0", 64)

func (w *writer) add(path string, size int64, p part) {
	w.manifest.Files = append(w.manifest.Files, File{path, size, noDigest, noDigest})
	w.parts[path] = p
}

func (w *writer) addBytes(path string, b []byte) { w.add(path, int64(len(b)), part{bytes: b}) }

// addFile plans a copy of the file at from, which must begin with magic.
func (w *writer) addFile(path, from, magic, what string) error {
	st, err := os.Stat(from)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%q, for %s, is not a file", from, path)
	}
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	head := make([]byte, len(magic))
	if _, err := io.ReadFull(f, head); err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if string(head) != magic {
		return fmt.Errorf("%q, for %s, is not %s; name the right file", from, path, what)
	}
	w.add(path, st.Size(), part{from: from})
	return nil
}

func (w *writer) addImage(ctx context.Context, image Image) error {
	encoded, err := w.Repository.Index(ctx, image.Name, image.Version)
	if err != nil {
		return err
	}
	x, err := repo.DecodeIndex(w.Repository, encoded, image.Name, image.Version)
	if err != nil {
		return err
	}
	if err := w.Trust.Check(x); err != nil {
		return fmt.Errorf("%s: %w", w.Repository, err)
	}
	data, index := image.paths()
	w.manifest.Images = append(w.manifest.Images, image.String())
	w.addBytes(index, encoded)
	w.add(data, int64(x.CKMLength), part{index: x})
	return nil
}

// checkRoom refuses before anything is written what the medium should not, or
// cannot hold.
func (w *writer) checkRoom() error {
	contents, err := w.manifest.contents()
	if err != nil {
		return err
	}
	above := filepath.Dir(w.Out)
	medium := w.Medium
	if medium == AskMedium {
		if medium, err = mediumSize(above); err != nil {
			return err
		}
		if medium == 0 {
			w.Meter.Warn("the file system of %s does not tell its size, so whether three quarters of it are enough is not known; name it with --medium", above)
		}
	}
	if medium > 0 {
		if err := checkMedium(contents, medium); err != nil {
			return err
		}
	}
	free, err := durable.FreeSpace(above)
	if err == nil && free < contents {
		err = fmt.Errorf("not enough space in %s: %d bytes are needed and %d are free; make room", above, contents, free)
	}
	return err
}

// build writes the bundle aside and renames it.
func (w *writer) build(ctx context.Context) (err error) {
	dir, done, err := aside(w.Out)
	if err != nil {
		return err
	}
	defer done()
	for i := range w.manifest.Files {
		if err := w.write(ctx, dir, &w.manifest.Files[i]); err != nil {
			return err
		}
	}
	b, err := w.manifest.encode()
	if err != nil {
		return err
	}
	if _, err := create(ctx, filepath.Join(dir, ManifestName), bytes.NewReader(b), progress.Discard); err != nil {
		return err
	}
	if err := durable.SyncTree(dir); err != nil {
		return err
	}
	faults, err := Verify(ctx, dir, w.Meter)
	if err != nil {
		return err
	}
	if len(faults) > 0 {
		return fmt.Errorf("%w: what was read back is not what was written: %s; check the medium", ckm.ErrMismatch, faults[0])
	}
	if err := os.Remove(w.Out); err != nil && !errors.Is(err, fs.ErrNotExist) { // it was empty
		return err
	}
	return durable.Publish(dir, w.Out)
}

// write writes one file and puts its digests into the manifest.
func (w *writer) write(ctx context.Context, dir string, f *File) error {
	path := filepath.Join(dir, filepath.FromSlash(f.Path))
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	p := w.parts[f.Path]
	if p.index != nil {
		f.SHA256, f.BLAKE3 = hex.EncodeToString(p.index.CKMSHA256[:]), hex.EncodeToString(p.index.CKMBlake3[:])
		return w.fetch(ctx, path, p.index)
	}
	var r io.Reader = bytes.NewReader(p.bytes)
	if p.from != "" {
		from, err := os.Open(p.from)
		if err != nil {
			return err
		}
		defer from.Close()
		r = from
		w.Meter.Begin("copying "+f.Path, f.Size)
	}
	got, err := create(ctx, path, r, w.Meter)
	if err == nil && got.Size != f.Size {
		err = fmt.Errorf("%q changed while it was copied; run the command again", p.from)
	}
	f.SHA256, f.BLAKE3 = got.SHA256, got.BLAKE3
	return err
}

// fetch copies a CKM, each frame checked on the way.
func (w *writer) fetch(ctx context.Context, path string, x *ckm.Index) error {
	fetch := &assemble.Fetcher{Index: x, Sources: []assemble.Source{assemble.RepositorySource(w.Repository, x)}, Meter: w.Meter}
	return fetch.NewCKM(ctx, path)
}

// create writes a new file, brings it to the disk, and returns its size and digests.
func create(ctx context.Context, path string, r io.Reader, meter progress.Meter) (File, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return File{}, err
	}
	got, err := copyHashed(ctx, f, r, meter)
	if err != nil {
		f.Close()
		return File{}, err
	}
	return got, durable.SyncClose(f)
}

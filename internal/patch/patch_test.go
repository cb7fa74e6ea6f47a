package patch_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/guest"
	"prestage/internal/pack"
	"prestage/internal/patch"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// shop is a folder of versions of an image.
type shop struct {
	*repo.Folder
	previous *ckm.Index
}

// add packs the next version.
func (s *shop) add(t *testing.T, image []byte) *ckm.Index {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(path, image, 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	guests, _ := guest.Open(files)
	m, err := fsmap.Read(t.Context(), guests)
	if err != nil {
		t.Fatal(err)
	}
	x, _, err := s.Add(t.Context(), "image", func(w io.Writer) (*ckm.Index, error) {
		return pack.Write(t.Context(), w, files, pack.Options{Previous: s.previous, Map: m, Meter: progress.Discard})
	})
	if err != nil {
		t.Fatal(err)
	}
	s.previous = x
	return x
}

func (s *shop) open(t *testing.T, x *ckm.Index) patch.Package {
	t.Helper()
	data, err := s.Data(t.Context(), x.Name, x.Version)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { data.Close() })
	return patch.Package{Index: x, Data: data}
}

// patch makes the patch of x, based on old.
func (s *shop) patch(ctx context.Context, t *testing.T, x, old *ckm.Index) (made patch.Made, err error) {
	t.Helper()
	err = s.AddPatch(ctx, x.Name, x.Version, func(w io.Writer, scratch *os.File) error {
		made, err = patch.Write(ctx, w, scratch, s.open(t, old), s.open(t, x), progress.Discard)
		return err
	})
	return made, err
}

// unpacked returns a folder with an installed version.
func unpacked(t *testing.T, image []byte) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "disk.img"), image, 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// apply builds version x by the patch and old, installed in dir, and returns the
// bytes of frames that were fetched all the same, and those of the patch. Without
// damage they are as many as were estimated.
func (s *shop) apply(t *testing.T, x, old *ckm.Index, dir string, want []byte, damaged bool) (frames, patched int64) {
	t.Helper()
	seed, err := assemble.OpenPatch(t.Context(), s, x, nil, func(version uint32) (string, *ckm.Index, error) {
		if version != old.Version {
			t.Errorf("the patch is based on version %d", version)
		}
		return dir, old, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer seed.Close()
	f := assemble.Fetcher{Index: x, Sources: []assemble.Source{assemble.RepositorySource(s, x)}, Meter: progress.Discard,
		Seeds: []assemble.Seed{assemble.ImageSeed(dir, old), seed}}
	_, estimate := f.Estimate()
	head := seed.Fetched()
	to := t.TempDir()
	root, err := os.OpenRoot(to)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := f.Image(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(filepath.Join(to, "disk.img")); err != nil || !bytes.Equal(got, want) {
		t.Fatalf("the image is not what it should be; %v", err)
	}
	if !damaged && estimate != f.Fetched[0]+seed.Fetched()-head {
		t.Errorf("%d bytes were estimated, %d and %d fetched", estimate, f.Fetched[0], seed.Fetched()-head)
	}
	return f.Fetched[0], seed.Fetched()
}

func must(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// edited returns a copy of p, of which a byte in every few thousand is another one,
// and that has something more in its middle.
func edited(p []byte) []byte {
	p = slices.Clone(p)
	for i := 0; i < len(p); i += 3001 {
		p[i] ^= 0x55
	}
	return slices.Insert(p, len(p)/2, testenv.Random(77, 1000)...)
}

func newShop(t *testing.T) *shop { return &shop{Folder: repo.NewFolder(t.TempDir())} }

// TestPatch patches images that nothing is known of: what is alike lies in about
// the same place.
func TestPatch(t *testing.T) {
	first := slices.Concat(testenv.Random(1, 6<<20), testenv.Text(2, 3<<20), make([]byte, 2<<20))
	second := slices.Concat(edited(first[:6<<20])[:6<<20], first[6<<20:9<<20], testenv.Random(3, 2<<20))
	s := newShop(t)
	old, x := s.add(t, first), s.add(t, second)
	made, err := s.patch(t.Context(), t, x, old)
	if err != nil {
		t.Fatal(err)
	}
	// All of the first part is new, and hardly anything in it; the last part is new.
	if made.Update < 7<<20 || made.Saved < 5<<20 || made.Bytes > 1<<20 {
		t.Errorf("%+v", made)
	}
	frames, patched := s.apply(t, x, old, unpacked(t, first), second, false)
	if got, want := frames+patched, made.Update-made.Saved; got > want+made.Bytes/2 || patched > 2*made.Bytes {
		t.Errorf("%d and %d bytes were fetched, %d were promised", frames, patched, want)
	}

	// Where its user has changed the installed version, frames are fetched.
	changed := slices.Clone(first)
	changed[3<<20]++
	more, less := s.apply(t, x, old, unpacked(t, changed), second, true)
	if more <= frames || less >= patched {
		t.Errorf("with a changed base, %d and %d bytes were fetched, without %d and %d", more, less, frames, patched)
	}

	check := func(p []byte) error {
		return patch.Check(t.Context(), bytes.NewReader(p), int64(len(p)), s.open(t, old), x)
	}
	if err := check(must(t, s.Path(ckm.PatchName("image", 2)))); err != nil {
		t.Errorf("as a whole: %v", err)
	}

	// A damaged patch costs what is damaged.
	path := s.Path(ckm.PatchName("image", 2))
	p := must(t, path)
	p[len(p)-100]++
	if err := os.WriteFile(path, p, 0o644); err != nil {
		t.Fatal(err)
	}
	if more, _ := s.apply(t, x, old, unpacked(t, first), second, true); more <= frames || more > made.Update-1<<20 {
		t.Errorf("with a damaged patch, %d bytes of frames were fetched, else %d", more, frames)
	}
	// One that is damaged all over is given up.
	all := slices.Clone(p)
	h, err := ckm.ParsePatchHeader(all)
	if err != nil {
		t.Fatal(err)
	}
	for i := h.Size; i < len(all); i++ {
		all[i] ^= 0x55
	}
	if err := os.WriteFile(path, all, 0o644); err != nil {
		t.Fatal(err)
	}
	if more, _ := s.apply(t, x, old, unpacked(t, first), second, true); more < made.Update {
		t.Errorf("with a patch of nothing but damage, %d bytes of frames were fetched, and %d are new", more, made.Update)
	}
	for _, bad := range [][]byte{p, p[:0], p[:50], p[:150], p[:len(p)/2], append(p, 0)} {
		if err := check(bad); !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrMismatch) {
			t.Errorf("%d bytes, damaged: %v", len(bad), err)
		}
	}
	for _, size := range []int{0, 50, 150, len(p) / 2} {
		if err := os.WriteFile(path, p[:size], 0o644); err != nil {
			t.Fatal(err)
		}
		seed, err := assemble.OpenPatch(t.Context(), s, x, nil, func(uint32) (string, *ckm.Index, error) { return unpacked(t, first), old, nil })
		if err == nil {
			seed.Close()
			s.apply(t, x, old, unpacked(t, first), second, true)
		} else if size == len(p)/2 {
			t.Errorf("cut to half, it cannot be opened: %v", err)
		}
	}
}

// TestWorthNothing has versions that have nothing, or all, in common.
func TestWorthNothing(t *testing.T) {
	first := testenv.Random(1, 3<<20)
	s := newShop(t)
	old := s.add(t, first)
	for _, image := range [][]byte{testenv.Random(2, 3<<20), first, nil} {
		x := s.add(t, image)
		if _, err := s.patch(t.Context(), t, x, old); !errors.Is(err, patch.ErrNotWorth) {
			t.Errorf("%v", err)
		}
		if _, err := s.Patch(t.Context(), x.Name, x.Version); !errors.Is(err, repo.ErrNotFound) {
			t.Errorf("there is a patch: %v", err)
		}
	}
	x := s.add(t, edited(first))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.patch(ctx, t, x, old); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	left, err := filepath.Glob(s.Path(".prestage-*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

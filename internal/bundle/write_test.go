package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// options returns what a bundle with the package win11:1, of some MiB, is made of.
func options(t *testing.T) Options {
	t.Helper()
	dir := t.TempDir()
	o := Options{Out: filepath.Join(dir, "stick", "medv"), Client: filepath.Join(dir, "Client.MSI"), Program: filepath.Join(dir, "prestage.exe"),
		Images: []Image{{"win11", 1}}, Medium: AskMedium, Created: time.Unix(1780000000, 0), Creator: "prestage test", Meter: progress.Discard}
	must(t, os.Mkdir(filepath.Dir(o.Out), 0o755))
	must(t, os.WriteFile(o.Client, append([]byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"), testenv.Random(1, 3<<20)...), 0o644))
	must(t, os.WriteFile(o.Program, []byte("MZ program"), 0o644))
	r := repo.NewFolder(filepath.Join(dir, "images"))
	_, _, err := r.Add(t.Context(), "win11", func(w io.Writer) (*ckm.Index, error) {
		raw := testenv.Random(2, 200<<10)
		x := &ckm.Index{Info: ckm.Info{FrameLimit: 256 << 10, Created: 1e9, Files: []ckm.File{{Path: "disk.img", Size: uint64(20 * len(raw)), Format: "raw"}}}}
		cw, err := ckm.NewWriter(w, x)
		if err != nil {
			return nil, err
		}
		for i := range 20 {
			raw[0] = byte(i)
			x.Place(uint32(i), 0, uint64(i*len(raw)))
			if err := cw.WriteFrame(ckm.NewCompressor(ckm.LevelFast).Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{len(raw)}); err != nil {
				return nil, err
			}
		}
		return x, cw.Finish()
	})
	must(t, err)
	o.Repository = r
	o.Settings, err = NewSettings(DefaultVMSFolder, "")
	must(t, err)
	return o
}

// beside returns the names in the folder that the bundle is to appear in.
func beside(t *testing.T, o Options) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(o.Out))
	must(t, err)
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestWrite(t *testing.T) {
	o := options(t)
	m, err := Write(t.Context(), o)
	must(t, err)
	if faults, err := Verify(t.Context(), o.Out, progress.Discard); err != nil || len(faults) > 0 {
		t.Fatalf("a new bundle has faults: %v, %v", faults, err)
	}
	if got := beside(t, o); len(got) != 1 {
		t.Errorf("left beside the bundle: %v", got)
	}
	var size int64
	must(t, filepath.Walk(o.Out, func(path string, st os.FileInfo, err error) error {
		if err == nil && st.Mode().IsRegular() {
			size += st.Size()
		}
		return err
	}))
	if n, err := m.contents(); err != nil || n != size {
		t.Errorf("the bundle has %d bytes and was said to have %d, %v", size, n, err)
	}
	for _, name := range []string{StartName, ReadmeName} {
		b, err := os.ReadFile(filepath.Join(o.Out, name))
		must(t, err)
		if !isASCII(b) || strings.Count(string(b), "\n") != strings.Count(string(b), "\r\n") {
			t.Errorf("%s is not ASCII with the line ends of Windows", name)
		}
	}

	// The boundary, with all that a bundle has, to the byte.
	exact := (size*4 + 2) / 3
	for medium, want := range map[int64]bool{exact: true, exact - 1: false, 0: true} {
		o.Out = filepath.Join(filepath.Dir(o.Out), fmt.Sprint("medium", medium))
		o.Medium = medium
		if _, err := Write(t.Context(), o); (err == nil) != want {
			t.Errorf("%d bytes on a medium of %d: %v", size, medium, err)
		}
		if Is(o.Out) != want {
			t.Errorf("on a medium of %d, there is a bundle: %v", medium, !want)
		}
	}
}

// interrupter is a Meter that ends the work when so many reports have come.
type interrupter struct {
	left   atomic.Int64
	before func()
	cancel context.CancelFunc
}

func (i *interrupter) Begin(string, int64) {}
func (i *interrupter) Warn(string, ...any) {}
func (i *interrupter) Add(int64) {
	if i.left.Add(-1) == 0 {
		i.before()
		i.cancel()
	}
}

// Interrupted at any moment, nothing of the bundle can be seen, and nothing is
// left behind.
func TestInterruptedWriteLeavesNothing(t *testing.T) {
	interrupted := 0
	for moment := 1; ; moment++ {
		o := options(t)
		ctx, cancel := context.WithCancel(t.Context())
		meter := &interrupter{cancel: cancel, before: func() {
			if Is(o.Out) {
				t.Error("a bundle is seen before it is whole")
			}
		}}
		meter.left.Store(int64(moment))
		o.Meter = meter
		_, err := Write(ctx, o)
		cancel()
		if err == nil {
			break
		}
		interrupted++
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted at moment %d: %v", moment, err)
		}
		if got := beside(t, o); len(got) != 0 {
			t.Fatalf("interrupted at moment %d, this is left: %v", moment, got)
		}
	}
	if interrupted < 5 {
		t.Errorf("it was interrupted at %d moments alone", interrupted)
	}
}

// What a killed writer has left goes with the next one; what a living one
// writes stays.
func TestKilledWritersAreSweptUp(t *testing.T) {
	o := options(t)
	killed, _, err := aside(o.Out)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(killed, "half"), nil, 0o644))
	must(t, os.Remove(strings.TrimSuffix(killed, asideSuffix)+markerSuffix)) // held by nobody, it would be removed
	alive, done, err := aside(o.Out)
	must(t, err)
	defer done()
	foreign := filepath.Join(filepath.Dir(o.Out), ".prestage-x.medv.bundle")
	must(t, os.Mkdir(foreign, 0o755))
	_, err = Write(t.Context(), o)
	must(t, err)
	for path, want := range map[string]bool{killed: false, alive: true, foreign: true, o.Out: true} {
		if _, err := os.Lstat(path); (err == nil) != want {
			t.Errorf("%s is there: %v", path, err == nil)
		}
	}
	if !durable.IsTemp(filepath.Base(strings.TrimSuffix(alive, asideSuffix) + markerSuffix)) {
		t.Error("the file that marks a living writer is not one of an unfinished file")
	}
}

// Every damage of every file is found, wherever it lies.
func TestVerifyFindsEveryDamage(t *testing.T) {
	o := options(t)
	_, err := Write(t.Context(), o)
	must(t, err)
	must(t, filepath.Walk(o.Out, func(path string, st os.FileInfo, err error) error {
		if err != nil || st.IsDir() {
			return err
		}
		good, err := os.ReadFile(path)
		must(t, err)
		rel, err := filepath.Rel(o.Out, path)
		must(t, err)
		find := func(what string) {
			t.Helper()
			faults, err := Verify(t.Context(), o.Out, progress.Discard)
			if err != nil || len(faults) != 1 || faults[0].File != filepath.ToSlash(rel) {
				t.Errorf("%s of %s: %v, %v", what, rel, faults, err)
			}
		}
		for _, off := range []int{0, len(good) / 2, len(good) - 1} {
			bad := append([]byte(nil), good...)
			bad[off] ^= 0x20
			must(t, os.WriteFile(path, bad, 0o644))
			find(fmt.Sprint("byte ", off))
		}
		must(t, os.WriteFile(path, good[:len(good)-1], 0o644))
		find("the end")
		must(t, os.WriteFile(path, append(good[:len(good):len(good)], 0), 0o644))
		find("a byte too much")
		if rel != ManifestName {
			must(t, os.Remove(path))
			find("the loss")
		}
		must(t, os.WriteFile(path, good, 0o644))
		return nil
	}))
	if faults, err := Verify(t.Context(), o.Out, progress.Discard); err != nil || len(faults) > 0 {
		t.Errorf("whole again, it has faults: %v, %v", faults, err)
	}
}

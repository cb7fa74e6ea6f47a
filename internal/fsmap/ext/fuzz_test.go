package ext

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// FuzzOpen changes bytes of real volumes: whatever they then say, all extents lie
// inside, what is free ascends, and there is an end to it.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "mkfs.ext4")
	dir := f.TempDir()
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		f.Fatal(err)
	}
	for name, size := range map[string]int{"small": 100, "middle": 5000, "large": 60_000} {
		if err := os.WriteFile(filepath.Join(tree, name), testenv.Random(1, size), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	var images [][]byte
	for i, options := range [][]string{{"-O", "^metadata_csum,^uninit_bg"}, {"-t", "ext2"}, nil} {
		image := filepath.Join(dir, string(rune('a'+i)))
		if err := os.WriteFile(image, make([]byte, 512<<10), 0o644); err != nil {
			f.Fatal(err)
		}
		args := append(append([]string{"-q", "-F", "-b", "1024", "-N", "16", "-d", tree}, options...), image)
		if out, err := exec.Command("mkfs.ext4", args...).CombinedOutput(); err != nil {
			f.Fatalf("%v\n%s", err, out)
		}
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		images = append(images, b)
		f.Add(uint8(i), []byte{})
		f.Add(uint8(i), []byte{0x60, 0x04, 0, 0xff, 0x18, 0x04, 0, 7})
	}
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		b := bytes.Clone(images[int(which)%len(images)])
		for ; len(changes) >= 4; changes = changes[4:] {
			at := (int(changes[0]) | int(changes[1])<<8 | int(changes[2])<<16) % len(b)
			b[at] = changes[3]
		}
		v, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			return
		}
		inside := func(e volume.Extent) {
			if e.Offset < 0 || e.Length <= 0 || e.Length > int64(len(b)) || e.Offset > int64(len(b))-e.Length {
				t.Fatalf("%v lies outside", e)
			}
		}
		total := int64(0)
		v.Files(t.Context(), func(f *volume.File) error {
			for _, e := range f.Extents {
				inside(e)
				total += e.Length
			}
			return nil
		})
		if total > 2*int64(len(b)) {
			t.Fatalf("files of %d bytes in %d", total, len(b))
		}
		last := int64(-1)
		v.Free(t.Context(), func(e volume.Extent) error {
			inside(e)
			if e.Offset <= last {
				t.Fatalf("%v comes after %d", e, last)
			}
			last = e.End()
			return nil
		})
	})
}

package ext

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/testenv"
)

// FuzzOpen changes bytes of real volumes.
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
		fstest.Check(t, fstest.Change(images[int(which)%len(images)], changes), Open)
	})
}

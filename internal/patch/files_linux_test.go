package patch_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/testenv"
)

// TestFiles has versions of files that lie elsewhere in each version of the image,
// under the same name or one of another version.
func TestFiles(t *testing.T) {
	testenv.NeedTime(t)
	testenv.Need(t, "mkfs.ext4", "gzip")
	testenv.NeedRoot(t)
	program := testenv.Random(1, 5<<20)
	tree := func(files map[string][]byte, first string) []byte {
		image := fstest.Make(t, 64<<20, "mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0")
		fstest.Mounted(t, image, func(dir string) {
			write := func(name string) {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, files[name], 0o644); err != nil {
					t.Fatal(err)
				}
			}
			write(first)
			for name := range files {
				write(name)
			}
		})
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	small := func(n int, files map[string][]byte) map[string][]byte {
		for i := range 50 {
			files[fmt.Sprintf("etc/%d.conf", i)] = append(testenv.Random(byte(i), 9000), byte(n))
			// Compressed, it is another file from the first byte on.
			files[fmt.Sprintf("usr/share/doc/%d/changelog.gz", i)] = gzipped(t, fmt.Appendf(nil, "version %d\n%s", n, testenv.Text(byte(i), 70_000)))
		}
		return files
	}
	first := tree(small(1, map[string][]byte{"usr/bin/program": program, "lib/lib.so.1.2.9": testenv.Random(2, 2<<20)}), "usr/bin/program")
	second := tree(small(2, map[string][]byte{"usr/bin/program": edited(program), "lib/lib.so.1.2.10": edited(testenv.Random(2, 2<<20))}), "lib/lib.so.1.2.10")
	s := newShop(t)
	old, x := s.add(t, first), s.add(t, second)
	made, err := s.patch(t.Context(), t, x, old)
	if err != nil {
		t.Fatal(err)
	}
	if made.Update < 8<<20 || made.Update-made.Saved > 200<<10 {
		t.Errorf("%+v: though hardly anything is new", made)
	}
	if frames, patched := s.apply(t, x, old, unpacked(t, first), second, false); frames+patched > 200<<10 {
		t.Errorf("%d and %d bytes were fetched", frames, patched)
	}
	if bytes.Equal(first, second) {
		t.Error("the versions are the same")
	}
}

func gzipped(t *testing.T, p []byte) []byte {
	t.Helper()
	c := exec.Command("gzip", "-9nc")
	c.Stdin = bytes.NewReader(p)
	out, err := c.Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

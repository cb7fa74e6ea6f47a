package assemble

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/progress"
	"prestage/internal/testenv"
)

// TestSharedCopy updates an image on file systems whose files can share bytes:
// what did not change takes no space.
func TestSharedCopy(t *testing.T) {
	testenv.NeedRoot(t)
	for name, mkfs := range map[string][]string{
		"xfs":   {"mkfs.xfs", "-q", "-m", "reflink=1"},
		"btrfs": {"mkfs.btrfs", "-q"},
	} {
		t.Run(name, func(t *testing.T) {
			testenv.Need(t, mkfs[0], "mount", "filefrag")
			work := t.TempDir()
			image, mnt := filepath.Join(work, "image"), filepath.Join(work, "mnt")
			run := func(args ...string) string {
				t.Helper()
				out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
				if err != nil {
					t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			if err := os.WriteFile(image, nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 320<<20); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(mnt, 0o755); err != nil {
				t.Fatal(err)
			}
			run(append(mkfs, image)...)
			run("mount", "-o", "loop", image, mnt)
			defer run("umount", mnt)

			m := makePackage(t, 7)
			old, now := filepath.Join(mnt, "old"), filepath.Join(mnt, "new")
			if err := os.Mkdir(now, 0o755); err != nil {
				t.Fatal(err)
			}
			f := &Fetcher{Index: m.x, Sources: []Source{source(t, "source", m.data)}, Meter: progress.Discard}
			if err := os.Mkdir(old, 0o755); err != nil {
				t.Fatal(err)
			}
			buildAndCheck(t, m, f, old)
			// The user has changed a byte of it and made it longer.
			disk := filepath.Join(old, filepath.FromSlash(m.x.Files[0].Path))
			w, err := os.OpenFile(disk, os.O_WRONLY|os.O_APPEND, 0)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write([]byte("more")); err != nil {
				t.Fatal(err)
			}
			if err := w.Close(); err != nil {
				t.Fatal(err)
			}
			f.CopyFrom = old
			buildAndCheck(t, m, f, now)
			if f.Fetched[0] != 0 {
				t.Errorf("%d bytes were fetched of what was copied", f.Fetched[0])
			}
			run("sync", "-f", mnt)
			for _, file := range m.x.Files {
				if out := run("filefrag", "-v", filepath.Join(now, filepath.FromSlash(file.Path))); !strings.Contains(out, "shared") {
					t.Errorf("%s shares nothing:\n%s", file.Path, out)
				}
			}
		})
	}
}

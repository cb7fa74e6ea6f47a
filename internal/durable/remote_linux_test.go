package durable

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"prestage/internal/testenv"
)

func TestRemote(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "mkntfs", "ntfs-3g", "umount")
	if dir := t.TempDir(); Remote(dir) {
		t.Errorf("%s is said to be on another machine", dir)
	}
	if !Remote(filepath.Join(t.TempDir(), "nowhere")) {
		t.Error("a folder that is not there is said to be here")
	}
	// FUSE may be anything; this is a file system of it that is always there.
	image, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if err := os.WriteFile(image, make([]byte, 4<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	run("mkntfs", "-q", "-F", image)
	run("ntfs-3g", image, dir)
	t.Cleanup(func() { run("umount", dir) })
	if !Remote(dir) {
		t.Error("what is behind FUSE is said to be here")
	}
}

//go:build unix

package localhost

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/acl"
	"prestage/internal/host/hosttest"
	"prestage/internal/settings"
	"prestage/internal/testenv"
)

func TestHost(t *testing.T) {
	hosttest.Run(t, func(t *testing.T) hosttest.Subject {
		return hosttest.Subject{
			Host: New(settings.File(filepath.Join(t.TempDir(), "etc", "prestage.toml"))), Root: t.TempDir(),
			Disturb: func(path string) error { return os.Chmod(path, 0o777) },
			Link:    os.Symlink,
			HoldOpen: func(path string) (func(), error) {
				f, err := os.Open(path)
				return func() { f.Close() }, err
			},
		}
	})
}

// Access control lists come on top of the mode: a folder may look right and
// let somebody write all the same.
func TestAccessControlLists(t *testing.T) {
	testenv.NeedLinux(t)
	testenv.Need(t, "setfacl", "getfacl")
	h := New(settings.File(filepath.Join(t.TempDir(), "c.toml")))
	dir := filepath.Join(t.TempDir(), "folder")
	if err := h.MakeFolder(t.Context(), dir, acl.Prestaged); err != nil {
		t.Fatal(err)
	}
	for _, spec := range []string{"u:nobody:rwx", "d:u:nobody:rwx"} {
		if out, err := exec.Command("setfacl", "-m", spec, dir).CombinedOutput(); err != nil {
			t.Fatalf("setfacl: %v\n%s", err, out)
		}
		dev, err := h.CheckFolder(t.Context(), dir, acl.Prestaged)
		if err != nil || !strings.Contains(strings.Join(dev, "; "), "access control list") {
			t.Errorf("after setfacl %s: %q, %v", spec, dev, err)
		}
	}
	if err := h.MakeFolder(t.Context(), dir, acl.Prestaged); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("getfacl", "-cp", dir).Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := "user::rwx\ngroup::r-x\nother::r-x"; strings.TrimSpace(string(out)) != want {
		t.Errorf("after mending, getfacl shows\n%s", out)
	}
}

func TestForeignOwner(t *testing.T) {
	testenv.NeedRoot(t)
	h := New(settings.File(filepath.Join(t.TempDir(), "c.toml")))
	dir := filepath.Join(t.TempDir(), "folder")
	if err := h.MakeFolder(t.Context(), dir, acl.Images); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(dir, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	dev, err := h.CheckFolder(t.Context(), dir, acl.Images)
	if err != nil || len(dev) != 1 || !strings.Contains(dev[0], "user 65534") {
		t.Errorf("a foreign owner: %q, %v", dev, err)
	}
	if err := h.MakeFolder(t.Context(), dir, acl.Images); err != nil {
		t.Fatal(err)
	}
	if dev, err := h.CheckFolder(t.Context(), dir, acl.Images); err != nil || len(dev) > 0 {
		t.Errorf("after mending: %q, %v", dev, err)
	}
}

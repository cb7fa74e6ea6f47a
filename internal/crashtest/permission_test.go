//go:build linux

package crashtest

import (
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"prestage/internal/testenv"
)

// nobody is an ordinary user that every Debian system has.
var nobody = &syscall.Credential{Uid: 65534, Gid: 65534, Groups: []uint32{65534}}

// TestNoPermission lets an ordinary user try all that is root's.
func TestNoPermission(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t)
	w := newWorld(t)
	image := diskImage(t, 1, small)
	for range 2 {
		w.must("pack", image, "--name", "vm")
	}
	w.must("setup", w.parent)
	w.must("push", "vm:1")
	w.must("install", "vm:1")
	other := filepath.Join(w.dir, "data2")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(w.dir, "secret"), testenv.Random(1, 1000), 0o600); err != nil {
		t.Fatal(err)
	}
	installed := filepath.Join(w.medv, "vm", "1")
	keeps := unchanged(t, w.dir)
	w.user = nobody
	for _, args := range [][]string{
		{"pack", image, "--name", "vm"},
		{"pack", filepath.Join(w.dir, "secret"), "--name", "vm", "--images", filepath.Join(w.dir, "new")},
		{"catalog", w.images},
		{"remove", "vm"},
		{"setup", other, "--config", filepath.Join(w.dir, "other.toml")},
		{"relocate", other},
		{"push", "vm:2"},
		{"remove", "--staged", "vm"},
		{"install", "vm:2"},
		{"install", "vm:1", "--store", filepath.Join(w.dir, "store")},
		{"remove", "--installed", "vm"},
	} {
		w.refused(1, []string{"permission denied", w.dir}, args...)
		keeps()
	}
	// Mending what is whole has nothing to do; what is not, only root may.
	w.user = nil
	newVictim(t, filepath.Join(w.staged, "vm_1.ckm")).damage1(t)
	newVictim(t, filepath.Join(installed, filepath.Base(image))).damage1(t)
	keeps = unchanged(t, w.dir)
	w.user = nobody
	for _, path := range []string{w.staged, installed} {
		if r := w.run("repair", path, "--from", w.images); r.code != 1 || r.err == "" {
			t.Errorf("repair %s: %v", path, r)
		}
		keeps()
	}
	// What everybody may do.
	w.must("list")
	w.refused(3, nil, "verify", "vm") // all its copies, two of them damaged
}

// damage1 changes one byte.
func (v *victim) damage1(t *testing.T) {
	t.Helper()
	f, err := os.OpenFile(v.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{v.good[len(v.good)/2] ^ 1}, int64(len(v.good)/2)); err != nil {
		t.Fatal(err)
	}
}

// TestOrdinaryUser goes through the whole procedure in folders of one's own.
func TestOrdinaryUser(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	image := diskImage(t, 1, small)
	other := filepath.Join(w.dir, "data2")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		for _, dir := range []string{w.dir, w.parent, other, filepath.Dir(w.config)} {
			if err := os.Chown(dir, int(nobody.Uid), int(nobody.Gid)); err != nil {
				t.Fatal(err)
			}
		}
		w.user = nobody
	}
	w.must("pack", image, "--name", "vm")
	w.must("setup", w.parent)
	w.must("push", "vm")
	w.must("status")
	w.must("install", "vm", "--offline")
	w.must("verify", "vm")
	if err := w.checkAll(); err != nil {
		t.Error(err)
	}
	w.must("repair", w.staged, "--from", w.images)
	w.must("relocate", other)
	w.at(other)
	w.must("push", "vm")
	w.must("status")
	w.must("remove", "--installed", "vm")
	w.must("remove", "--staged", "vm")
	w.must("remove", "vm")
	w.finished()
	if err := errors.Join(w.checkAll()); err != nil {
		t.Error(err)
	}
}

// TestStagedForOthers checks that an ordinary user can read what root has
// staged and installed, whatever root's file mode creation mask is.
func TestStagedForOthers(t *testing.T) {
	t.Parallel()
	testenv.NeedRoot(t)
	w := newWorld(t)
	w.umask = "077"
	image := diskImage(t, 1, small)
	w.must("pack", image, "--name", "vm")
	w.must("setup", w.parent)
	w.must("push", "vm")
	w.must("install", "vm")
	w.umask, w.user = "", nobody
	w.must("verify", w.staged)
	w.must("install", "vm", "--offline") // is installed already, and can be seen to be
	w.must("verify", filepath.Join(w.medv, "vm", "1"))
}

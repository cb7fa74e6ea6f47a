//go:build linux

package crashtest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// together runs commands at once, all of which have to succeed.
func (w *world) together(commands ...[]string) {
	w.t.Helper()
	var running []*process
	for _, args := range commands {
		running = append(running, w.start(args...))
	}
	for i, p := range running {
		if r := p.wait(); r.code != 0 {
			w.t.Errorf("%v: %v", commands[i], r)
		}
	}
	w.finished()
	if err := w.checkAll(); err != nil {
		w.t.Error(err)
	}
}

func TestTogetherPack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for round := range 3 {
		var packs [][]string
		for i := range 4 {
			packs = append(packs, []string{"pack", diskImage(t, byte(1+i%2), small), "--name", "vm"})
		}
		w.together(packs...)
		for v := 1; v <= 4*(round+1); v++ {
			if err := w.checkPackage("vm", uint32(v)); err != nil {
				t.Error(err)
			}
		}
		if n, _ := filepath.Glob(filepath.Join(w.images, "vm_*")); len(n) != 8*(round+1) {
			t.Errorf("%d files after %d packs", len(n), 4*(round+1))
		}
	}
}

func TestTogetherPushInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, large), "--name", "vm")
	w.must("setup", w.parent)
	for range 5 {
		push, install := []string{"push", "vm"}, []string{"install", "vm"}
		w.together(push, push, install, install)
		if err := checkInstalled(filepath.Join(w.medv, "vm", "1")); err != nil {
			t.Error(err)
		}
		w.must("status")
		w.must("remove", "--staged", "vm")
		w.must("remove", "--installed", "vm")
	}
}

// TestTogetherRepair repairs one package several times at once, while others
// pack and look.
func TestTogetherRepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := filepath.Join(w.dir, "other")
	image := diskImage(t, 1, large)
	w.must("setup", w.parent)
	w.must("pack", image, "--name", "vm")
	w.must("push", "vm")
	if err := os.CopyFS(other, os.DirFS(w.images)); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		for _, dir := range []string{w.images, w.staged} {
			data := newVictim(t, filepath.Join(dir, "vm_1.ckm"))
			if i%2 == 0 {
				removeAll(t, data.path)
			} else {
				data.damage1(t)
			}
		}
		staged := []string{"repair", w.staged, "--from", other}
		packed := []string{"repair", filepath.Join(w.images, "vm_1.index"), "--from", other}
		name := fmt.Sprintf("other%d", i)
		w.together(staged, packed, staged, packed, []string{"pack", diskImage(t, 2, small), "--name", name}, []string{"list"}, []string{"setup"})
		if err := w.checkPackage("vm", 1); err != nil {
			t.Error(err)
		}
		w.must("status")
	}
}

// TestTogetherSettings changes the settings from several sides.
func TestTogetherSettings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var commands [][]string
	for i := range 6 {
		place := filepath.Join(w.dir, fmt.Sprint("data", i))
		if err := os.Mkdir(place, 0o755); err != nil {
			t.Fatal(err)
		}
		commands = append(commands, []string{"relocate", place})
	}
	for range 3 {
		w.together(commands...)
	}
}

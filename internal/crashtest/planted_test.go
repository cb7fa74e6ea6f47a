//go:build linux

package crashtest

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestPlanted puts something else in the place of what the procedure uses. The
// victim that a link leads to is never changed nor taken for a package.
func TestPlanted(t *testing.T) {
	t.Parallel()
	image := diskImage(t, 1, small)

	places := map[string]func(w *world) []string{
		"MED-V Images":    func(w *world) []string { return []string{w.medv} },
		"PrestagedImages": func(w *world) []string { return []string{w.staged} },
		".prestage":       func(w *world) []string { return []string{filepath.Join(w.staged, ".prestage")} },
		"lock":            func(w *world) []string { return []string{filepath.Join(w.staged, ".prestage", "lock")} },
		"CKM":             func(w *world) []string { return []string{filepath.Join(w.staged, "vm_1.ckm")} },
		"INDEX":           func(w *world) []string { return []string{filepath.Join(w.staged, "vm_1.index")} },
		"CKM and INDEX": func(w *world) []string {
			return []string{filepath.Join(w.staged, "vm_1.ckm"), filepath.Join(w.staged, "vm_1.index")}
		},
		"partial CKM":   func(w *world) []string { return []string{filepath.Join(w.staged, ".prestage", "vm_1.ckm.partial")} },
		"partial INDEX": func(w *world) []string { return []string{filepath.Join(w.staged, ".prestage", "vm_1.index.partial")} },
		"receipt":       func(w *world) []string { return []string{filepath.Join(w.staged, ".prestage", "vm_1.receipt")} },
	}
	things := map[string]func(path, victim string) error{
		"link":     func(path, victim string) error { return os.Symlink(victim, path) },
		"dangling": func(path, _ string) error { return os.Symlink(filepath.Join(filepath.Dir(path), "nowhere"), path) },
		"pipe":     func(path, _ string) error { return syscall.Mkfifo(path, 0o644) },
		"folder":   func(path, _ string) error { return os.MkdirAll(filepath.Join(path, "inside"), 0o755) },
		"file":     func(path, _ string) error { return os.WriteFile(path, []byte("planted"), 0o644) },
	}
	for place, at := range places {
		for thing, plant := range things {
			folder := place == "MED-V Images" || place == "PrestagedImages" || place == ".prestage"
			file := !folder
			if testing.Short() && thing != "link" && thing != "pipe" {
				continue
			}
			if file && thing == "file" || folder && thing == "folder" {
				continue // that is what belongs there
			}
			t.Run(place+" "+thing, func(t *testing.T) {
				w := newWorld(t)
				// The victim is what would be taken for the real thing: another
				// machine's, with a package that was never pushed here.
				away := newWorld(t)
				away.must("pack", diskImage(t, 2, small), "--name", "vm")
				away.must("setup", away.parent)
				away.must("push", "vm")
				w.must("pack", image, "--name", "vm")
				w.must("setup", w.parent)
				w.must("push", "vm")
				if strings.HasPrefix(place, "partial") { // it has to be wanted
					w.must("remove", "--staged", "vm")
				}
				removeAll(t, at(w)...)
				for i, path := range at(w) {
					victim := at(away)[i]
					if !exists(victim) {
						if err := os.WriteFile(victim, []byte("victim"), 0o640); err != nil {
							t.Fatal(err)
						}
					}
					if err := plant(path, victim); err != nil {
						t.Fatal(err)
					}
				}
				keeps := unchanged(t, away.dir)

				st := w.run("status")
				if quiet := place == "lock" || strings.HasPrefix(place, "partial"); st.code != 3 && !quiet {
					t.Errorf("status has nothing to say: %v", st)
				}
				if name := filepath.Base(at(w)[0]); st.code == 3 && place != "receipt" && !strings.Contains(st.out, name) {
					t.Errorf("status does not name %s: %v", name, st)
				}
				keeps()
				for _, args := range [][]string{
					{"install", "vm", "--offline"}, {"verify", "vm"}, {"verify", w.staged}, {"repair", w.staged, "--from", w.images},
					{"setup"}, {"relocate", w.parent}, {"push", "vm"}, {"install", "vm"}, {"remove", "--staged", "vm"}, {"push", "vm"},
				} {
					r := w.run(args...)
					if r.code != 0 && !strings.HasPrefix(r.err, "prestage: ") && !strings.Contains(r.out, "DAMAGED") {
						t.Errorf("%v: %v", args, r)
					}
					if r.code != 0 && args[0] == "push" && !strings.Contains(r.err, w.dir) {
						t.Errorf("push does not say what is in its way: %v", r)
					}
					if args[0] == "verify" && args[1] == w.staged && r.code == 0 && place == "CKM and INDEX" {
						t.Errorf("what was planted is verified: %v", r)
					}
					keeps()
					if installed := filepath.Join(w.medv, "vm", "1"); exists(installed) && place != "MED-V Images" {
						if !exists(filepath.Join(installed, filepath.Base(image))) {
							t.Errorf("%v: what was installed is not what was pushed", args)
						}
						if err := w.checkStore(); err != nil {
							t.Errorf("%v: %v", args, err)
						}
						w.must("remove", "--installed", "vm")
					}
				}
				// With that out of the way, all is well again.
				removeAll(t, at(w)...)
				w.must("setup")
				w.must("push", "vm")
				w.must("status")
				w.must("install", "vm", "--offline")
				if err := w.checkAll(); err != nil {
					t.Error(err)
				}
				keeps()
			})
		}
	}
}

// TestPlantedSource gives commands that read something that is not a file.
func TestPlantedSource(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("setup", w.parent)
	good := filepath.Join(w.dir, "good")
	pipe := filepath.Join(w.dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o644); err != nil {
		t.Fatal(err)
	}
	w.refused(1, []string{pipe}, "pack", pipe, "--name", "vm")
	w.refused(1, []string{"/dev/null"}, "pack", "/dev/null", "--name", "vm")
	for _, file := range []string{"vm_1.ckm", "vm_1.index"} {
		w.must("pack", diskImage(t, 1, small), "--name", "vm")
		path := filepath.Join(w.images, file)
		removeAll(t, good)
		if err := os.CopyFS(good, os.DirFS(w.images)); err != nil {
			t.Fatal(err)
		}
		removeAll(t, path)
		if err := syscall.Mkfifo(path, 0o644); err != nil {
			t.Fatal(err)
		}
		w.must("list")
		for _, args := range [][]string{{"verify", w.images}, {"push", "vm:1"}, {"install", "vm:1"}, {"repair", w.images, "--from", good}} {
			if r := w.run(args...); r.code == 0 || !strings.Contains(r.err, path) {
				t.Errorf("%v: %v", args, r)
			}
		}
		removeAll(t, w.images)
	}
	if err := w.checkAll(); err != nil {
		t.Error(err)
	}
}

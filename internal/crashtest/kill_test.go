//go:build linux

package crashtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/internal/repo"
	"prestage/internal/settings"
)

// siege kills one command at random moments of its run, checks what is left,
// and sees it through now and then.
type siege struct {
	*world
	ready func(*rand.Rand) (args []string) // gives the command new work
	holds func() error                     // after each kill
	done  func() error                     // when the command has succeeded
}

func (s siege) run() {
	t := s.t
	t.Helper()
	rng, times := seeded(t), 100
	if testing.Short() {
		times = 20
	}
	var span time.Duration // that the command takes: the longest of three
	args := s.ready(rng)
	for range 3 {
		span = max(span, s.must(args...).took)
		s.complete(args)
		args = s.ready(rng)
	}
	killed, runs := 0, 0
	for ; killed < times; runs++ {
		if runs == 10*times {
			t.Fatalf("the program ends before it is killed: only %d of %d runs were killed, the moments spread over %v", killed, runs, span)
		}
		moment := time.Duration(rng.Int64N(int64(span)))
		p := s.start(args...)
		time.Sleep(moment)
		wasKilled := p.kill()
		if wasKilled {
			killed++
		} else if r := p.wait(); r.code != 0 {
			t.Fatalf("run %d, not killed: %v", runs, r)
		} else { // how fast it is depends on what else the machine does
			span = (3*span + max(r.took, 5*time.Millisecond)) / 4
		}
		if err := s.holds(); err != nil {
			t.Fatalf("run %d, %s, killed (%v) after %v of %v: %v", runs, strings.Join(args, " "), wasKilled, moment, span, err)
		}
		// Not each time: a kill must also meet what kills have left.
		if !wasKilled || rng.IntN(3) == 0 || killed == times {
			s.must(args...)
			s.complete(args)
			args = s.ready(rng)
		}
	}
	t.Logf("%d of %d runs were killed, at moments spread over %v", killed, runs, span)
}

// complete checks what a run that succeeded has left.
func (s siege) complete(args []string) {
	s.t.Helper()
	s.finished()
	if err := errors.Join(s.holds(), s.done()); err != nil {
		s.t.Fatalf("%s has succeeded, but: %v", strings.Join(args, " "), err)
	}
}

func TestKillPack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sources := []string{diskImage(t, 1, large), diskImage(t, 2, large)}
	latest := func() (all []repo.Entry) {
		if r := w.must("list", "--json"); json.Unmarshal([]byte(r.out), &all) != nil {
			t.Fatal(r)
		}
		return all
	}
	store := filepath.Join(w.dir, "store")
	siege{w,
		func(r *rand.Rand) []string {
			// The numbers of removed versions are never used again either.
			if exists(w.images) {
				for _, e := range latest() {
					if r.IntN(4) > 0 {
						w.must("remove", repo.ImageName(e.Name, e.Version))
					}
				}
			}
			return []string{"pack", sources[r.IntN(2)], "--name", "vm"}
		},
		w.checkImages,
		func() error {
			all := latest()
			w.must("install", repo.ImageName("vm", all[len(all)-1].Version), "--store", store)
			defer removeAll(t, store)
			return checkStore(store)
		},
	}.run()
}

func TestKillPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := filepath.Join(w.dir, "other")
	w.origins = []string{w.images, other}
	w.must("setup", w.parent)
	for i, from := range w.origins {
		w.must("pack", diskImage(t, byte(1+i), large), "--name", "vm", "--images", from)
	}
	from := w.images
	siege{w,
		func(r *rand.Rand) []string {
			// Now the folder is empty, now the other package has that name.
			if r.IntN(2) == 0 {
				w.must("remove", "--staged", "vm")
			}
			from = w.origins[r.IntN(2)]
			return []string{"push", "vm", "--images", from}
		},
		w.checkStaged,
		func() error {
			w.must("status")
			return same(filepath.Join(w.staged, "vm_1.index"), filepath.Join(from, "vm_1.index"))
		},
	}.atFirst("push", "vm").run()
}

func TestKillInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("setup", w.parent)
	w.must("pack", diskImage(t, 1, large), "--name", "vm")
	w.must("push", "vm")
	image := filepath.Join(w.medv, "vm", "1")
	siege{w,
		func(r *rand.Rand) []string {
			w.must("remove", "--installed", "vm")
			args := []string{"install", "vm"}
			if r.IntN(2) == 0 {
				args = append(args, "--offline")
			}
			return args
		},
		func() error { return errors.Join(w.checkStore(), w.checkStaged()) },
		func() error { return checkInstalled(image) },
	}.atFirst("install", "vm").run()
}

// atFirst runs the command once, so that there is something to make ready from.
func (s siege) atFirst(args ...string) siege {
	s.must(args...)
	return s
}

func TestKillRelocate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, large), "--name", "vm")
	places := []string{w.parent, filepath.Join(w.dir, "data2")}
	if err := os.Mkdir(places[1], 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range places {
		w.must("relocate", p)
		w.must("push", "vm")
	}
	target := ""
	here := func() {
		s, err := settings.File(w.config).Load()
		if err != nil {
			t.Fatal(err)
		}
		w.at(filepath.Dir(filepath.Dir(s.PrestagedImagesPath)))
	}
	siege{w,
		func(r *rand.Rand) []string {
			here()
			target = places[0]
			if target == w.parent {
				target = places[1]
			}
			if r.IntN(4) > 0 { // the new place is as people copy things
				staged := filepath.Join(target, "MED-V Images", "PrestagedImages")
				removeAll(t, filepath.Join(staged, ".prestage"))
				for path, mode := range map[string]fs.FileMode{
					filepath.Dir(staged): 0o777, staged: 0o775,
					filepath.Join(staged, "vm_1.ckm"): 0o644, filepath.Join(staged, "vm_1.index"): 0o600,
				} {
					if err := os.Chmod(path, mode); err != nil {
						t.Fatal(err)
					}
				}
			}
			return []string{"relocate", target}
		},
		func() error {
			here() // fails when the settings cannot be read
			return errors.Join(w.checkSettings(), w.checkStaged())
		},
		func() error {
			if here(); w.parent != target {
				return fmt.Errorf("the location is %s and should be %s", w.parent, target)
			}
			w.must("status")
			return nil
		},
	}.run()
}

// victim is a file that is damaged and repaired.
type victim struct {
	path   string
	good   []byte
	before []byte // as it was damaged, nil when it was removed
	aside  bool   // it is built aside when it is missing
}

func newVictim(t *testing.T, path string) *victim {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return &victim{path: path, good: b, before: b}
}

// damage removes, cuts or scribbles over the file.
func (v *victim) damage(t *testing.T, r *rand.Rand) {
	t.Helper()
	st, err := os.Stat(v.path)
	if err != nil {
		t.Fatal(err)
	}
	if r.IntN(6) == 0 {
		v.before = nil
		removeAll(t, v.path)
		return
	}
	b := append([]byte{}, v.good...)
	for range 1 + r.IntN(8) {
		at := 64 + r.IntN(len(b)-64) // what claims to be of a newer format is left alone
		for i := at; i < min(len(b), at+1+r.IntN(100_000)); i++ {
			b[i] ^= 0x55
		}
	}
	if r.IntN(4) == 0 {
		b = b[:r.IntN(len(b))]
	}
	v.before = b
	if os.Chmod(v.path, 0o600) != nil || os.WriteFile(v.path, b, 0o600) != nil || os.Chmod(v.path, st.Mode().Perm()) != nil {
		t.Fatalf("damaging %s", v.path)
	}
}

// check checks that every byte is right or as wrong as it was, and none that
// was right has changed.
func (v *victim) check() error {
	b, err := os.ReadFile(v.path)
	if errors.Is(err, fs.ErrNotExist) && v.before == nil {
		return nil
	}
	if err != nil {
		return err
	}
	if n := len(b); n != len(v.good) && n != len(v.before) || v.before == nil && v.aside && n != len(v.good) {
		return fmt.Errorf("%s has %d bytes, not the %d it had nor the %d it should have", v.path, n, len(v.before), len(v.good))
	}
	for i, c := range b {
		was := byte(0) // behind the end
		if i < len(v.before) {
			was = v.before[i]
		}
		if good := i < len(v.good) && c == v.good[i]; !good && (c != was || v.before == nil && v.aside) {
			return fmt.Errorf("%s: byte %d is newly damaged", v.path, i)
		}
	}
	return nil
}

// whole checks that the file is what it was at first.
func (v *victim) whole() error {
	v.before = v.good
	return v.check()
}

func TestKillRepairStaged(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("setup", w.parent)
	w.must("pack", diskImage(t, 1, large), "--name", "vm")
	w.must("push", "vm")
	data, index := newVictim(t, filepath.Join(w.staged, "vm_1.ckm")), newVictim(t, filepath.Join(w.staged, "vm_1.index"))
	data.aside, index.aside = true, true
	siege{w,
		func(r *rand.Rand) []string {
			data.damage(t, r)
			if data.before != nil && r.IntN(3) == 0 { // without both there is no package
				index.damage(t, r)
			}
			return []string{"repair", w.staged, "--from", w.images}
		},
		func() error {
			// A damaged package is not what was pushed; its INDEX is sealed all
			// the same, and the CKM is open for the repair.
			var errs []error
			if exists(index.path) {
				errs = append(errs, w.checkMode(index.path, 0o444))
			}
			return errors.Join(append(errs, data.check(), index.check())...)
		},
		func() error {
			w.must("status")
			return errors.Join(data.whole(), index.whole(), w.checkStaged())
		},
	}.run()
}

func TestKillRepairInstalled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("setup", w.parent)
	w.must("pack", diskImage(t, 1, large), "--name", "vm")
	w.must("push", "vm")
	w.must("install", "vm")
	dir := filepath.Join(w.medv, "vm", "1")
	data, index := newVictim(t, filepath.Join(dir, filepath.Base(diskImage(t, 1, large)))), newVictim(t, dir+".index")
	siege{w,
		func(r *rand.Rand) []string {
			data.damage(t, r)
			if r.IntN(3) == 0 {
				if index.damage(t, r); index.before == nil { // then it is not installed
					index.before = index.good
					if err := os.WriteFile(index.path, index.good, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			return []string{"repair", dir, "--from", w.images}
		},
		func() error { return errors.Join(data.check(), index.check()) },
		func() error { return errors.Join(data.whole(), index.whole(), checkInstalled(dir)) },
	}.run()
}

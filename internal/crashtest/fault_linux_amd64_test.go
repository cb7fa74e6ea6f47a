package crashtest

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// faults makes every system call of a command on a file fail, or be the last
// one, each in a run of its own.
type faults struct {
	*world
	args  []string
	reset func()       // brings the world back to where the command has all to do
	holds func() error // whatever happens
	done  func() error // when the command has succeeded
}

// fates are what befalls each kind of system call.
var fates = map[string][]fate{
	"write":     {{errno: syscall.ENOSPC}, {errno: syscall.EIO}},
	"read":      {{errno: syscall.EIO}},
	"fsync":     {{errno: syscall.EIO}, {errno: syscall.ENOSPC}, {errno: syscall.EIO, done: true}, {kill: true}, {kill: true, done: true}},
	"ftruncate": {{errno: syscall.ENOSPC}, {errno: syscall.EIO}},
	"chmod":     {{errno: syscall.EIO}, {errno: syscall.EPERM}, {kill: true, done: true}},
	"mkdir":     {{errno: syscall.ENOSPC}, {errno: syscall.EIO, done: true}, {kill: true, done: true}},
	"unlink":    {{errno: syscall.EIO}, {kill: true}},
	"create":    {{errno: syscall.ENOSPC}, {errno: syscall.EIO, done: true}, {kill: true, done: true}},
	"rename":    {{errno: syscall.ENOSPC}, {errno: syscall.EIO, done: true}, {errno: syscall.EIO}, {kill: true}, {kill: true, done: true}},
	"link":      {{errno: syscall.EIO}, {kill: true, done: true}},
}

// run makes each event fail. Of many of one kind it takes the first, the last
// and some between.
func (f faults) run() {
	t := f.t
	t.Helper()
	f.reset()
	r, events := f.trace(func(event) fate { return fate{} }, f.args...)
	if r.code != 0 {
		t.Fatalf("%v without any fault: %v", f.args, r)
	}
	f.complete("without any fault")
	counts := map[string]int{}
	for _, e := range events {
		counts[e.name]++
	}
	t.Logf("%v: %v", f.args, counts)
	most := 8
	if testing.Short() {
		most = 2
	}
	runs := 0
	for _, kind := range sortedKeys(counts) {
		for i, k := range sample(counts[kind], most) {
			list := fates[kind]
			if testing.Short() && len(list) > 2 {
				list = []fate{list[i%len(list)], list[len(list)-1]}
			}
			for j, fate := range list {
				if kind == "write" && k > 0 && k < counts[kind]-1 && i%2 != j {
					continue // one error is enough in the middle
				}
				f.once(kind, k, fate)
				runs++
			}
		}
	}
	t.Logf("%d faults", runs)
}

// sample returns at most n of 0 … count-1, the first and the last among them.
func sample(count, n int) (list []int) {
	if count <= n {
		for i := range count {
			list = append(list, i)
		}
		return list
	}
	for i := range n {
		list = append(list, i*(count-1)/(n-1))
	}
	return list
}

func sortedKeys(m map[string]int) (keys []string) {
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// once lets the k-th event of a kind meet its fate.
func (f faults) once(kind string, k int, meets fate) {
	t := f.t
	t.Helper()
	f.reset()
	var hit *event
	n := 0
	r, _ := f.trace(func(e event) (none fate) {
		if e.name != kind {
			return none
		}
		if n++; n-1 != k {
			return none
		}
		hit = &e
		return meets
	}, f.args...)
	what := fmt.Sprintf("%v, %s %d", f.args, kind, k)
	if hit != nil {
		what = fmt.Sprintf("%v, %v: %v", f.args, *hit, meets)
	}
	switch {
	case hit == nil:
		if r.code != 0 {
			t.Errorf("%s, which did not happen: %v", what, r)
		}
	case meets.kill:
		if r.code != -1 {
			t.Errorf("%s: it was not killed: %v", what, r)
		}
	case r.code == 0:
		// What failed need not have mattered: the program cleans up as far as it
		// can, a folder may be there already, bytes may come from elsewhere. But
		// what it says it has done must be so.
		noted := strings.Contains(r.err, "warning: ") && strings.Contains(r.err, meets.errno.Error())
		if !meets.done && !noted && slices.Contains([]string{"write", "fsync", "ftruncate", "rename", "chmod"}, kind) {
			t.Errorf("%s: it says that it succeeded: %v", what, r)
		}
		f.complete(what)
	default:
		f.clear(what, meets, r)
	}
	if err := f.holds(); err != nil {
		t.Errorf("%s: %v\n%v", what, err, r)
	}
	f.must(f.args...)
	f.complete("again after " + what)
}

// clear checks that an error says what has failed, and why.
func (f faults) clear(what string, meets fate, r result) {
	f.t.Helper()
	reason := map[syscall.Errno]string{syscall.ENOSPC: "no space left", syscall.EIO: "input/output error", syscall.EPERM: "operation not permitted"}[meets.errno]
	code := 1
	if r.code != 1 && strings.Contains(what, "read ") { // what cannot be read is damaged, or not found
		code = r.code
	}
	r.check(f.t, code, []string{f.dir, reason}, what)
	if lines := strings.Count(strings.TrimSpace(r.err), "\n"); lines > 2 {
		f.t.Errorf("%s: an error in %d lines: %v", what, lines+1, r)
	}
}

func (f faults) complete(what string) {
	f.t.Helper()
	if list := f.leftovers(); len(list) > 0 {
		f.t.Errorf("%s: unfinished files are left: %v", what, list)
	}
	if err := errors.Join(f.holds(), f.done()); err != nil {
		f.t.Errorf("%s: %v", what, err)
	}
}

func TestFaultPack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	faults{w, []string{"pack", diskImage(t, 1, small), "--name", "vm"},
		func() {
			removeAll(t, w.images)
			w.packages = map[string]string{}
		},
		w.checkAll,
		func() error {
			if list, _ := filepath.Glob(filepath.Join(w.images, "vm_*.index")); len(list) == 0 {
				return errors.New("nothing was packed")
			}
			if list, _ := filepath.Glob(filepath.Join(w.images, "vm_*")); len(list)%2 != 0 {
				return fmt.Errorf("half a package is left: %v", list)
			}
			return nil
		},
	}.run()
}

func TestFaultPush(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	w.must("setup", w.parent)
	faults{w, []string{"push", "vm"},
		func() {
			removeAll(t, w.staged)
			w.must("setup")
		},
		w.checkAll,
		func() error { return w.checkOrigin("vm", 1) },
	}.run()
}

// TestFaultPushOver pushes where another package has the name.
func TestFaultPushOver(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	other := filepath.Join(w.dir, "other")
	w.origins = append(w.origins, other)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	w.must("pack", diskImage(t, 2, small), "--name", "vm", "--images", other)
	w.must("setup", w.parent)
	faults{w, []string{"push", "vm"},
		func() {
			removeAll(t, w.medv)
			w.must("push", "vm", "--images", other)
		},
		w.checkAll,
		func() error {
			return same(filepath.Join(w.staged, "vm_1.index"), filepath.Join(w.images, "vm_1.index"))
		},
	}.run()
}

// TestFaultSign signs a package that is there: it is the same one, signed or not.
func TestFaultSign(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	key := filepath.Join(w.dir, "k.key")
	w.must("key", "new", key, "--no-password")
	index := filepath.Join(w.images, "vm_1.index")
	unsigned, err := os.ReadFile(index)
	if err != nil {
		t.Fatal(err)
	}
	faults{w, []string{"sign", "vm", "--key", key},
		func() {
			if err := errors.Join(os.WriteFile(index, unsigned, 0o640), os.Chmod(index, 0o640)); err != nil {
				t.Fatal(err)
			}
			w.must("catalog", w.images)
		},
		w.checkImages,
		func() error {
			b, err := os.ReadFile(index)
			if err == nil && len(b) <= len(unsigned) {
				err = errors.New("it is not signed")
			}
			return errors.Join(err, w.checkMode(index, 0o640))
		},
	}.run()
}

func TestFaultInstall(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	key := filepath.Join(w.dir, "k")
	w.must("key", "new", key+".key", "--no-password")
	w.must("pack", diskImage(t, 1, small), "--name", "vm", "--sign", key+".key")
	w.must("setup", w.parent, "--trusted-key", key+".pub")
	w.must("push", "vm")
	image := filepath.Join(w.medv, "vm")
	faults{w, []string{"install", "vm", "--offline"},
		func() { removeAll(t, image, filepath.Join(w.medv, ".seen-vm")) },
		w.checkAll,
		func() error { return checkInstalled(filepath.Join(image, "1")) },
	}.run()
}

func TestFaultSetup(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	faults{w, []string{"setup", w.parent},
		func() { removeAll(t, w.medv, filepath.Dir(w.config)) },
		w.checkSettings,
		func() error { return errors.Join(w.checkMode(w.medv, 0o755), w.checkMode(w.staged, 0o755)) },
	}.run()
}

func TestFaultRelocate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	old, place := w.parent, filepath.Join(w.dir, "data2")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	w.must("setup", old)
	w.must("push", "vm")
	faults{w, []string{"relocate", place},
		func() {
			removeAll(t, filepath.Join(place, "MED-V Images"))
			w.must("relocate", old)
		},
		w.checkAll,
		func() error { return w.checkMode(filepath.Join(place, "MED-V Images", "PrestagedImages"), 0o755) },
	}.run()
}

// TestFaultRepair mends a package that a repair that was killed has left open.
func TestFaultRepair(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.must("pack", diskImage(t, 1, small), "--name", "vm")
	w.must("setup", w.parent)
	w.must("push", "vm")
	data, index := newVictim(t, filepath.Join(w.staged, "vm_1.ckm")), newVictim(t, filepath.Join(w.staged, "vm_1.index"))
	index.aside = true
	faults{w, []string{"repair", w.staged, "--from", w.images},
		func() {
			data.damage1(t)
			data.before, index.before = append([]byte{}, data.good...), nil
			data.before[len(data.good)/2] ^= 1
			removeAll(t, index.path)
			if err := os.Chmod(data.path, 0o644); err != nil {
				t.Fatal(err)
			}
		},
		func() error {
			sealed := error(nil)
			if exists(index.path) {
				sealed = w.checkMode(index.path, 0o444)
			}
			return errors.Join(sealed, data.check(), index.check(), w.checkImages(), w.checkSettings())
		},
		func() error { return errors.Join(data.whole(), index.whole(), w.checkStaged()) },
	}.run()
}

// TestFaultNoRename goes without the system call that renames and never
// replaces, as some file systems do, and without hard links.
func TestFaultNoRename(t *testing.T) {
	t.Parallel()
	for _, links := range []bool{true, false} {
		w := newWorld(t)
		decide := func(e event) (f fate) {
			if e.name == "rename" && e.noReplace {
				f.errno = syscall.EINVAL
			}
			if e.name == "link" && !links {
				f.errno = syscall.EPERM
			}
			return f
		}
		w.must("setup", w.parent)
		for range 2 {
			if r, _ := w.trace(decide, "pack", diskImage(t, 1, small), "--name", "vm"); r.code != 0 {
				t.Errorf("links %v: %v", links, r)
			}
		}
		if r, _ := w.trace(decide, "install", "vm"); r.code != 0 {
			t.Errorf("links %v: %v", links, r)
		}
		w.finished()
		if err := w.checkAll(); err != nil || !exists(filepath.Join(w.medv, "vm", "2")) {
			t.Errorf("links %v: %v", links, err)
		}
	}
}

// TestSyncOrder checks that no name appears before its bytes are on the disk,
// and that the program ends only when the names are there as well.
func TestSyncOrder(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	place := filepath.Join(w.dir, "data2")
	if err := os.Mkdir(place, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"pack", diskImage(t, 1, small), "--name", "vm"}, {"setup", w.parent}, {"push", "vm"}, {"install", "vm"}, {"relocate", place},
	} {
		r, events := w.trace(func(event) fate { return fate{} }, args...)
		if r.code != 0 {
			t.Fatalf("%v: %v", args, r)
		}
		for _, problem := range unsynced(events) {
			t.Errorf("%v: %s", args, problem)
		}
	}
}

// unsynced returns what is wrong in the order of writing, syncing and renaming.
func unsynced(events []event) (problems []string) {
	dirty := map[string]bool{} // paths with bytes, or names, that are not on the disk
	for _, e := range events {
		switch e.name {
		case "create", "mkdir":
			if e.name == "mkdir" || !strings.Contains(filepath.Base(e.path), "lock") && !strings.HasSuffix(e.path, ".packing") {
				dirty[filepath.Dir(e.path)] = true
			}
			fallthrough
		case "write", "ftruncate":
			if e.name != "mkdir" {
				dirty[e.path] = true
			}
		case "unlink":
			delete(dirty, e.path)
		case "fsync":
			delete(dirty, e.path)
		case "rename":
			for p := range dirty {
				if p == e.path || strings.HasPrefix(p, e.path+"/") {
					problems = append(problems, fmt.Sprintf("%s is not synced before %v", p, e))
				}
			}
			dirty[filepath.Dir(e.to)] = true
		}
	}
	for p := range dirty {
		if strings.HasSuffix(p, ".lock") || strings.HasSuffix(p, ".packing") || filepath.Base(p) == "lock" {
			continue
		}
		problems = append(problems, p+" is not synced at the end")
	}
	slices.Sort(problems)
	return problems
}

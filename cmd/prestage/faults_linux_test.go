package main

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"prestage/internal/fleet"
	"prestage/internal/nettest"
	"prestage/internal/testenv"
)

// fault is what happens to one machine while all of them are worked on.
type fault struct {
	start    []string                      // what it is started with
	prepare  func(t *testing.T, m *victim) // before; it is running already
	settings string                        // in the hosts file
	during   func(t *testing.T, m *victim) // while the command runs
	want     *trouble                      // that is reported, nil if it is done all the same
	mend     func(t *testing.T, m *victim) // before the same command is run again
	mended   string                        // the settings by then, if they are others
}

// victim is a machine that something happens to.
type victim struct {
	*nettest.Machine
	o     *office
	drive string // where the test sees the folder above "MED-V Images"
	start func(t testing.TB, env ...string)
	held  func()

	settings string // in the hosts file, always
}

func (m *victim) staged(elem ...string) string {
	return filepath.Join(append([]string{m.drive, "MED-V Images", "PrestagedImages"}, elem...)...)
}

// partial is the unfinished copy.
func (m *victim) partial() string { return m.staged(".prestage", "win11_1.ckm.partial") }

// middle waits until a part of the package has come.
func (m *victim) middle(t *testing.T) {
	t.Helper()
	until(t, m.Name+" has a part of the package", func() bool {
		st, err := os.Stat(m.partial())
		return err == nil && st.Sys().(*syscall.Stat_t).Blocks*512 > 4<<20
	})
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain: %s", what)
		}
	}
}

// runFaults runs a command on machines, one for each fault and some that none
// happens to, then mends what was broken and runs the same command again. What is
// seen by clients is watched all the time. Add makes a machine.
func runFaults(t *testing.T, o *office, group string, faults map[string]fault, add func(t *testing.T, name string, env ...string) *victim, repos ...string) {
	t.Helper()
	well := []string{"well-1", "well-2", "well-3"}
	names := append(slices.Sorted(maps.Keys(faults)), well...)
	machines := map[string]*victim{}
	folders := map[string]string{}
	for _, name := range names {
		m := add(t, name, faults[name].start...)
		machines[name], folders[name] = m, m.staged()
		if f := faults[name]; f.prepare != nil {
			f.prepare(t, m)
		}
	}
	w := watch(t, folders, append(repos, o.repo)...)
	list := func(file string, settings func(f fault) string) string {
		text := group + "\n"
		for _, name := range names {
			text += fmt.Sprintf("%s address=%s %s %s\n", name, machines[name].Address, machines[name].settings, settings(faults[name]))
		}
		return o.hosts(t, file, text)
	}
	var acts sync.WaitGroup
	for name, f := range faults {
		if f.during != nil {
			acts.Go(func() { f.during(t, machines[name]) })
		}
	}
	args := func(hosts string) []string {
		return []string{"push", "win11", "--images", o.repo, "--parallel", "40", "--limit-each", "4MiB/s", "--hosts", hosts}
	}
	r, _ := o.report(t, 5, args(list("first.txt", func(f fault) string { return f.settings }))...)
	acts.Wait()
	troubles := map[string]trouble{}
	longest, slowest := 0.0, 0.0
	for _, m := range r.Machines {
		switch want := faults[m.Machine].want; {
		case want != nil:
			troubles[m.Machine] = *want
			longest = max(longest, m.Seconds)
		case slices.Contains(well, m.Machine):
			slowest = max(slowest, m.Seconds)
		}
		t.Logf("%s: %s in %.1f s, %d attempts", m.Machine, m.State, m.Seconds, m.Attempts)
	}
	checkTroubles(t, r, troubles)
	// How long a busy machine takes is not the point: none of them waits for ever.
	if longest > 180 || slowest > 180 {
		t.Errorf("machines that are well took %.0f s, broken ones %.0f s", slowest, longest)
	}
	for name, f := range faults {
		if f.mend != nil {
			f.mend(t, machines[name])
		}
	}
	r, _ = o.report(t, 0, args(list("again.txt", func(f fault) string {
		if f.mended != "" {
			return f.mended
		}
		return f.settings
	}))...)
	for _, m := range r.Machines {
		want := fleet.Already
		if f := faults[m.Machine]; f.want != nil {
			want = fleet.Done
		}
		if m.State != want || m.Images[0].Verified == nil {
			t.Errorf("again: %+v, want it to be %s", m, want)
		}
		t.Logf("again: %s: %s in %.1f s, %d bytes", m.Machine, m.State, m.Seconds, m.Images[0].Moved)
		for _, file := range []string{"win11_1.ckm", "win11_1.index"} {
			sameFile(t, filepath.Join(o.repo, file), machines[m.Machine].staged(file))
		}
		if left, _ := filepath.Glob(machines[m.Machine].staged(".prestage", "*.partial")); len(left) > 0 {
			t.Errorf("%s: left behind: %q", m.Machine, left)
		}
	}
	w.end(names...)
}

// The faults that machines of all kinds have.
func commonFaults(o *office) map[string]fault {
	lost := trouble{fleet.Unreachable, "copying", "does not answer", "Switch the machine on"}
	return map[string]fault{
		"off": {
			prepare: func(t *testing.T, m *victim) { m.Halt(t); m.Unplug(t) },
			want:    &trouble{fleet.Unreachable, "connect", "does not answer", "Switch the machine on"},
			mend:    func(t *testing.T, m *victim) { m.Plug(t); m.start(t) },
		},
		"connection": {
			during: func(t *testing.T, m *victim) { m.middle(t); m.Kill(t, m.Holding(t, m.partial())) },
			want:   &lost,
		},
		"server": {
			during: func(t *testing.T, m *victim) { m.middle(t); m.Halt(t) },
			want:   &lost,
			mend:   func(t *testing.T, m *victim) { m.start(t) },
		},
		"link": {
			during: func(t *testing.T, m *victim) { m.middle(t); m.Cut(t) },
			want:   &lost,
			mend:   func(t *testing.T, m *victim) { m.Heal(t) },
		},
		// Shorter than what counts as gone.
		"glitch": {
			during: func(t *testing.T, m *victim) {
				m.middle(t)
				m.Cut(t)
				time.Sleep(3 * time.Second)
				m.Heal(t)
			},
		},
		"full": {
			during: func(t *testing.T, m *victim) {
				m.middle(t)
				hog(t, m.drive)
			},
			want: &trouble{fleet.Failed, "copying", "the disk is full", "Make room on the machine's disk"},
			mend: func(t *testing.T, m *victim) {
				if _, err := os.Stat(m.partial()); !os.IsNotExist(err) {
					t.Errorf("%s: the unfinished copy fills the disk: %v", m.Name, err)
				}
				if err := os.Remove(filepath.Join(m.drive, "hog")); err != nil {
					t.Error(err)
				}
			},
		},
		// As large as the package, and nothing in it is right.
		"garbage": {
			prepare: func(t *testing.T, m *victim) {
				st, err := os.Stat(filepath.Join(o.repo, "win11_1.ckm"))
				if err != nil {
					t.Fatal(err)
				}
				plant(t, m.partial(), testenv.Random(7, int(st.Size())))
			},
		},
		// The right package, with one bit that is wrong, and nothing said about it.
		"bit": {
			prepare: func(t *testing.T, m *victim) {
				b, err := os.ReadFile(filepath.Join(o.repo, "win11_1.ckm"))
				if err != nil {
					t.Fatal(err)
				}
				b[len(b)/2] ^= 1
				plant(t, m.partial(), b)
				plant(t, m.staged("win11_1.ckm"), b)
			},
		},
		"same": {
			during: func(t *testing.T, m *victim) { second(t, m, "win11") },
		},
		"other": {
			during: func(t *testing.T, m *victim) { second(t, m, "office") },
		},
	}
}

// hog fills a disk.
func hog(t *testing.T, dir string) {
	t.Helper()
	f, err := os.Create(filepath.Join(dir, "hog"))
	if err != nil {
		t.Error(err)
		return
	}
	defer f.Close()
	for block := make([]byte, 1<<20); len(block) > 0; {
		n, err := f.Write(block)
		if block = block[:len(block)/2]; err == nil && n > 0 {
			block = block[:cap(block)]
		}
	}
}

// plant puts a file where the folders may not be yet.
func plant(t *testing.T, path string, b []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// second is another administrator who pushes an image to the machine while a
// first one does.
func second(t *testing.T, m *victim, image string) {
	t.Helper()
	m.middle(t)
	text, err := os.ReadFile(filepath.Join(m.o.work, "first.txt"))
	if err != nil {
		t.Error(err)
	}
	r, _ := m.o.report(t, 0, "push", image, "--images", m.o.repo, "--hosts", m.Name, "--inventory", m.o.hosts(t, m.Name+".txt", string(text)))
	if m := r.Machines[0]; len(m.Images) != 1 || m.Images[0].Verified == nil {
		t.Errorf("the second administrator's %s has no receipt: %+v", image, m)
	}
}

package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/testenv"
)

// content writes a package of one frame, another one for each seed.
func content(seed int) func(io.Writer) (*ckm.Index, error) {
	return func(w io.Writer) (*ckm.Index, error) {
		raw := fmt.Appendf(testenv.Random(1, 5000), "%d", seed)
		x := &ckm.Index{Info: ckm.Info{FrameLimit: 256 << 10, Created: 1e9, Files: []ckm.File{{Path: "disk.img", Size: uint64(len(raw)), Format: "raw"}}}}
		cw, err := ckm.NewWriter(w, x)
		if err != nil {
			return nil, err
		}
		x.Place(0, 0, 0)
		if err := cw.WriteFrame(ckm.NewCompressor(ckm.LevelFast).Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{len(raw)}); err != nil {
			return nil, err
		}
		return x, cw.Finish()
	}
}

var seeds atomic.Int64

// add adds a version of an image with content of its own.
func add(t *testing.T, r *Folder, name string) *ckm.Index {
	t.Helper()
	x, _, err := r.Add(t.Context(), name, content(int(seeds.Add(1))))
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// images returns what the folder lists, after checking that each package is
// whole and its own, that the catalog says the same, and that nothing is left
// lying about.
func images(t *testing.T, r *Folder) (names []string) {
	t.Helper()
	list, problems, err := r.Scan(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("problem: %v", p)
	}
	digests := map[string]bool{}
	for _, e := range list {
		image := ImageName(e.Name, e.Version)
		names = append(names, image)
		x, err := ReadIndex(context.Background(), r, e.Name, e.Version)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(r.Path(e.CKM))
		if err != nil {
			t.Fatal(err)
		}
		if ckm.Sum(data) != x.CKMBlake3 {
			t.Errorf("%s has the CKM of another package", image)
		}
		if digests[e.PackageDigest] {
			t.Errorf("%s is there twice", image)
		}
		digests[e.PackageDigest] = true
		if st, err := os.Stat(r.Path(e.CKM)); err != nil || st.Mode().Perm()&0o444 != 0o444 {
			t.Errorf("a web server could not read %s: %v, %v", e.CKM, st.Mode(), err)
		}
	}
	checkTrue(t, r)
	if left := partials(t, r); len(left) > 0 {
		t.Errorf("left over: %v", left)
	}
	return names
}

// checkTrue checks that the catalog says what the folder holds.
func checkTrue(t *testing.T, r *Folder) {
	t.Helper()
	list, err := r.List(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(r.Path(CatalogName))
	if err != nil {
		t.Fatal(err)
	}
	c, err := ParseCatalog(b)
	if err != nil {
		t.Fatal(err)
	}
	if len(list) != len(c.Images) || len(list) > 0 && !reflect.DeepEqual(list, c.Images) {
		t.Errorf("the catalog has %v, the folder %v", c.Images, list)
	}
}

// partials returns the names of unfinished files.
func partials(t *testing.T, r *Folder) (names []string) {
	t.Helper()
	dir, err := os.ReadDir(r.dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range dir {
		if strings.HasSuffix(d.Name(), ".partial") {
			names = append(names, d.Name())
		}
	}
	return names
}

func newTestFolder(t *testing.T) *Folder {
	return NewFolder(filepath.Join(t.TempDir(), "new", "MEDVImages"))
}

func TestFolderVersions(t *testing.T) {
	r := newTestFolder(t)
	if _, err := r.List(t.Context()); !errors.Is(err, ErrNotFound) {
		t.Errorf("a folder that does not exist: %v", err)
	}
	for want, name := range []string{"win", "win", "linux", "win"} {
		x := add(t, r, name)
		if v := []uint32{1, 2, 1, 3}[want]; x.Version != v || x.Name != name {
			t.Errorf("add %d made %s:%d", want, x.Name, x.Version)
		}
	}
	for range 8 {
		add(t, r, "win")
	}
	if got := images(t, r); !slices.Equal(got, strings.Fields("linux:1 win:1 win:2 win:3 win:4 win:5 win:6 win:7 win:8 win:9 win:10 win:11")) {
		t.Errorf("got %v", got)
	}
	for _, c := range []struct {
		name    string
		version uint32
		want    uint32
	}{{"win", 0, 11}, {"win", 3, 3}, {"linux", 0, 1}, {"win", 12, 0}, {"WIN", 0, 0}, {"wi", 0, 0}} {
		e, err := Find(t.Context(), r, c.name, c.version)
		if c.want == 0 && !errors.Is(err, ErrNotFound) || c.want != 0 && (err != nil || e.Version != c.want || e.Name != c.name) {
			t.Errorf("finding %s:%d: %v, %v", c.name, c.version, e, err)
		}
	}
	for _, name := range []string{"", "a b", "../x", "NUL", "a/b", "prestagedimages"} {
		if _, _, err := r.Add(t.Context(), name, content(1)); err == nil {
			t.Errorf("the name %q was taken", name)
		}
	}
}

// A version that was removed is never made again, whatever else is lost.
func TestFolderRemovedVersions(t *testing.T) {
	r := newTestFolder(t)
	for range 3 {
		add(t, r, "win")
	}
	remove := func(version uint32) {
		t.Helper()
		if err := r.Remove(t.Context(), "win", version); err != nil {
			t.Fatal(err)
		}
	}
	remove(3)
	if x := add(t, r, "win"); x.Version != 4 {
		t.Errorf("after removing 3 of 3 came %d", x.Version)
	}
	remove(1)
	remove(2)
	remove(4)
	if got := images(t, r); len(got) != 0 {
		t.Errorf("left: %v", got)
	}
	if err := r.WriteCatalog(t.Context()); err != nil {
		t.Fatal(err)
	}
	if x := add(t, r, "win"); x.Version != 5 {
		t.Errorf("after removing all of 4 came %d", x.Version)
	}
	if err := r.Remove(t.Context(), "win", 4); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	if err := r.Remove(t.Context(), "wni", 5); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed what never was: %v", err)
	}

	// Files that somebody deleted are remembered by the catalog.
	for _, f := range []string{"win_5.ckm", "win_5.index"} {
		if err := os.Remove(r.Path(f)); err != nil {
			t.Fatal(err)
		}
	}
	if x := add(t, r, "win"); x.Version != 6 {
		t.Errorf("after deleting 5 came %d", x.Version)
	}
	// A folder that was copied without its catalog knows what lies there.
	if err := os.Remove(r.Path(CatalogName)); err != nil {
		t.Fatal(err)
	}
	remove(6)
	if x := add(t, r, "win"); x.Version != 7 {
		t.Errorf("after removing 6 without a catalog came %d", x.Version)
	}
	// Half a package has a version too.
	if err := os.WriteFile(r.Path("win_9.ckm"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if x := add(t, r, "win"); x.Version != 10 {
		t.Errorf("beside half a package 9 came %d", x.Version)
	}
	remove(9)
	if got := images(t, r); !slices.Equal(got, []string{"win:7", "win:10"}) {
		t.Errorf("got %v", got)
	}
}

// When there are no more versions, that is known before hours of packing.
func TestFolderLastVersion(t *testing.T) {
	for name, file := range map[string]struct{ name, content string }{
		"a file":      {"win_2147483647.ckm", "x"},
		"the catalog": {CatalogName, `{"format":1,"images":[],"last_versions":{"win":2147483647}}`},
	} {
		t.Run(name, func(t *testing.T) {
			r := NewFolder(t.TempDir())
			if err := os.WriteFile(r.Path(file.name), []byte(file.content), 0o644); err != nil {
				t.Fatal(err)
			}
			packed := false
			_, _, err := r.Add(t.Context(), "win", func(w io.Writer) (*ckm.Index, error) { packed = true; return content(1)(w) })
			if err == nil || packed {
				t.Errorf("packed: %v, error: %v", packed, err)
			}
			if x := add(t, r, "other"); x.Version != 1 {
				t.Errorf("another image got version %d", x.Version)
			}
		})
	}
	// A catalog that is damaged, or wrong on purpose, is as good as none.
	for _, c := range []string{"", "{", `{"format":1,"last_versions":{"win":4294967295}}`, `{"format":7,"last_versions":{"win":5}}`} {
		r := NewFolder(t.TempDir())
		if err := os.WriteFile(r.Path(CatalogName), []byte(c), 0o644); err != nil {
			t.Fatal(err)
		}
		if x := add(t, r, "win"); x.Version != 1 {
			t.Errorf("%q: version %d", c, x.Version)
		}
		images(t, r)
	}
}

// Names that differ in case alone would be one on Windows.
func TestFolderCase(t *testing.T) {
	r := newTestFolder(t)
	add(t, r, "Win")
	for _, name := range []string{"win", "WIN"} {
		packed := false
		_, _, err := r.Add(t.Context(), name, func(w io.Writer) (*ckm.Index, error) { packed = true; return content(1)(w) })
		if err == nil || packed || !strings.Contains(err.Error(), `"Win"`) {
			t.Errorf("%s: packed %v, %v", name, packed, err)
		}
	}
	// Also when the other one appears while this one is packed.
	_, _, err := r.Add(t.Context(), "linux", func(w io.Writer) (*ckm.Index, error) {
		add(t, r, "LINUX")
		return content(2)(w)
	})
	if err == nil || !strings.Contains(err.Error(), `"LINUX"`) {
		t.Error(err)
	}
	if got := images(t, r); !slices.Equal(got, []string{"LINUX:1", "Win:1"}) {
		t.Errorf("got %v", got)
	}
}

// A pack that fails or is interrupted leaves nothing.
func TestFolderFailedAdd(t *testing.T) {
	r := newTestFolder(t)
	add(t, r, "win")
	failure := errors.New("the disk image is on fire")
	if _, _, err := r.Add(t.Context(), "win", func(w io.Writer) (*ckm.Index, error) {
		w.Write(make([]byte, 3<<20))
		return nil, failure
	}); !errors.Is(err, failure) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, _, err := r.Add(ctx, "win", func(w io.Writer) (*ckm.Index, error) { cancel(); return content(7)(w) }); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, _, err := r.Add(t.Context(), "win", func(w io.Writer) (*ckm.Index, error) {
		x, err := content(8)(w)
		x.Files = nil // no INDEX can be made of that
		return x, err
	}); err == nil {
		t.Error("an INDEX that is none was written")
	}
	if got := images(t, r); !slices.Equal(got, []string{"win:1"}) {
		t.Errorf("got %v", got)
	}
	if x := add(t, r, "win"); x.Version != 2 {
		t.Errorf("version %d", x.Version)
	}
}

// countdown ends after its Err was asked so many times.
type countdown struct {
	context.Context
	left *atomic.Int64
}

func (c countdown) Err() error {
	if c.left.Add(-1) < 0 {
		return context.Canceled
	}
	return nil
}

// An interruption at whatever moment leaves the work done or not done, and the
// catalog true.
func TestFolderInterruptedAnywhere(t *testing.T) {
	try := func(n int64) countdown {
		left := new(atomic.Int64)
		left.Store(n)
		return countdown{context.Background(), left}
	}
	for _, act := range []string{"add", "remove"} {
		for n := int64(0); ; n++ {
			r := newTestFolder(t)
			add(t, r, "win")
			add(t, r, "win")
			var err error
			before := images(t, r)
			if act == "add" {
				_, _, err = r.Add(try(n), "win", content(int(seeds.Add(1))))
			} else {
				err = r.Remove(try(n), "win", 1)
			}
			after := images(t, r)
			if done := !slices.Equal(before, after); done != (err == nil) {
				t.Errorf("%s with %d asked: before %v, after %v: %v", act, n, before, after, err)
			}
			if err == nil {
				break
			}
			if n > 100 {
				t.Fatalf("%s never ends: %v", act, err)
			}
		}
	}
}

// Several may add at once, in goroutines and in processes: each gets a version
// of its own.
func TestFolderAddsAtOnce(t *testing.T) {
	r := newTestFolder(t)
	const processes, each = 2, 5
	var g sync.WaitGroup
	for p := range processes {
		g.Go(func() {
			if out, err := helper(t, "add", r.dir, fmt.Sprint(1000*(p+1)), fmt.Sprint(each)).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
	for i := range 5 {
		g.Go(func() {
			if _, _, err := r.Add(t.Context(), "win", content(i)); err != nil {
				t.Error(err)
			}
			// Who looks in meanwhile sees whole packages only.
			list, err := r.List(t.Context())
			if err != nil {
				t.Error(err)
			}
			for _, e := range list {
				if _, err := ReadIndex(t.Context(), r, e.Name, e.Version); err != nil {
					t.Error(err)
				}
			}
		})
	}
	g.Wait()
	var want []string
	for i := range processes*each + 5 {
		want = append(want, fmt.Sprintf("win:%d", i+1))
	}
	if got := images(t, r); !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

// helper runs this test binary as another process.
func helper(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run=^TestHelperProcess$")
	cmd.Env = append(os.Environ(), "PRESTAGE_REPO_HELPER="+strings.Join(args, "\n"))
	return cmd
}

// TestHelperProcess is what other processes of these tests do.
func TestHelperProcess(t *testing.T) {
	args := strings.Split(os.Getenv("PRESTAGE_REPO_HELPER"), "\n")
	if len(args) < 4 {
		return // an ordinary run of the tests
	}
	var seed, n int
	fmt.Sscan(args[2], &seed)
	fmt.Sscan(args[3], &n)
	r := NewFolder(args[1])
	switch args[0] {
	case "add":
		for i := range n {
			if _, _, err := r.Add(t.Context(), "win", content(seed+i)); err != nil {
				t.Fatal(err)
			}
		}
	case "hang":
		r.Add(t.Context(), "win", func(w io.Writer) (*ckm.Index, error) {
			w.Write(make([]byte, 2<<20)) // more than is buffered
			fmt.Println("packing")
			time.Sleep(time.Minute)
			return nil, errors.New("nobody came")
		})
	}
}

// What a pack that is still at work has written is left alone; what one that
// was killed has left goes.
func TestFolderKilledAdd(t *testing.T) {
	r := newTestFolder(t)
	add(t, r, "win")
	cmd := helper(t, "hang", r.dir, "0", "0")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	for line := ""; !strings.Contains(line, "packing"); {
		b := make([]byte, 100)
		n, err := out.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		line += string(b[:n])
	}
	at := partials(t, r)
	if len(at) != 1 {
		t.Fatalf("while one packs there are %v", at)
	}
	if x := add(t, r, "win"); x.Version != 2 {
		t.Errorf("version %d", x.Version)
	}
	if now := partials(t, r); !slices.Equal(now, at) {
		t.Errorf("the file of one who still packs is gone: %v", now)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if x := add(t, r, "win"); x.Version != 3 {
		t.Errorf("version %d", x.Version)
	}
	if got := images(t, r); !slices.Equal(got, []string{"win:1", "win:2", "win:3"}) {
		t.Errorf("got %v", got)
	}
}

// A crash leaves unfinished files. The next Add finishes a package whose CKM
// has its name already, and removes all else.
func TestFolderRecovery(t *testing.T) {
	const index, data = ".prestage-17.new.index.partial", ".prestage-18.new.ckm.partial"
	for _, c := range []struct {
		name  string
		crash func(t *testing.T, r *Folder) // win:1 and win:2 are there
		want  string                        // after another Add
	}{
		{"before anything was renamed", func(t *testing.T, r *Folder) {
			rename(t, r, "win_2.ckm", data)
			rename(t, r, "win_2.index", index)
		}, "win:1 win:3"},
		{"between the renamings", func(t *testing.T, r *Folder) { rename(t, r, "win_2.index", index) }, "win:1 win:2 win:3"},
		{"between the renamings, as a link", func(t *testing.T, r *Folder) {
			rename(t, r, "win_2.index", index)
			if err := os.Link(r.Path("win_2.ckm"), r.Path(data)); err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:2 win:3"},
		{"before the catalog", func(t *testing.T, r *Folder) {
			b := []byte(`{"format":1,"images":[]}`)
			if err := os.WriteFile(r.Path(CatalogName), b, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:2 win:3"},
		{"in the middle of the INDEX", func(t *testing.T, r *Folder) {
			rename(t, r, "win_2.index", index)
			rename(t, r, "win_2.ckm", data)
			if err := os.Truncate(r.Path(index), 100); err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:3"},
		{"and another package has that version", func(t *testing.T, r *Folder) {
			b, err := os.ReadFile(r.Path("win_2.index"))
			if err != nil {
				t.Fatal(err)
			}
			if err := r.Remove(t.Context(), "win", 2); err != nil {
				t.Fatal(err)
			}
			add(t, r, "win")
			rename(t, r, "win_3.index", "win_2.index")
			rename(t, r, "win_3.ckm", "win_2.ckm")
			x, encoded, err := newVersion(r, 2)
			if err != nil || x == nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(r.Path("win_2.index"), encoded, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(r.Path(index), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:2 win:4"},
		{"and the CKM is another package's", func(t *testing.T, r *Folder) {
			rename(t, r, "win_2.index", index)
			b, err := os.ReadFile(r.Path("win_1.ckm"))
			if err == nil {
				err = os.WriteFile(r.Path("win_2.ckm"), b, 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:3 problem: win_2.ckm has no INDEX"},
		{"and the CKM is damaged at its end", func(t *testing.T, r *Folder) {
			rename(t, r, "win_2.index", index)
			if err := os.Truncate(r.Path("win_2.ckm"), 500); err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:3 problem: win_2.ckm has no INDEX"},
		{"of the catalog's writer", func(t *testing.T, r *Folder) {
			if err := os.WriteFile(r.Path(".prestage-19.catalog.json.partial"), []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "win:1 win:2 win:3"},
		{"of other programs", func(t *testing.T, r *Folder) {
			for _, f := range []string{"win_7.ckm.part", ".win_8.index.swp", "notes.txt", ".prestage-notes", "x.partial.txt"} {
				if err := os.WriteFile(r.Path(f), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}, "win:1 win:2 win:3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestFolder(t)
			add(t, r, "win")
			add(t, r, "win")
			c.crash(t, r)
			add(t, r, "win")
			list, problems, err := r.Scan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, e := range list {
				got = append(got, ImageName(e.Name, e.Version))
				if _, err := ReadIndex(t.Context(), r, e.Name, e.Version); err != nil {
					t.Error(err)
				}
			}
			for _, p := range problems {
				text, _, _ := strings.Cut(p.Error(), ":")
				got = append(got, "problem: "+text)
			}
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("got %s, want %s", s, c.want)
			}
			if left := partials(t, r); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
			checkTrue(t, r)
			if c.name == "of other programs" {
				for _, f := range []string{"win_7.ckm.part", "notes.txt", ".prestage-notes", "x.partial.txt"} {
					if _, err := os.Stat(r.Path(f)); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

// newVersion is the INDEX of win:3's content under another version.
func newVersion(r *Folder, version uint32) (*ckm.Index, []byte, error) {
	b, err := os.ReadFile(r.Path(ckm.IndexName("win", version)))
	if err != nil {
		return nil, nil, err
	}
	x, err := ckm.Decode(b)
	if err != nil {
		return nil, nil, err
	}
	x.Version = version
	encoded, err := x.Encode()
	return x, encoded, err
}

func rename(t *testing.T, r *Folder, from, to string) {
	t.Helper()
	if err := os.Rename(r.Path(from), r.Path(to)); err != nil {
		t.Fatal(err)
	}
}

// What is wrong with a package is told, and the others are listed.
func TestFolderProblems(t *testing.T) {
	flip := func(t *testing.T, r *Folder, file string, at int) {
		b, err := os.ReadFile(r.Path(file))
		if err == nil {
			b[at] ^= 1
			err = os.WriteFile(r.Path(file), b, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, r *Folder)
		listed bool
		says   string
	}{
		{"no INDEX", func(t *testing.T, r *Folder) { os.Remove(r.Path("win_1.index")) }, false, "win_1.ckm has no INDEX"},
		{"no CKM", func(t *testing.T, r *Folder) { os.Remove(r.Path("win_1.ckm")) }, false, "win_1.index has no CKM"},
		{"renamed", func(t *testing.T, r *Folder) {
			rename(t, r, "win_1.index", "win_5.index")
			rename(t, r, "win_1.ckm", "win_5.ckm")
		}, false, "it is the INDEX of win:1"},
		{"a short CKM", func(t *testing.T, r *Folder) { os.Truncate(r.Path("win_1.ckm"), 100) }, true, "win_1.ckm has 100 bytes and should have"},
		{"an empty INDEX", func(t *testing.T, r *Folder) { os.Truncate(r.Path("win_1.index"), 0) }, false, "win_1.index"},
		{"a cut head", func(t *testing.T, r *Folder) { os.Truncate(r.Path("win_1.index"), 90) }, false, "win_1.index"},
		{"a damaged head", func(t *testing.T, r *Folder) { flip(t, r, "win_1.index", 70) }, false, "win_1.index"},
		{"a newer version", func(t *testing.T, r *Folder) { flip(t, r, "win_1.index", 9) }, false, "newer"},
		{"a folder for an INDEX", func(t *testing.T, r *Folder) {
			os.Remove(r.Path("win_1.index"))
			os.Mkdir(r.Path("win_1.index"), 0o755)
		}, false, "win_1.index"},
		{"a folder for a CKM", func(t *testing.T, r *Folder) {
			os.Remove(r.Path("win_1.ckm"))
			os.Mkdir(r.Path("win_1.ckm"), 0o755)
		}, false, "win_1.ckm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newTestFolder(t)
			add(t, r, "win")
			add(t, r, "win")
			c.damage(t, r)
			list, problems, err := r.Scan(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(problems) != 1 || !strings.Contains(problems[0].Error(), c.says) {
				t.Errorf("problems: %v", problems)
			}
			if want := map[bool]int{false: 1, true: 2}[c.listed]; len(list) != want || list[want-1].Version != 2 {
				t.Errorf("listed: %v", list)
			}
			if err := r.WriteCatalog(t.Context()); err != nil {
				t.Fatal(err)
			}
			checkTrue(t, r)
		})
	}
}

// A folder is read by ranges as a web server is, see Data.
func TestFolderData(t *testing.T) {
	r := newTestFolder(t)
	add(t, r, "win")
	whole, err := os.ReadFile(r.Path("win_1.ckm"))
	if err != nil {
		t.Fatal(err)
	}
	d, err := r.Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if size, err := d.Size(); size != int64(len(whole)) || err != nil {
		t.Errorf("size %d: %v", size, err)
	}
	if b, err := readRange(d, 10, 100); err != nil || !bytes.Equal(b, whole[10:110]) {
		t.Error(err)
	}
	body, err := d.ReadRange(t.Context(), int64(len(whole))-5, 10)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.ReadFull(body, make([]byte, 10)); n != 5 || !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("%d bytes: %v", n, err)
	}
	for _, err := range []error{
		func() error { _, err := r.Data(t.Context(), "win", 2); return err }(),
		func() error { _, err := r.Index(t.Context(), "win", 2); return err }(),
	} {
		if !errors.Is(err, ErrNotFound) || !errors.Is(err, fs.ErrNotExist) {
			t.Error(err)
		}
	}
}

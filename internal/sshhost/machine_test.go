//go:build linux

package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/acl"
	"prestage/internal/disk"
	"prestage/internal/host"
	"prestage/internal/localhost"
	"prestage/internal/pack"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/settings"
	"prestage/internal/testenv"
)

// Names mean themselves, whatever is in them.
func TestNastyNames(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	dir := t.TempDir()
	ctx := t.Context()
	for i, name := range []string{"a b", "it's", `"`, "-rf", "new\nline", "\n", "$(touch pwned)", "`id`", `back\slash\`, "*", "; exit 7",
		"\xff\xfe not UTF-8 \x81'", "ü", "\t", "~", "#", "!!", "%s%n", "'; exit 1; '"} {
		folder := filepath.Join(dir, fmt.Sprint(i), name)
		must(t, os.Mkdir(filepath.Dir(folder), 0o755))
		must(t, h.MakeFolder(ctx, folder, acl.Images))
		p := filepath.Join(folder, name)
		f, err := h.OpenWrite(ctx, p)
		must(t, err)
		_, err = f.WriteAt([]byte(name), 0)
		must(t, err)
		must(t, f.Sync())
		must(t, f.Close())
		if b, err := os.ReadFile(p); err != nil || string(b) != name {
			t.Errorf("%q holds %q, %v", name, b, err)
		}
		must(t, exec.Command("setfacl", "-m", "u:nobody:rw", p).Run())
		if dev, err := h.CheckSealed(ctx, p, acl.Prestaged); err != nil || !strings.Contains(strings.Join(dev, ";"), "access control list") {
			t.Errorf("%q: %q, %v", name, dev, err)
		}
		must(t, h.Seal(ctx, p, acl.Prestaged))
		if dev, err := h.CheckSealed(ctx, p, acl.Prestaged); err != nil || len(dev) > 0 {
			t.Errorf("%q: %q, %v", name, dev, err)
		}
		if used, err := h.InUse(ctx, p); used || err != nil {
			t.Errorf("%q: in use %v, %v", name, used, err)
		}
		unlock, err := h.Lock(ctx, p+".lock")
		must(t, err)
		unlock()
		here, err := localhost.New(settings.File("unused")).Stat(ctx, p)
		must(t, err)
		if there, err := h.Stat(ctx, p); err != nil || there.Name != here.Name || there.Kind != here.Kind || there.Size != here.Size || !there.Modified.Equal(here.Modified) {
			t.Errorf("%q is %+v here and %+v there, %v", name, here, there, err)
		}
		must(t, h.Rename(ctx, p, p+"2"))
		must(t, h.Remove(ctx, p+"2"))
	}
	for _, p := range []string{"relative", "", "/a\x00b"} {
		if _, err := h.Stat(ctx, p); err == nil || !strings.Contains(err.Error(), "not an absolute path") {
			t.Errorf("%q: %v", p, err)
		}
	}
}

// What a command says, and how it ends, is not mixed up with the next one's.
func TestRun(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	ctx := t.Context()
	for range 2 {
		if out, err := h.run(ctx, `printf '%s' "$1$2"`, "a\n", "b"); out != "a\nb" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		if _, err := h.run(ctx, `echo wrong >&2; exit 3`); err == nil || !strings.Contains(err.Error(), "wrong (exit code 3)") {
			t.Errorf("%v", err)
		}
		if out, err := h.run(ctx, `cat; echo done`); out != "done\n" || err != nil {
			t.Errorf("%q, %v", out, err)
		}
		short, cancel := context.WithTimeout(ctx, 200*time.Millisecond)
		within(t, 3*time.Second, "a command that hangs", func() {
			if _, err := h.run(short, `echo much; sleep 10`); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
		})
		cancel()
		if _, err := h.run(ctx, `yes | head -c 100000`); err == nil || !strings.Contains(err.Error(), "says too much") {
			t.Errorf("%v", err)
		}
	}
}

func TestForeignOwner(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	dir := filepath.Join(t.TempDir(), "folder")
	must(t, h.MakeFolder(t.Context(), dir, acl.Images))
	must(t, os.Chown(dir, 65534, 65534))
	must(t, exec.Command("setfacl", "-m", "d:u:nobody:rwx", dir).Run())
	dev, err := h.CheckFolder(t.Context(), dir, acl.Images)
	if err != nil || len(dev) != 2 || !strings.Contains(dev[0], "user 65534") || !strings.Contains(dev[1], "access control list") {
		t.Errorf("a foreign owner and a list: %q, %v", dev, err)
	}
	must(t, h.MakeFolder(t.Context(), dir, acl.Images))
	local := localhost.New(settings.File("unused"))
	if dev, err := local.CheckFolder(t.Context(), dir, acl.Images); err != nil || len(dev) > 0 {
		t.Errorf("after mending: %q, %v", dev, err)
	}
	st, err := os.Stat(dir)
	must(t, err)
	if sys := st.Sys().(*syscall.Stat_t); sys.Uid != 0 || sys.Gid != 0 || st.Mode().Perm() != 0o755 {
		t.Errorf("the folder is %v of %d:%d", st.Mode(), sys.Uid, sys.Gid)
	}
}

// A file that is mapped is in use, also when nobody has it open any more.
func TestMapped(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	p := s.put(t, "mapped", "content", 0o644)
	f, err := os.Open(p)
	must(t, err)
	m, err := syscall.Mmap(int(f.Fd()), 0, 7, syscall.PROT_READ, syscall.MAP_SHARED)
	must(t, err)
	must(t, f.Close())
	if used, err := h.InUse(t.Context(), p); !used || err != nil {
		t.Errorf("mapped: %v, %v", used, err)
	}
	must(t, syscall.Munmap(m))
	if used, err := h.InUse(t.Context(), p); used || err != nil {
		t.Errorf("not mapped: %v, %v", used, err)
	}
}

func TestSettingsFile(t *testing.T) {
	s := startSSHD(t, 0)
	h := s.dial(t, nil)
	must(t, os.Mkdir(filepath.Join(s.dir, "etc"), 0o755))
	real, link := s.put(t, "real.toml", "# why\nserver = \"x\" # here\n[other]\nk = 1\n", 0o600), h.o.Settings
	must(t, os.Symlink(real, link))
	must(t, h.SaveSettings(t.Context(), settings.Settings{VMSFolder: "/v"}))
	b, err := os.ReadFile(real)
	if want := "# why\nserver = \"x\" # here\nvms_folder = \"/v\"\n[other]\nk = 1\n"; err != nil || string(b) != want {
		t.Errorf("the file holds %q, %v", b, err)
	}
	if st, err := os.Lstat(real); err != nil || st.Mode() != 0o600 {
		t.Errorf("the file is %v, %v", st.Mode(), err)
	}
	if to, err := os.Readlink(link); err != nil || to != real {
		t.Errorf("the link leads to %q, %v", to, err)
	}
	must(t, os.WriteFile(real, []byte("vms_folder = \"v\"\n"), 0o600))
	if _, err := h.Settings(t.Context()); !settings.OnlyBad(err, "VMSFolder") || !strings.Contains(err.Error(), "pc-1") {
		t.Errorf("a relative path: %v", err)
	}
	must(t, os.Remove(real))
	if _, err := h.Settings(t.Context()); err == nil {
		t.Error("a link to nothing was read")
	}
	left, err := filepath.Glob(filepath.Join(s.dir, ".prestage*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
}

// packed returns a folder with a package of an image of some MiB.
func packed(t *testing.T, name string) *repo.Folder {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(image, append(testenv.Text(1, 6<<20), testenv.Random(2, 9<<20)...), 0o644))
	files, err := disk.Open(image)
	must(t, err)
	defer files[0].Close()
	r := repo.NewFolder(t.TempDir())
	_, _, err = r.Add(t.Context(), name, func(w io.Writer) (*ckm.Index, error) {
		return pack.Write(t.Context(), w, files, pack.Options{Meter: progress.Discard})
	})
	must(t, err)
	return r
}

// The whole procedure, by sudo; what came of it is seen by the machine itself.
func TestProcedure(t *testing.T) {
	s := startSSHD(t, 0)
	ctx := t.Context()
	h := s.dial(t, func(o *Options) { o.User = free })
	r := packed(t, "win11")
	_, err := prestage.Setup(ctx, h, s.dir, "")
	must(t, err)
	done, err := prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{})
	must(t, err)
	if done.Receipt == nil || done.Already || done.Moved == 0 {
		t.Errorf("pushed %+v", done)
	}
	local := localhost.New(settings.File(h.o.Settings))
	for name, do := range map[string]func() (*prestage.Status, error){
		"there": func() (*prestage.Status, error) { return prestage.GetStatus(ctx, h) },
		"here":  func() (*prestage.Status, error) { return prestage.GetStatus(ctx, local) },
	} {
		st, err := do()
		must(t, err)
		if !st.OK() || len(st.Packages) != 1 || st.Packages[0].Verified == nil || len(st.Unfinished) != 0 {
			t.Errorf("%s: %+v", name, st)
		}
	}
	if again, err := prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{}); err != nil || !again.Already {
		t.Errorf("pushed again: %+v, %v", again, err)
	}
	staged := filepath.Join(s.dir, "MED-V Images", "PrestagedImages")
	for _, file := range []string{"win11_1.ckm", "win11_1.index"} {
		want, err := os.ReadFile(r.Path(file))
		must(t, err)
		got, err := os.ReadFile(filepath.Join(staged, file))
		st, _ := os.Stat(filepath.Join(staged, file))
		if err != nil || string(got) != string(want) || st.Mode() != 0o444 {
			t.Errorf("%s: %d bytes, %v, %v", file, len(got), st.Mode(), err)
		}
	}
	f, err := os.Open(filepath.Join(staged, "win11_1.ckm"))
	must(t, err)
	if err := prestage.Remove(ctx, h, "win11", 1, false); !errors.Is(err, prestage.ErrInUse) {
		t.Errorf("a file in use was removed: %v", err)
	}
	f.Close()
	must(t, prestage.Remove(ctx, h, "win11", 1, false))
	if st, err := prestage.GetStatus(ctx, h); err != nil || !st.OK() || len(st.Packages) != 0 {
		t.Errorf("after removing: %+v, %v", st, err)
	}
}

// A push that is cut is not seen by clients, and the next one goes on with it.
func TestPushIsCut(t *testing.T) {
	s := startSSHD(t, 0)
	ctx := t.Context()
	n := newNetwork(t, s.address)
	h := s.dial(t, n.through(t, s, 900*time.Millisecond))
	r := packed(t, "win11")
	_, err := prestage.Setup(ctx, h, s.dir, "")
	must(t, err)
	m := &cutter{Meter: progress.Discard, n: n}
	m.after.Store(6 << 20)
	if _, err = prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{Meter: m}); !errors.Is(err, host.ErrUnreachable) {
		t.Fatalf("a push that was cut: %v", err)
	}
	staged := filepath.Join(s.dir, "MED-V Images", "PrestagedImages")
	if seen, err := filepath.Glob(filepath.Join(staged, "win11*")); err != nil || len(seen) > 0 {
		t.Errorf("clients see %q, %v", seen, err)
	}
	done, err := prestage.Push(ctx, s.dial(t, nil), r, "win11", 1, prestage.PushOptions{})
	must(t, err)
	if done.Already || done.Moved == 0 || done.Moved > done.Size-1<<20 {
		t.Errorf("pushed again: %+v", done)
	}
	if st, err := prestage.GetStatus(ctx, s.dial(t, nil)); err != nil || !st.OK() {
		t.Errorf("%+v, %v", st, err)
	}
}

// cutter cuts the network after so many bytes.
type cutter struct {
	progress.Meter
	n     *network
	after atomic.Int64
	once  sync.Once
}

// Add implements progress.Meter.
func (c *cutter) Add(n int64) {
	if c.after.Add(-n) < 0 {
		c.once.Do(func() { close(c.n.cut) })
	}
}

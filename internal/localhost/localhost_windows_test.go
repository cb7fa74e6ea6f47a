package localhost

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/windows"

	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/host/hosttest"
	"prestage/internal/settings"
)

// everyone is a DACL that the procedure never sets.
var everyone = acl.Descriptor{Owner: acl.Administrators, HasDACL: true, Entries: []acl.Entry{{Type: acl.Allow, Mask: acl.FullControl, SID: "S-1-1-0"}}}

// wine reports whether this is not Windows but Wine.
var wine = windows.NewLazySystemDLL("ntdll.dll").NewProc("wine_get_version").Find() == nil

func TestHost(t *testing.T) {
	link, path := os.Symlink, filepath.Join(t.TempDir(), "link")
	err := os.Symlink("x", path)
	if st, statErr := os.Lstat(path); err != nil || statErr != nil || st.Mode()&os.ModeSymlink == 0 {
		link = nil // it takes a privilege; Wine makes links and does not show them
	}
	hosttest.Run(t, func(t *testing.T) hosttest.Subject {
		return hosttest.Subject{
			Host: New(settings.File(filepath.Join(t.TempDir(), "etc", "prestage.toml"))), Root: t.TempDir(),
			Disturb: func(path string) error {
				if err := setSecurity(path, everyone); err != nil {
					return err
				}
				return os.Chmod(path, 0o666)
			},
			Link: link,
			HoldOpen: func(path string) (func(), error) {
				f, err := os.Open(path)
				return func() { f.Close() }, err
			},
			Busy: wine,
		}
	})
}

func TestS7ReadOnlyAttribute(t *testing.T) {
	h, path := New(settings.File("unused")), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Seal(t.Context(), path, acl.Prestaged); err != nil {
		t.Fatal(err)
	}
	attr, err := windows.GetFileAttributes(windows.StringToUTF16Ptr(path))
	if err != nil || attr&windows.FILE_ATTRIBUTE_READONLY == 0 {
		t.Errorf("attributes %#x, %v", attr, err)
	}
	if after, err := os.Stat(path); err != nil || !after.ModTime().Equal(before.ModTime()) {
		t.Errorf("sealing changed the time: %v, %v", after, err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if dev, err := h.CheckSealed(t.Context(), path, acl.Prestaged); err != nil || strings.Join(dev, ";") != "it is not marked read-only" {
		t.Errorf("deviations %q, %v", dev, err)
	}
}

// A reader, as a virus scanner is one, that lets nobody replace the file holds a
// replacement up; when it lets go in time, nobody hears of it.
func TestReplaceWaitsForReaders(t *testing.T) {
	dir := t.TempDir()
	h := New(settings.File("unused"))
	to, from := filepath.Join(dir, "to"), filepath.Join(dir, "from")
	for _, p := range []string{to, from} {
		if err := os.WriteFile(p, []byte(p), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.Open(to)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(300*time.Millisecond, func() { f.Close() })
	if err := h.Rename(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(to); err != nil || string(b) != from {
		t.Errorf("the file holds %q, %v", b, err)
	}
	// For ever is too long, and what to do is said.
	if err := os.WriteFile(from, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if f, err = os.Open(to); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := h.Rename(t.Context(), from, to); err == nil || !strings.Contains(err.Error(), "another program has it open") {
		t.Errorf("renaming over an open file: %v", err)
	}
}

// The spellings of a path lead to the same folder.
func TestSpellingsOfPaths(t *testing.T) {
	dir := t.TempDir()
	h := New(settings.File("unused"))
	long := dir
	for len(long) < 300 {
		long = h.Join(long, strings.Repeat("long", 10))
		if err := h.MakeFolder(t.Context(), long, acl.Images); err != nil {
			t.Fatalf("a path of %d characters: %v", len(long), err)
		}
	}
	for _, spelling := range []string{long, strings.ReplaceAll(long, `\`, "/"), strings.ToUpper(long), `\\?\` + long} {
		if dev, err := h.CheckFolder(t.Context(), spelling, acl.Images); err != nil || len(dev) > 0 {
			t.Errorf("%s: %q, %v", spelling, dev, err)
		}
	}
	f, err := h.OpenWrite(t.Context(), h.Join(long, "file"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := h.Rename(t.Context(), h.Join(long, "file"), h.Join(long, "other")); err != nil {
		t.Fatal(err)
	}
	if err := h.Seal(t.Context(), h.Join(long, "other"), acl.Prestaged); err != nil {
		t.Fatal(err)
	}
}

// A lock that is held over the network is waited for, one that was left is not.
func TestLockedRemotely(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	remote, err := windows.UTF16PtrFromString(path + host.RemoteLock)
	if err != nil {
		t.Fatal(err)
	}
	held, err := windows.CreateFile(remote, windows.GENERIC_READ|windows.GENERIC_WRITE, windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE, nil, windows.CREATE_NEW, 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := New(settings.File(filepath.Join(t.TempDir(), "prestage.toml")))
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := h.Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	windows.CloseHandle(held)
	unlock, err := h.Lock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	unlock()
}

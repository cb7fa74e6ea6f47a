// Package hosttest is the one test suite that every host.Host must pass.
package hosttest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"reflect"
	"testing"
	"time"

	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/settings"
)

// Subject is a host under test.
type Subject struct {
	Host host.Host
	// Root is an empty folder of the host that the test may use.
	Root string
	// Disturb changes a file's or folder's rights behind the host's back, to
	// something that the procedure never sets.
	Disturb func(path string) error
	// Link makes a symbolic link, or is nil where there are none.
	Link func(target, path string) error
	// HoldOpen opens a file as another program would, until release is called.
	HoldOpen func(path string) (release func(), err error)
	// Busy says that a file that is open cannot be replaced, as on Windows
	// before version 10 1809: then renaming fails, and all stays as it was.
	Busy bool
}

// Run runs the suite. New makes a new host for each test.
func Run(t *testing.T, newSubject func(t *testing.T) Subject) {
	for name, test := range map[string]func(*testing.T, Subject){
		"Paths": testPaths, "Settings": testSettings, "Folders": testFolders, "Files": testFiles,
		"Seal": testSeal, "Rename": testRename, "Links": testLinks, "InUse": testInUse, "Lock": testLock, "Space": testSpace,
	} {
		t.Run(name, func(t *testing.T) { test(t, newSubject(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func write(t *testing.T, s Subject, path string, data []byte) {
	t.Helper()
	f, err := s.Host.OpenWrite(t.Context(), path)
	must(t, err)
	must(t, f.Truncate(0))
	_, err = f.WriteAt(data, 0)
	must(t, err)
	must(t, f.Sync())
	must(t, f.Close())
}

func read(t *testing.T, s Subject, path string) []byte {
	t.Helper()
	f, err := s.Host.Open(t.Context(), path)
	must(t, err)
	defer f.Close()
	n, err := f.Size()
	must(t, err)
	p := make([]byte, n)
	if _, err := f.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	return p
}

func testPaths(t *testing.T, s Subject) {
	p := s.Host.Join(s.Root, "a", "b c")
	dir, base := s.Host.Split(p)
	if base != "b c" || dir != s.Host.Join(s.Root, "a") {
		t.Errorf("Split(%q) = %q, %q", p, dir, base)
	}
	if !s.Host.SameName("a", "a") || s.Host.SameName("a", "b") {
		t.Error("SameName does not tell names apart")
	}
	if s.Host.Name() == "" {
		t.Error("the host has no name")
	}
}

func testSettings(t *testing.T, s Subject) {
	ctx := t.Context()
	got, err := s.Host.Settings(ctx)
	must(t, err)
	if !reflect.DeepEqual(got, settings.Settings{}) {
		t.Fatalf("a new host has settings: %+v", got)
	}
	staged := s.Host.Join(s.Root, "MED-V Images", "PrestagedImages")
	must(t, s.Host.SaveSettings(ctx, settings.Settings{PrestagedImagesPath: staged}))
	must(t, s.Host.SaveSettings(ctx, settings.Settings{VMSFolder: s.Root, Server: "https://images.example/MEDVImages/"}))
	got, err = s.Host.Settings(ctx)
	must(t, err)
	if want := (settings.Settings{PrestagedImagesPath: staged, VMSFolder: s.Root, Server: "https://images.example/MEDVImages/"}); !reflect.DeepEqual(got, want) {
		t.Errorf("settings are %+v, want %+v", got, want)
	}
}

func testFolders(t *testing.T, s Subject) {
	ctx := t.Context()
	for name, rights := range map[string]acl.List{"images": acl.Images, "staged": acl.Prestaged} {
		p := s.Host.Join(s.Root, name)
		if _, err := s.Host.CheckFolder(ctx, p, rights); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: checking a folder that is not there: %v", name, err)
		}
		for range 2 { // the second time nothing is to be done
			must(t, s.Host.MakeFolder(ctx, p, rights))
			dev, err := s.Host.CheckFolder(ctx, p, rights)
			must(t, err)
			if len(dev) > 0 {
				t.Errorf("%s: a new folder deviates: %q", name, dev)
			}
		}
		must(t, s.Disturb(p))
		dev, err := s.Host.CheckFolder(ctx, p, rights)
		must(t, err)
		if len(dev) == 0 {
			t.Errorf("%s: other rights were not noticed", name)
		}
		must(t, s.Host.MakeFolder(ctx, p, rights))
		if dev, err = s.Host.CheckFolder(ctx, p, rights); err != nil || len(dev) > 0 {
			t.Errorf("%s: rights were not mended: %q, %v", name, dev, err)
		}
	}
	if err := s.Host.MakeFolder(ctx, s.Host.Join(s.Root, "no", "such"), acl.Images); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("making a folder in a folder that is not there: %v", err)
	}
	file := s.Host.Join(s.Root, "file")
	write(t, s, file, []byte("x"))
	if err := s.Host.MakeFolder(ctx, file, acl.Images); err == nil {
		t.Error("a file was made a folder")
	}
	list, err := s.Host.ReadDir(ctx, s.Root)
	must(t, err)
	kinds := map[string]host.Kind{}
	for _, i := range list {
		kinds[i.Name] = i.Kind
	}
	if len(kinds) != 3 || kinds["images"] != host.KindFolder || kinds["file"] != host.KindFile {
		t.Errorf("the folder lists %v", kinds)
	}
}

func testFiles(t *testing.T, s Subject) {
	ctx := t.Context()
	p := s.Host.Join(s.Root, "data")
	if _, err := s.Host.Open(ctx, p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("opening a file that is not there: %v", err)
	}
	if _, err := s.Host.Stat(ctx, p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("describing a file that is not there: %v", err)
	}
	if err := s.Host.Remove(ctx, p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("removing a file that is not there: %v", err)
	}
	// Out of order, with a gap, as parallel writers do it.
	f, err := s.Host.OpenWrite(ctx, p)
	must(t, err)
	_, err = f.WriteAt([]byte("world"), 10)
	must(t, err)
	_, err = f.WriteAt([]byte("hello"), 0)
	must(t, err)
	got := make([]byte, 15)
	_, err = f.ReadAt(got, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	must(t, f.Truncate(13))
	must(t, f.Sync())
	must(t, f.Close())
	if want := []byte("hello\x00\x00\x00\x00\x00wor"); !bytes.Equal(read(t, s, p), want) || !bytes.Equal(got[:13], want) {
		t.Errorf("the file holds %q, read before %q", read(t, s, p), got)
	}
	st, err := s.Host.Stat(ctx, p)
	must(t, err)
	if st.Size != 13 || st.Kind != host.KindFile || st.Name != "data" || time.Since(st.Modified).Abs() > time.Hour {
		t.Errorf("the file is described as %+v", st)
	}
	// Opening for writing keeps what is there.
	f, err = s.Host.OpenWrite(ctx, p)
	must(t, err)
	_, err = f.WriteAt([]byte("J"), 0)
	must(t, err)
	must(t, f.Close())
	if b := read(t, s, p); len(b) != 13 || b[0] != 'J' || b[1] != 'e' {
		t.Errorf("after writing one byte the file holds %q", b)
	}
	must(t, s.Host.Remove(ctx, p))
	if _, err := s.Host.Stat(ctx, p); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a removed file is still there: %v", err)
	}
}

func testSeal(t *testing.T, s Subject) {
	ctx := t.Context()
	p := s.Host.Join(s.Root, "sealed")
	write(t, s, p, []byte("content"))
	if dev, err := s.Host.CheckSealed(ctx, p, acl.Prestaged); err != nil || len(dev) == 0 {
		t.Errorf("a new file counts as sealed: %q, %v", dev, err)
	}
	must(t, s.Host.Seal(ctx, p, acl.Prestaged))
	if dev, err := s.Host.CheckSealed(ctx, p, acl.Prestaged); err != nil || len(dev) > 0 {
		t.Errorf("a sealed file deviates: %q, %v", dev, err)
	}
	must(t, s.Disturb(p))
	if dev, err := s.Host.CheckSealed(ctx, p, acl.Prestaged); err != nil || len(dev) == 0 {
		t.Errorf("other rights were not noticed: %q, %v", dev, err)
	}
	must(t, s.Host.Seal(ctx, p, acl.Prestaged))
	// Sealed files can still be read, renamed, replaced and removed by us.
	q := s.Host.Join(s.Root, "renamed")
	must(t, s.Host.Rename(ctx, p, q))
	if b := read(t, s, q); string(b) != "content" {
		t.Errorf("a renamed sealed file holds %q", b)
	}
	f, err := s.Host.OpenWrite(ctx, q)
	must(t, err)
	must(t, f.Close())
	must(t, s.Host.Seal(ctx, q, acl.Prestaged))
	must(t, s.Host.Remove(ctx, q))
	if err := s.Host.Seal(ctx, q, acl.Prestaged); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("sealing a file that is not there: %v", err)
	}
	if err := s.Host.Seal(ctx, s.Root, acl.Prestaged); err == nil {
		t.Error("a folder was sealed as a file")
	}
}

func testRename(t *testing.T, s Subject) {
	ctx := t.Context()
	a, b := s.Host.Join(s.Root, "a"), s.Host.Join(s.Root, "b")
	write(t, s, a, []byte("new"))
	write(t, s, b, []byte("old"))
	must(t, s.Host.Seal(ctx, b, acl.Prestaged))
	old, err := s.Host.Open(ctx, b)
	must(t, err)
	if s.Busy {
		if err := s.Host.Rename(ctx, a, b); err == nil {
			t.Error("a file that is open was replaced")
		}
		dev, err := s.Host.CheckSealed(ctx, b, acl.Prestaged)
		if got := read(t, s, b); string(got) != "old" || len(dev) > 0 || err != nil {
			t.Errorf("after a renaming that failed, the file holds %q and deviates: %q, %v", got, dev, err)
		}
		must(t, old.Close())
	} else {
		defer old.Close()
	}
	must(t, s.Host.Rename(ctx, a, b))
	if got := read(t, s, b); string(got) != "new" {
		t.Errorf("after the renaming the file holds %q", got)
	}
	if _, err := s.Host.Stat(ctx, a); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old name is still there: %v", err)
	}
	// Who had opened the old file goes on reading it.
	if !s.Busy {
		p := make([]byte, 3)
		if _, err := old.ReadAt(p, 0); err != nil && !errors.Is(err, io.EOF) || string(p) != "old" {
			t.Errorf("an open file that was replaced reads %q, %v", p, err)
		}
	}
	if err := s.Host.Rename(ctx, a, b); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("renaming a file that is not there: %v", err)
	}
}

func testLinks(t *testing.T, s Subject) {
	if s.Link == nil {
		return
	}
	ctx := t.Context()
	victim, link := s.Host.Join(s.Root, "victim"), s.Host.Join(s.Root, "link")
	write(t, s, victim, []byte("untouched"))
	must(t, s.Link(victim, link))
	if _, err := s.Host.Open(ctx, link); err == nil {
		t.Error("a link was followed to read")
	}
	if f, err := s.Host.OpenWrite(ctx, link); err == nil {
		f.Close()
		t.Error("a link was followed to write")
	}
	if err := s.Host.Seal(ctx, link, acl.Prestaged); err == nil {
		t.Error("a link was sealed")
	}
	if dev, err := s.Host.CheckSealed(ctx, link, acl.Prestaged); err == nil && len(dev) == 0 {
		t.Error("a link counts as sealed")
	}
	if st, err := s.Host.Stat(ctx, link); err != nil || st.Kind != host.KindOther {
		t.Errorf("a link is described as %+v, %v", st, err)
	}
	folder := s.Host.Join(s.Root, "folder")
	must(t, s.Host.MakeFolder(ctx, folder, acl.Images))
	linked := s.Host.Join(s.Root, "linked")
	must(t, s.Link(folder, linked))
	if err := s.Host.MakeFolder(ctx, linked, acl.Prestaged); err == nil {
		t.Error("a link counts as a folder")
	}
	// Renaming replaces the link, not what it leads to; so does removing.
	fresh := s.Host.Join(s.Root, "fresh")
	write(t, s, fresh, []byte("fresh"))
	must(t, s.Host.Rename(ctx, fresh, link))
	if got := read(t, s, link); string(got) != "fresh" {
		t.Errorf("the replaced link reads %q", got)
	}
	must(t, s.Host.Remove(ctx, linked))
	if got := read(t, s, victim); string(got) != "untouched" {
		t.Errorf("what the link led to holds %q", got)
	}
	if _, err := s.Host.Stat(ctx, folder); err != nil {
		t.Errorf("what the link led to: %v", err)
	}
}

func testInUse(t *testing.T, s Subject) {
	ctx := t.Context()
	p := s.Host.Join(s.Root, "used")
	write(t, s, p, []byte("x"))
	check := func(want bool) {
		t.Helper()
		got, err := s.Host.InUse(ctx, p)
		if errors.Is(err, errors.ErrUnsupported) {
			return
		}
		must(t, err)
		if got != want {
			t.Errorf("in use: %v, want %v", got, want)
		}
	}
	check(false)
	release, err := s.HoldOpen(p)
	must(t, err)
	check(true)
	release()
	check(false)
	if _, err := s.Host.InUse(ctx, s.Host.Join(s.Root, "absent")); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a file that is not there: %v", err)
	}
}

func testLock(t *testing.T, s Subject) {
	p := s.Host.Join(s.Root, "lock")
	unlock, err := s.Host.Lock(t.Context(), p)
	must(t, err)
	short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if _, err := s.Host.Lock(short, p); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a lock was taken twice: %v", err)
	}
	got := make(chan error)
	go func() {
		again, err := s.Host.Lock(t.Context(), p)
		if err == nil {
			again()
		}
		got <- err
	}()
	unlock()
	must(t, <-got)
}

func testSpace(t *testing.T, s Subject) {
	n, err := s.Host.FreeSpace(t.Context(), s.Root)
	must(t, err)
	if n < 1<<20 || n > 1<<60 {
		t.Errorf("free space is %d", n)
	}
}

package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/windows"
)

func TestWriteFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, content := range []string{"first", "second, longer", ""} {
		must(t, WriteFile(path, []byte(content), 0o644))
		if b, err := os.ReadFile(path); err != nil || string(b) != content {
			t.Errorf("the file holds %q, %v", b, err)
		}
	}
	// One that is marked read-only is replaced too.
	must(t, os.Chmod(path, 0o444))
	must(t, WriteFile(path, []byte("again"), 0o644))
	if got := names(t, filepath.Dir(path)); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
}

func TestPublishNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b"} {
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o644))
	}
	if err := Publish(filepath.Join(dir, "a"), filepath.Join(dir, "b")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("publishing over a file: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "b")); err != nil || string(b) != "b" {
		t.Errorf("the file holds %q, %v", b, err)
	}
	must(t, Publish(filepath.Join(dir, "a"), filepath.Join(dir, "c")))
}

func TestRemoveTree(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "tree")
	must(t, os.MkdirAll(filepath.Join(dir, "a", "b"), 0o755))
	file := filepath.Join(dir, "a", "b", "file")
	must(t, os.WriteFile(file, nil, 0o644))
	must(t, os.Chmod(file, 0o444))
	must(t, RemoveTree(dir))
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	must(t, RemoveTree(dir)) // nothing is no error
}

// A file that somebody holds for a moment is removed when they let go of it.
func TestRemoveWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, nil, 0o644))
	f, err := os.Open(path)
	must(t, err)
	time.AfterFunc(200*time.Millisecond, func() { f.Close() })
	must(t, Remove(path))
}

func TestOpenSharedLetsRemove(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte("x"), 0o644))
	f, err := OpenShared(path)
	must(t, err)
	defer f.Close()
	if err := os.Remove(path); err != nil {
		t.Errorf("a file that was opened to be shared cannot be removed: %v", err)
	}
	if n, err := f.Read(make([]byte, 1)); n != 1 || err != nil {
		t.Errorf("it cannot be read any more: %d, %v", n, err)
	}
}

func TestLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := Lock(t.Context(), path)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
	defer cancel()
	if _, err := Lock(ctx, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked twice: %v", err)
	}
	unlock()
	unlock, err = Lock(t.Context(), path)
	must(t, err)
	unlock()
}

func TestIsDiskFull(t *testing.T) {
	if !IsDiskFull(fmt.Errorf("writing: %w", &os.PathError{Err: windows.ERROR_DISK_FULL})) || IsDiskFull(fs.ErrPermission) || IsDiskFull(nil) {
		t.Error("a full disk is not told from other errors")
	}
}

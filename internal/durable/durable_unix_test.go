//go:build unix

package durable

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"
)

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"first", "second, longer", ""} {
		must(t, WriteFile(path, []byte(content), 0o640))
		b, err := os.ReadFile(path)
		must(t, err)
		st, err := os.Stat(path)
		must(t, err)
		if string(b) != content || st.Mode() != 0o640 {
			t.Errorf("the file holds %q with mode %v", b, st.Mode())
		}
	}
	if got := names(t, dir); len(got) != 1 {
		t.Errorf("left behind: %v", got)
	}
	// What cannot be replaced leaves nothing behind either.
	must(t, os.MkdirAll(filepath.Join(dir, "folder", "full"), 0o755))
	if err := WriteFile(filepath.Join(dir, "folder"), []byte("x"), 0o644); err == nil {
		t.Error("a folder was replaced by a file")
	}
	if got := names(t, dir); len(got) != 2 {
		t.Errorf("left behind: %v", got)
	}
	if err := WriteFile(filepath.Join(dir, "no", "such"), nil, 0o644); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("writing into a folder that is not there: %v", err)
	}
}

// A reader sees the old file or the new one, never anything in between.
func TestWriteFileIsSeenWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	content := func(i int) string { return fmt.Sprintf("%0100000d", i) }
	must(t, WriteFile(path, []byte(content(0)), 0o644))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			b, err := os.ReadFile(path)
			if err != nil || len(b) != 100000 {
				t.Errorf("a reader saw %d bytes, %v", len(b), err)
				return
			}
		}
	})
	for i := range 50 {
		must(t, WriteFile(path, []byte(content(i)), 0o644))
	}
	close(stop)
	wg.Wait()
}

func TestPublishNeverReplaces(t *testing.T) {
	dir := t.TempDir()
	from, to := filepath.Join(dir, "from"), filepath.Join(dir, "to")
	for name, publish := range map[string]func(from, to string) error{"Publish": Publish, "linkNew": linkNew} {
		must(t, os.WriteFile(from, []byte("new"), 0o644))
		must(t, publish(from, to))
		must(t, os.WriteFile(from, []byte("newer"), 0o644))
		if err := publish(from, to); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s over a file: %v", name, err)
		}
		if b, _ := os.ReadFile(to); string(b) != "new" {
			t.Errorf("%s: the file holds %q", name, b)
		}
		if b, _ := os.ReadFile(from); string(b) != "newer" {
			t.Errorf("%s: what was not published holds %q", name, b)
		}
		must(t, os.Remove(to))
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
	must(t, os.Remove(path))
	must(t, os.Symlink("/etc/passwd", path))
	if _, err := Lock(t.Context(), path); err == nil {
		t.Error("a link was taken for a lock")
	}
}

func TestIsDiskFull(t *testing.T) {
	if !IsDiskFull(fmt.Errorf("writing: %w", &os.PathError{Err: syscall.ENOSPC})) || IsDiskFull(fs.ErrPermission) || IsDiskFull(nil) {
		t.Error("a full disk is not told from other errors")
	}
}

// Package localhost is the host.Host of the machine that prestage runs on.
package localhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"prestage/internal/durable"
	"prestage/internal/host"
	"prestage/internal/settings"
)

// Host is the local machine.
type Host struct{ keeper settings.Keeper }

// New returns the local machine, whose settings are kept by keeper.
func New(keeper settings.Keeper) *Host { return &Host{keeper} }

var _ host.Host = (*Host)(nil)

// Name implements host.Host.
func (h *Host) Name() string { return "this machine" }

// Join implements host.Host.
func (h *Host) Join(elem ...string) string { return filepath.Join(elem...) }

// Split implements host.Host.
func (h *Host) Split(path string) (dir, base string) {
	path = filepath.Clean(path)
	return filepath.Dir(path), filepath.Base(path)
}

// SameName implements host.Host.
func (h *Host) SameName(a, b string) bool { return a == b || foldsCase && strings.EqualFold(a, b) }

// Settings implements host.Host.
func (h *Host) Settings(context.Context) (settings.Settings, error) { return h.keeper.Load() }

// SaveSettings implements host.Host.
func (h *Host) SaveSettings(_ context.Context, s settings.Settings) error {
	return h.keeper.Save(s)
}

// Stat implements host.Host.
func (h *Host) Stat(_ context.Context, path string) (host.Info, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return host.Info{}, err
	}
	return info(st), nil
}

func info(st fs.FileInfo) host.Info {
	i := host.Info{Name: st.Name(), Size: st.Size(), Modified: st.ModTime(), Kind: host.KindOther}
	switch {
	case st.Mode().IsRegular():
		i.Kind = host.KindFile
	case st.IsDir():
		i.Kind = host.KindFolder
	}
	return i
}

// ReadDir implements host.Host.
func (h *Host) ReadDir(_ context.Context, path string) ([]host.Info, error) {
	if st, err := os.Lstat(path); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%q is not a folder", path)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var list []host.Info
	for _, e := range entries {
		if st, err := e.Info(); err == nil { // else it has just been removed
			list = append(list, info(st))
		}
	}
	return list, nil
}

// Open implements host.Host.
func (h *Host) Open(_ context.Context, path string) (host.File, error) {
	return open(path, os.O_RDONLY)
}

// OpenWrite implements host.Host. What was sealed is unsealed first, which
// status shows until it is sealed again.
func (h *Host) OpenWrite(_ context.Context, path string) (host.File, error) {
	if st, err := os.Lstat(path); err == nil && st.Mode().IsRegular() && st.Mode().Perm()&0o200 == 0 {
		if err := os.Chmod(path, st.Mode().Perm()|0o200); err != nil {
			return nil, explain(err)
		}
	}
	f, err := open(path, os.O_RDWR|os.O_CREATE)
	return f, explain(err)
}

func describe(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a file"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return otherKind
}

// lookFor describes what is at a path, which must be a folder, or else a file.
func lookFor(path string, folder bool) (fs.FileInfo, error) {
	st, err := os.Lstat(path)
	switch {
	case err != nil:
		return nil, err
	case folder && !st.IsDir():
		return nil, fmt.Errorf("%q is not a folder but %s; move it away", path, describe(st.Mode()))
	case !folder && !st.Mode().IsRegular():
		return nil, fmt.Errorf("%q is not a file but %s", path, describe(st.Mode()))
	}
	return st, nil
}

// explain adds what to do to an error of a user who may not do something.
func explain(err error) error {
	if errors.Is(err, fs.ErrPermission) && !privileged() {
		return fmt.Errorf("%w; %s", err, becomePrivileged)
	}
	return err
}

func open(path string, flags int) (host.File, error) {
	f, err := openNoFollow(path, flags)
	if err != nil {
		return nil, err
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		f.Close()
		return nil, fmt.Errorf("%q is not a regular file", path)
	}
	return &file{f, durable.NewFlusher(f), flags&os.O_RDWR != 0}, nil
}

type file struct {
	*os.File
	flusher *durable.Flusher
	writes  bool
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.File.WriteAt(p, off)
	f.flusher.Wrote(n)
	return n, err
}

func (f *file) Close() error {
	f.flusher.Close()
	return f.File.Close()
}

func (f *file) Size() (int64, error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func (f *file) Sync() error {
	if err := syncFile(f); err != nil {
		return err
	}
	return dropCache(f)
}

// Rename implements host.Host.
func (h *Host) Rename(_ context.Context, from, to string) error {
	return explain(durable.Replace(from, to))
}

// Remove implements host.Host.
func (h *Host) Remove(_ context.Context, path string) error { return explain(durable.Remove(path)) }

// FreeSpace implements host.Host.
func (h *Host) FreeSpace(_ context.Context, folder string) (int64, error) {
	return durable.FreeSpace(folder)
}

// Lock implements host.Host. Who reaches this machine over the network holds a
// file of their own.
func (h *Host) Lock(ctx context.Context, path string) (unlock func(), err error) {
	for {
		unlock, err = durable.Lock(ctx, path)
		if err != nil || !isLockedRemotely(path+host.RemoteLock) {
			return unlock, explain(err)
		}
		unlock()
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("locking %q: somebody stages on this machine over the network: %w", path, ctx.Err())
		case <-time.After(durable.LockWait):
		}
	}
}

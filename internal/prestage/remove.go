package prestage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"prestage/ckm"
	"prestage/internal/host"
	"prestage/internal/repo"
)

// ErrInUse says that another program has a file open.
var ErrInUse = errors.New("in use")

// Remove removes a package from the host's pre-stage folder, its INDEX first.
// The error wraps ErrInUse when a client is reading it, unless forced, or
// repo.ErrNotFound.
func Remove(ctx context.Context, h host.Host, name string, version uint32, force bool) error {
	f, err := located(ctx, h)
	if err != nil {
		return err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	index, data := f.file(ckm.IndexName(name, version)), f.file(ckm.DataName(name, version))
	found := false
	for _, path := range []string{index, data} {
		used, err := h.InUse(ctx, path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil && !force {
			return err
		}
		if found = true; used && !force {
			return fmt.Errorf("%s is %w by another program; try again later, or use --force", path, ErrInUse)
		}
	}
	for _, file := range []string{ckm.DataName(name, version), ckm.IndexName(name, version)} {
		if _, err := h.Stat(ctx, f.partial(file)); err == nil {
			found = true // what an interrupted push has left
		}
	}
	if !found {
		return fmt.Errorf("%w: %s in %s", repo.ErrNotFound, repo.ImageName(name, version), f.staged)
	}
	for _, path := range []string{index, data, h.Join(f.aside, receiptName(name, version)),
		f.partial(ckm.DataName(name, version)), f.partial(ckm.IndexName(name, version))} {
		if err := h.Remove(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

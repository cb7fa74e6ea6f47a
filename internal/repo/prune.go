package repo

import (
	"context"
	"errors"
)

// A Removable is a repository that packages can be removed from.
type Removable interface {
	List(ctx context.Context) ([]Entry, error)
	Remove(ctx context.Context, name string, version uint32) error
}

// Prune removes all versions of an image but the latest and keep more, and returns
// those that it has removed.
func Prune(ctx context.Context, r Removable, name string, keep int) (removed []uint32, err error) {
	entries, err := r.List(ctx)
	if err != nil {
		return nil, err
	}
	var versions []uint32 // in ascending order
	for _, e := range entries {
		if e.Name == name {
			versions = append(versions, e.Version)
		}
	}
	for _, v := range versions[:max(0, len(versions)-1-keep)] {
		if err := r.Remove(ctx, name, v); err != nil && !errors.Is(err, ErrNotFound) {
			return removed, err
		}
		removed = append(removed, v)
	}
	return removed, nil
}

package client

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"prestage/internal/assemble"
	"prestage/internal/repo"
)

// Update says which image to bring up to date. Its Prestaged must be nil unless
// a policy allows it: pre-staging is for the first version (MED-V).
type Update struct {
	Install
	// Keep is how many of the versions that were installed before stay.
	Keep int
	// Busy reports whether a version is in use; it is not removed then. Nil: none is.
	Busy func(ctx context.Context, name string, version uint32) (bool, error)
}

// Updated says what an update did, or would do.
type Updated struct {
	Installed
	From    uint32   `json:"from"`              // the latest version that was installed before
	Fetch   int64    `json:"fetch"`             // bytes as stored, without the INDEX
	Index   int64    `json:"index"`             // bytes of the INDEX that are not here
	Removed []uint32 `json:"removed,omitempty"` // versions
	DryRun  bool     `json:"dry_run,omitempty"`
}

// Run brings the image up to date, or to Version. The versions before are
// touched only after the new one is whole. The error wraps repo.ErrNotFound
// when the image is not installed.
func (u *Update) Run(ctx context.Context) (*Updated, error) {
	from, done, err := u.find(ctx)
	if err != nil || done != nil {
		return done, err
	}
	name := repo.ImageName(u.Name, from)
	what := "stay in that version"
	if u.Keep == 0 {
		what = "are lost with it"
	}
	u.Meter.Warn("what was changed in the installed %s is not in %s: changes %s", name, repo.ImageName(u.Name, u.Version), what)
	installed, err := u.Install.install(ctx)
	if err != nil {
		return nil, err
	}
	done = &Updated{Installed: *installed, From: from, Index: installed.index}
	for _, s := range installed.Sources {
		done.Fetch += s.Bytes
	}
	done.Removed, err = u.removeOld(ctx)
	return done, err
}

// Estimate says what Run would do, if what is installed was not changed.
func (u *Update) Estimate(ctx context.Context) (*Updated, error) {
	from, done, err := u.find(ctx)
	if err != nil || done != nil {
		return done, err
	}
	x, _, err := u.findIndex(ctx)
	if err != nil {
		return nil, err
	}
	done = &Updated{From: from, Index: u.indexFetched, DryRun: true}
	done.Installed = Installed{Name: x.Name, Version: x.Version, Dir: u.Store.ImageDir(x.Name, x.Version), Size: x.ImageSize(), Sources: []Supply{}}
	f, close := u.fetcher(ctx, x)
	defer close()
	reused, fetched := f.Estimate()
	for i, n := range reused {
		if p, ok := f.Seeds[i].(*assemble.PatchSeed); ok {
			fetched += p.Fetched() // to know what it holds
		} else if n > 0 {
			done.Reused = append(done.Reused, Supply{f.Seeds[i].String(), n})
		}
	}
	done.Fetch = fetched
	if len(f.Sources) > 0 && fetched > 0 {
		done.Sources = append(done.Sources, Supply{f.Sources[0].Name, fetched})
	}
	for i, v := range u.old(x.Version) {
		if i >= u.Keep {
			done.Removed = append(done.Removed, v)
		}
	}
	return done, nil
}

// find sets Version to the one to update to. If there is nothing to do, it says
// so in done.
func (u *Update) find(ctx context.Context) (from uint32, done *Updated, err error) {
	versions, err := u.Store.Versions(u.Name)
	if err != nil {
		return 0, nil, err
	}
	if len(versions) == 0 {
		return 0, nil, fmt.Errorf("%w: %s is not installed in %s; install it with \"prestage install %s\"", repo.ErrNotFound, u.Name, u.Store, u.Name)
	}
	from = versions[len(versions)-1]
	if u.Version == 0 {
		place, latest, err := u.latest(ctx)
		if err != nil {
			return 0, nil, err
		}
		// If it was withdrawn there, who wants it back names it.
		u.Version = max(latest, from)
		if err := u.notOlder(place, u.Version); err != nil {
			return 0, nil, err
		}
	}
	if already := u.already(versions); already != nil {
		return 0, &Updated{Installed: *already, From: from}, nil
	}
	return from, nil, nil
}

// latest returns the latest version that any place has, and that place.
func (u *Update) latest(ctx context.Context) (place repo.Repository, version uint32, err error) {
	var errs []error
	for _, r := range u.places() {
		e, err := repo.Find(ctx, r, u.Name, 0)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if e.Version > version {
			place, version = r, e.Version
		}
	}
	if version > 0 {
		return place, version, nil
	}
	return nil, 0, errors.Join(errs...)
}

// old returns the versions other than one, the latest first.
func (u *Update) old(version uint32) []uint32 {
	versions, _ := u.Store.Versions(u.Name)
	versions = slices.DeleteFunc(versions, func(v uint32) bool { return v == version })
	slices.Reverse(versions)
	return versions
}

// Tidy removes the versions before Version that Keep does not spare, and returns
// them.
func (u *Update) Tidy(ctx context.Context) ([]uint32, error) { return u.removeOld(ctx) }

// removeOld removes all versions before but those to keep.
func (u *Update) removeOld(ctx context.Context) (removed []uint32, err error) {
	old := u.old(u.Version)
	for _, v := range old[min(u.Keep, len(old)):] {
		if u.Busy != nil {
			busy, err := u.Busy(ctx, u.Name, v)
			if err != nil {
				return removed, err
			}
			if busy {
				u.Meter.Warn("%s is in use and stays; the next update removes it", repo.ImageName(u.Name, v))
				continue
			}
		}
		if err := u.Store.Remove(ctx, u.Name, v); err != nil {
			return removed, err
		}
		removed = append(removed, v)
	}
	return removed, nil
}

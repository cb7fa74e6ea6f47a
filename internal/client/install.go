package client

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/durable"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// Install says what to install, and from where.
type Install struct {
	Name    string
	Version uint32 // 0: the latest of the first place that has the image

	Store     *Store
	Prestaged repo.Repository // the pre-stage folder, or nil
	Images    repo.Repository // asked only when the pre-stage folder does not suffice; nil: offline
	Limit     *rate.Limiter   // of bytes a second, nil for none
	Meter     progress.Meter

	// What is on this machine already need not be fetched (MED-V: Trim Transfer):
	// other installed images, what is known of the machine's own files, and the
	// files in these folders, or else, if nothing is known yet, in those that the
	// image names. Full fetches all of it all the same.
	SeedFolders []string
	Full        bool

	// Trust is whose signatures count. If any are asked for, a package without
	// one is refused, and so is a latest version that is older than one that this
	// machine has seen, unless Named: the user has named Version.
	Trust sign.Trust
	Named bool

	indexFetched int64 // bytes of INDEXes that were read
}

// Limiter keeps to so many bytes a second; 0 is no limit.
func Limiter(n int64) *rate.Limiter {
	if n == 0 {
		return nil
	}
	return rate.NewLimiter(rate.Limit(n), int(min(n, 1<<20)))
}

// Installed says what Run did.
type Installed struct {
	Name    string `json:"name"`
	Version uint32 `json:"version"`
	Dir     string `json:"dir"`     // holds the image's files
	Already bool   `json:"already"` // it was installed before
	Size    uint64 `json:"size"`    // of the image, bytes
	// PackageDigest is of the package that it was installed from just now.
	PackageDigest string   `json:"package_digest,omitempty"`
	Sources       []Supply `json:"sources"`
	Reused        []Supply `json:"reused,omitempty"` // what was here already

	index int64 // bytes of the INDEX that were fetched
}

// Supply says how much a source has supplied.
type Supply struct {
	Source string `json:"source"`
	Bytes  int64  `json:"bytes"` // as stored, compressed; of what is reused, as it is in the image
}

// ErrDamaged says that no source has the image whole.
var ErrDamaged = errors.New("damaged")

// Run installs the image. The pre-stage folder serves the first version of an
// image on this machine only (MED-V: pre-staging is not supported for update).
// The image appears whole or not at all; a second run does nothing; a run after
// a cut goes on from what is there. The error wraps repo.ErrNotFound when no
// place has the image, ErrDamaged when none has it whole.
func (in *Install) Run(ctx context.Context) (*Installed, error) {
	versions, err := in.Store.Versions(in.Name)
	if err != nil {
		return nil, err
	}
	if done := in.already(versions); done != nil {
		return done, nil
	}
	if len(versions) > 0 && in.Prestaged != nil {
		in.Meter.Warn("%s is installed: the pre-stage folder is for the first version only and is not used",
			repo.ImageName(in.Name, versions[len(versions)-1]))
		in.Prestaged = nil
	}
	return in.install(ctx)
}

// install installs the image beside other versions that there may be.
func (in *Install) install(ctx context.Context) (*Installed, error) {
	x, encoded, err := in.findIndex(ctx)
	if err != nil {
		return nil, err
	}
	unlock, err := in.Store.lock(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := in.saw(x.Version); err != nil {
		return nil, err
	}
	// Somebody else may have installed it while we waited.
	versions, err := in.Store.Versions(in.Name)
	if err != nil {
		return nil, err
	}
	in.Version = x.Version
	if done := in.already(versions); done != nil {
		return done, nil
	}
	// A folder without its index cannot be told from somebody's own files.
	if dir := in.Store.ImageDir(x.Name, x.Version); exists(dir) {
		return nil, fmt.Errorf("%q exists but is not an installed image (%s is missing beside it); move it away and install again",
			dir, filepath.Base(in.Store.indexPath(x.Name, x.Version)))
	}
	return in.build(ctx, x, encoded)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func (in *Install) already(versions []uint32) *Installed {
	if len(versions) == 0 || in.Version != 0 && !slices.Contains(versions, in.Version) {
		return nil
	}
	v := in.Version
	if v == 0 {
		v = versions[len(versions)-1]
	}
	return &Installed{Name: in.Name, Version: v, Dir: in.Store.ImageDir(in.Name, v), Already: true, Sources: []Supply{}}
}

// places are where the image may come from, in order.
func (in *Install) places() (places []repo.Repository) {
	for _, r := range []repo.Repository{in.Prestaged, in.Images} {
		if r != nil {
			places = append(places, r)
		}
	}
	return places
}

// findIndex returns the index of the package to install from the first place
// that has one that is whole.
func (in *Install) findIndex(ctx context.Context) (*ckm.Index, []byte, error) {
	var errs []error
	damaged := false
	places := in.places()
	for i, r := range places {
		x, encoded, err := in.readIndex(ctx, r)
		if err == nil {
			return x, encoded, nil
		}
		if ctx.Err() != nil {
			return nil, nil, ctx.Err()
		}
		if errors.Is(err, ckm.ErrFormat) {
			damaged = true
			in.Meter.Warn("%v", err)
		} else if refused := errors.Is(err, sign.ErrUntrusted) || errors.Is(err, ErrOlder); refused && i+1 < len(places) {
			in.Meter.Warn("%v; it is not used, and %s is asked", err, places[i+1])
		}
		errs = append(errs, err)
	}
	if len(errs) == 0 {
		return nil, nil, fmt.Errorf("%w: no pre-stage folder and no repository to install %s from", repo.ErrNotFound, in.Name)
	}
	err := errors.Join(errs...)
	if damaged {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return nil, nil, err
}

func (in *Install) readIndex(ctx context.Context, r repo.Repository) (*ckm.Index, []byte, error) {
	version := in.Version
	if version == 0 {
		e, err := repo.Find(ctx, r, in.Name, 0)
		if err != nil {
			return nil, nil, err
		}
		version = e.Version
	}
	if err := in.notOlder(r, version); err != nil {
		return nil, nil, err
	}
	encoded, fetched, err := repo.IndexFrom(ctx, r, in.Name, version, in.Store.latestIndex(in.Name))
	in.indexFetched += fetched
	if err != nil {
		return nil, nil, err
	}
	x, err := repo.DecodeIndex(r, encoded, in.Name, version)
	if err != nil {
		return nil, nil, err
	}
	if err := in.Trust.Check(x); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", r, err)
	}
	return x, encoded, nil
}

func (in *Install) build(ctx context.Context, x *ckm.Index, encoded []byte) (*Installed, error) {
	partial, err := in.Store.partial(x)
	if err != nil {
		return nil, err
	}
	if err := in.checkSpace(x, partial); err != nil {
		return nil, err
	}
	if err := os.Mkdir(partial, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	fetch, done := in.fetcher(ctx, x)
	defer done()
	if err := in.assemble(ctx, fetch, partial); err != nil {
		return nil, err
	}
	if err := durable.WriteFile(in.Store.indexPath(x.Name, x.Version), encoded, 0o644); err != nil {
		return nil, err
	}
	if err := os.Chmod(partial, 0o755); err != nil {
		return nil, err
	}
	installed := &Installed{Name: x.Name, Version: x.Version, Dir: in.Store.ImageDir(x.Name, x.Version), Size: x.ImageSize(), PackageDigest: x.Digest().String(), Sources: []Supply{}, index: in.indexFetched}
	for i, n := range fetch.Fetched {
		if n > 0 {
			installed.Sources = append(installed.Sources, Supply{fetch.Sources[i].Name, n})
		}
	}
	for i, n := range fetch.Reused {
		if p, ok := fetch.Seeds[i].(*assemble.PatchSeed); ok {
			installed.Sources = append(installed.Sources, Supply{p.String(), p.Fetched()})
		} else if n > 0 {
			installed.Reused = append(installed.Reused, Supply{fetch.Seeds[i].String(), n})
		}
	}
	return installed, durable.Publish(partial, installed.Dir)
}

// fetcher returns what brings the chunks of an image, until done is called.
func (in *Install) fetcher(ctx context.Context, x *ckm.Index) (fetch *assemble.Fetcher, done func()) {
	fetch, done = &assemble.Fetcher{Index: x, Meter: in.Meter, Limit: in.Limit}, func() {}
	for _, r := range in.places() {
		src := assemble.RepositorySource(r, x)
		src.Free = r == in.Prestaged // it is on this machine
		fetch.Sources = append(fetch.Sources, src)
	}
	if !in.Full && trimTransfer(x) {
		fetch.Seeds, fetch.CopyFrom = in.seeds(x)
		// It is the only seed of which something is fetched, so it is the last.
		if p := in.patch(ctx, x); p != nil {
			fetch.Seeds, done = append(fetch.Seeds, p), func() { p.Close() }
		}
	}
	return fetch, done
}

func (in *Install) assemble(ctx context.Context, fetch *assemble.Fetcher, partial string) error {
	root, err := os.OpenRoot(partial)
	if err != nil {
		return err
	}
	defer root.Close()
	err = fetch.Image(ctx, root)
	switch {
	case errors.Is(err, assemble.ErrIncomplete):
		if in.Images == nil {
			return fmt.Errorf("%w: %w; run again with --images to fetch the rest, or push the package anew", ErrDamaged, err)
		}
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	case durable.IsDiskFull(err):
		// A full disk hurts the machine more than starting again.
		durable.RemoveTree(partial)
		return fmt.Errorf("%w; the unfinished image was removed, make room and install again", err)
	case err == nil:
		err = durable.SyncTree(partial)
	}
	return err
}

// checkSpace refuses before anything is written what could not be finished.
// How much an unfinished image still needs is not known before it is checked.
func (in *Install) checkSpace(x *ckm.Index, partial string) error {
	if _, err := os.Stat(partial); err == nil {
		return nil
	}
	free, err := durable.FreeSpace(in.Store.dir)
	if err != nil {
		return err
	}
	if need := x.PlacedSize(); uint64(free) < need {
		return fmt.Errorf("not enough space in %s: image %s needs %d bytes and %d are free; make room, or name another place with --store",
			in.Store, repo.ImageName(x.Name, x.Version), need, free)
	}
	return nil
}

package prestage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/acl"
	"prestage/internal/assemble"
	"prestage/internal/durable"
	"prestage/internal/host"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// Pushed says what Push did.
type Pushed struct {
	Receipt *Receipt `json:"receipt"`
	Already bool     `json:"already"` // the package was there, verified before; nothing was moved
	Moved   int64    `json:"moved"`   // bytes that came from the repository
	Size    int64    `json:"size"`    // bytes of both files
	Changes []string `json:"changes"` // folders created or mended
}

// PushOptions say how Push works.
type PushOptions struct {
	How   string         // the copy is checked, empty: HowReadback
	Trust sign.Trust     // whose signatures count here; those that count on the host are another question
	Limit *rate.Limiter  // of bytes a second from the repository, nil for none
	Meter progress.Meter // nil for none
}

// Push puts a package into the host's pre-stage folder: both files are written
// aside, checked, marked read-only, and renamed, the INDEX last, so that a
// client sees all of a package or none. What an earlier push left unfinished is
// used. The error wraps ErrDamaged when the package in the repository is itself
// damaged, sign.ErrUntrusted when its signature does not count here or there.
func Push(ctx context.Context, h host.Host, r repo.Repository, name string, version uint32, o PushOptions) (*Pushed, error) {
	o.How = cmp.Or(o.How, HowReadback)
	if o.Meter == nil {
		o.Meter = progress.Discard
	}
	s, err := h.Settings(ctx)
	if err != nil {
		return nil, err
	}
	f, err := placed(h, s)
	if err != nil {
		return nil, err
	}
	encoded, err := r.Index(ctx, name, version)
	if err != nil {
		return nil, err
	}
	x, err := repo.DecodeIndex(r, encoded, name, version)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if err := o.Trust.Check(x); err != nil {
		return nil, fmt.Errorf("%s: %w", r, err)
	}
	if err := f.trust.Check(x); err != nil { // it would be of no use there
		return nil, fmt.Errorf("%s would refuse it: %w", h.Name(), err)
	}
	p := &push{folders: f, store: s.VMSFolder, x: x, encoded: encoded, from: r, o: o, m: o.Meter}
	if p.done.Changes, err = f.make(ctx); err != nil {
		return nil, err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return nil, err
	}
	err = p.run(ctx)
	unlock()
	if err == nil && p.o.How == HowHost && p.done.Receipt.How == HowNone { // the agent takes the lock for its receipt
		err = p.awaitAgent(ctx)
	}
	if err != nil {
		return nil, err
	}
	return &p.done, nil
}

type push struct {
	folders
	x       *ckm.Index
	encoded []byte
	from    repo.Repository
	store   string // the image store, if there is one
	o       PushOptions
	m       progress.Meter
	done    Pushed
}

func (p *push) run(ctx context.Context) (err error) {
	name, version := p.x.Name, p.x.Version
	p.done.Size = int64(p.x.CKMLength) + int64(len(p.encoded))
	receipt := p.readReceipt(ctx, name, version)
	data, index := p.file(ckm.DataName(name, version)), p.file(ckm.IndexName(name, version))
	sameIndex, err := p.holdsIndex(ctx, index)
	if err != nil { // it cannot be read: it is replaced
		sameIndex = false
	}
	if sameIndex && p.witnessed(ctx, receipt, p.x.Digest()) && strength[receipt.How] >= strength[p.o.How] {
		p.done.Receipt, p.done.Already = receipt, true
		return p.tidy(ctx)
	}
	before, _, err := p.look(ctx, name, version)
	if err != nil {
		return err
	}
	indexThere := ""
	if sameIndex {
		indexThere = index
	}
	// The same package, signed otherwise: its CKM was checked already.
	resigned := !sameIndex && p.witnessed(ctx, receipt, p.x.Digest()) && strength[receipt.How] >= strength[p.o.How]
	whole, how := resigned, ""
	if !resigned {
		if whole, how, err = p.dataIsWhole(ctx, data, indexThere); err != nil {
			return err
		}
	}
	partialData, partialIndex := p.partial(ckm.DataName(name, version)), p.partial(ckm.IndexName(name, version))
	if !whole {
		if err := p.copyData(ctx, partialData); err != nil {
			return err
		}
	}
	if !sameIndex { // aside as well: a disk that is full must not leave half a package
		if err := p.writeAside(ctx, partialIndex, p.encoded); err != nil {
			return p.giveBack(ctx, err)
		}
		indexThere = partialIndex
	}
	if !whole {
		if how, err = p.checkCopy(ctx, partialData, indexThere); err != nil {
			return err
		}
		if err := p.h.Seal(ctx, partialData, acl.Prestaged); err != nil {
			return err
		}
		if err := p.replaceData(ctx, data, index, sameIndex); err != nil {
			return err
		}
	} else if !sameIndex {
		held, err := p.holdsIndex(ctx, partialIndex)
		if err != nil {
			return err
		}
		if !held {
			return fmt.Errorf("%w: what was read back from %s is not what was written; check its disk", ErrDamaged, partialIndex)
		}
	}
	if !sameIndex {
		if err := p.h.Rename(ctx, partialIndex, index); err != nil {
			return err
		}
	}
	for _, path := range []string{data, index} {
		if err := p.h.Seal(ctx, path, acl.Prestaged); err != nil {
			return err
		}
	}
	now, seen, err := p.look(ctx, name, version)
	if err != nil {
		return err
	}
	if whole { // it was checked in its place
		now = before
	}
	if resigned {
		r := *receipt
		r.CKM, r.Index = now, seen
		p.done.Receipt = &r
		err = p.keepReceipt(ctx, &r)
	} else {
		p.done.Receipt, err = p.writeReceipt(ctx, p.x, how, now, seen)
	}
	if err != nil {
		return err
	}
	return p.tidy(ctx)
}

// replaceData puts the CKM in its place. When another package has this name, its
// INDEX must not be seen beside our CKM: it is put aside, and back again if its
// own CKM cannot be replaced, so that the package stays.
func (p *push) replaceData(ctx context.Context, data, index string, sameIndex bool) error {
	old := p.replaced()
	if !sameIndex {
		if err := p.h.Rename(ctx, index, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	partial := p.partial(ckm.DataName(p.x.Name, p.x.Version))
	err := p.h.Rename(ctx, partial, data)
	if err == nil || sameIndex {
		return err
	}
	// An act that is reported as failed may have been done all the same.
	if _, statErr := p.h.Stat(context.WithoutCancel(ctx), partial); statErr == nil {
		if backErr := p.h.Rename(context.WithoutCancel(ctx), old, index); backErr != nil && !errors.Is(backErr, fs.ErrNotExist) {
			err = errors.Join(err, backErr)
		}
	}
	return err
}

// replaced is where the INDEX of a package that is being replaced lies.
func (p *push) replaced() string {
	return p.h.Join(p.aside, ckm.IndexName(p.x.Name, p.x.Version)+".replaced")
}

// tidy removes what a push of this name has left unfinished.
func (p *push) tidy(ctx context.Context) error {
	for _, path := range []string{p.partial(ckm.DataName(p.x.Name, p.x.Version)), p.partial(ckm.IndexName(p.x.Name, p.x.Version)), p.replaced()} {
		if err := p.h.Remove(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// dataIsWhole reports whether the right CKM is in place already, and how that
// was found. It is always looked at: what lies there was not written by this
// push. Damage in it is told: the copy that replaces it is a good one.
func (p *push) dataIsWhole(ctx context.Context, path, index string) (whole bool, how string, err error) {
	st, err := p.h.Stat(ctx, path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, "", nil
	}
	if err != nil {
		return false, "", err
	}
	if st.Kind == host.KindFolder {
		return false, "", fmt.Errorf("%s is a folder; remove it and push again", path)
	}
	if st.Kind != host.KindFile {
		p.m.Warn("%s is not a file; it will be replaced", path)
		return false, "", nil
	}
	whole, how, err = p.examine(ctx, path, index)
	if err == nil && !whole {
		p.m.Warn("%s is damaged or another package; it will be replaced", path)
	}
	return whole, how, err
}

// copyData brings a copy of the CKM to the disk, aside. Of what an earlier push
// has left there, each frame that is right stays.
func (p *push) copyData(ctx context.Context, partial string) error {
	if err := p.checkSpace(ctx, partial); err != nil {
		return err
	}
	w, err := p.h.OpenWrite(ctx, partial)
	if err != nil {
		return err
	}
	fetch := &assemble.Fetcher{Index: p.x, Sources: []assemble.Source{assemble.RepositorySource(p.from, p.x)}, Meter: p.m, Limit: p.o.Limit}
	_, err = fetch.CKM(ctx, w)
	if closeErr := w.Close(); err == nil {
		err = closeErr
	}
	for _, n := range fetch.Fetched {
		p.done.Moved += n
	}
	if errors.Is(err, assemble.ErrIncomplete) {
		return fmt.Errorf("%w: %w; repair it first (prestage repair)", ErrDamaged, err)
	}
	if err != nil {
		return p.giveBack(ctx, err)
	}
	return nil
}

// checkSpace refuses before anything is written what could not be finished.
func (p *push) checkSpace(ctx context.Context, partial string) error {
	free, err := p.h.FreeSpace(ctx, p.aside)
	if err != nil {
		return err
	}
	need := p.done.Size
	if st, err := p.h.Stat(ctx, partial); err == nil {
		free += st.Size // at most: it may be sparse
	}
	if free < need {
		return fmt.Errorf("%w: %d bytes are needed in %s and %d are free; make room and push again", host.ErrDiskFull, need, p.staged, free)
	}
	return nil
}

// giveBack frees the space of an unfinished copy when the disk is full: a full
// disk hurts the machine more than starting again.
func (p *push) giveBack(ctx context.Context, err error) error {
	if errors.Is(err, host.ErrDiskFull) || durable.IsDiskFull(err) {
		p.tidy(context.WithoutCancel(ctx))
		return fmt.Errorf("%w; the unfinished copy was removed, make room and push again", err)
	}
	return err
}

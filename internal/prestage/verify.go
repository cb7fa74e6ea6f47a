package prestage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"prestage/ckm"
	"prestage/internal/acl"
	"prestage/internal/assemble"
	"prestage/internal/host"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/verify"
)

// VerifyPackage checks one package in the host's pre-stage folder and renews its
// receipt when it is whole. A user who may read but not write gets the answer
// without a receipt. The index is nil when it is itself damaged. Signatures are
// another question.
func VerifyPackage(ctx context.Context, h host.Host, name string, version uint32, m progress.Meter) (*ckm.Index, []assemble.Fault, error) {
	f, err := located(ctx, h)
	if err != nil {
		return nil, nil, err
	}
	return f.verifyPackage(ctx, name, version, HowReadback, m)
}

// Attest is VerifyPackage for a package that was not read back in full since it
// was last changed, as its receipt says; otherwise there is nothing to do.
func Attest(ctx context.Context, h host.Host, name string, version uint32, m progress.Meter) ([]assemble.Fault, error) {
	f, err := located(ctx, h)
	if err != nil {
		return nil, err
	}
	if r := f.readReceipt(ctx, name, version); r != nil && strength[r.How] >= strength[HowHost] {
		if head, _, err := f.head(ctx, ckm.IndexName(name, version)); err == nil && f.witnessed(ctx, r, head.Digest) {
			return nil, nil
		}
	}
	_, faults, err := f.verifyPackage(ctx, name, version, HowHost, m) // it is the machine itself
	return faults, err
}

// Seal seals those of a package's two files that are there.
func Seal(ctx context.Context, h host.Host, name string, version uint32) error {
	f, err := located(ctx, h)
	if err != nil {
		return err
	}
	for _, file := range []string{ckm.DataName(name, version), ckm.IndexName(name, version)} {
		if err := h.Seal(ctx, f.file(file), acl.Prestaged); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Reseal verifies and seals a package that was mended in place.
func Reseal(ctx context.Context, h host.Host, name string, version uint32, m progress.Meter) error {
	if err := Seal(ctx, h, name, version); err != nil {
		return err
	}
	_, _, err := VerifyPackage(ctx, h, name, version, m)
	return err
}

// verify checks every package in the pre-stage folder, and its signature. The
// error wraps ErrDamaged or sign.ErrUntrusted.
func (f folders) verify(ctx context.Context, m progress.Meter) error {
	files, err := f.files(ctx)
	if err != nil {
		return err
	}
	type key struct {
		name    string
		version uint32
	}
	seen := map[key]bool{}
	for _, st := range files {
		name, version, _, _ := ckm.ParseFileName(st.Name)
		if seen[key{name, version}] {
			continue
		}
		seen[key{name, version}] = true
		x, faults, err := f.verifyPackage(ctx, name, version, HowReadback, m)
		if err != nil {
			return err
		}
		if len(faults) > 0 {
			return fmt.Errorf("%w: %s in %s (%s)", ErrDamaged, repo.ImageName(name, version), f.staged, faults[0])
		}
		if err := f.trust.Check(x); err != nil {
			return fmt.Errorf("%s: %w", f.staged, err)
		}
	}
	return nil
}

// verifyPackage checks a package, and leaves a receipt that says how.
func (f folders) verifyPackage(ctx context.Context, name string, version uint32, how string, m progress.Meter) (*ckm.Index, []assemble.Fault, error) {
	data, index, err := f.look(ctx, name, version)
	if err != nil {
		return nil, nil, err
	}
	x, faults, err := verify.Package(ctx, f.openSynced(ctx), name, version, m)
	if err != nil {
		return nil, nil, err
	}
	unlock, err := f.lock(ctx)
	if err != nil {
		return x, faults, nil // not an administrator: verified all the same, but not witnessed
	}
	defer unlock()
	if len(faults) > 0 { // whatever was witnessed before
		if err := f.h.Remove(ctx, f.h.Join(f.aside, receiptName(name, version))); err != nil && !errors.Is(err, fs.ErrNotExist) {
			m.Warn("%s is damaged, but its receipt could not be removed: %v", repo.ImageName(name, version), err)
		}
		return x, faults, nil
	}
	if _, err = f.writeReceipt(ctx, x, how, data, index); err != nil {
		m.Warn("%s is whole, but that could not be recorded: %v", repo.ImageName(name, version), err)
	}
	return x, nil, nil
}

// openSynced opens files so that what is read, and then witnessed, is on the
// disk: whoever copied it may not have seen to that.
func (f folders) openSynced(ctx context.Context) verify.Opener {
	return func(file string) (verify.File, error) {
		r, err := f.h.Open(ctx, f.file(file))
		if err == nil {
			err = r.Sync()
		}
		return r, err
	}
}

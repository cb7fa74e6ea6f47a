package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/sign"
	"prestage/internal/verify"
)

func (a *app) repairCommand() *cobra.Command {
	var from, images string
	var force bool
	cmd := &cobra.Command{
		Use:   "repair PATH|IMAGE --from DIR|URL",
		Short: "Mend what is damaged from another copy, fetching nothing else",
		Long: `IMAGE stands for the packages of that image on this machine, staged or not. An
installed image is repaired when PATH is its folder: it becomes what was packed,
and what its user changed in it is lost.`,
		Args: exactly(1, "one PATH or IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if from == "" {
				return usageError{errors.New("say where a good copy is with --from DIR|URL")}
			}
			source, err := repo.Open(from)
			if err != nil {
				return usageError{err}
			}
			targets, err := a.targets(cmd.Context(), args[0], images)
			if err != nil {
				return err
			}
			isPath := exists(args[0])
			targets = slices.DeleteFunc(targets, func(t target) bool {
				// An IMAGE's copies may include the good one. An installed image is
				// its user's: only who names its folder can mean to undo changes.
				return t.folder != nil && same(t.folder.String(), from) || t.store != nil && !isPath
			})
			if len(targets) == 0 {
				return usageError{fmt.Errorf("no copy of %s but the one that --from names can be repaired; an installed image is repaired by naming its folder", args[0])}
			}
			done := []repaired{}
			err = each(cmd.Context(), a, targets, func(t target) error {
				r, err := a.repair(cmd.Context(), t, source, force)
				if err != nil {
					return fmt.Errorf("%s: %w", t, err)
				}
				done = append(done, *r)
				return nil
			})
			if err != nil && len(done) == 0 {
				return err
			}
			return errors.Join(err, a.report(done, func(w io.Writer) {
				for _, r := range done {
					if r.Mended == 0 && r.Faults == 0 {
						fmt.Fprintf(w, "nothing to repair: %s\n", r.what)
						continue
					}
					fmt.Fprintf(w, "repaired %s: %s, verified\n", r.what, r.how)
				}
			}))
		},
	}
	cmd.Flags().StringVar(&from, "from", "", "folder or URL of a good copy")
	cmd.Flags().BoolVar(&force, "force", false, "repair an installed image even while a program uses it")
	imagesFlag(cmd, &images)
	return cmd
}

// repaired is what repair reports of one target.
type repaired struct {
	Name    string `json:"name"`
	Version uint32 `json:"version"`
	Mended  int64  `json:"mended"` // bytes of a package
	Faults  int    `json:"faults"` // of an installed image

	what, how string
}

func (a *app) repair(ctx context.Context, t target, from repo.Repository, force bool) (*repaired, error) {
	r := &repaired{Name: t.name, Version: t.version, what: t.String()}
	trust, err := a.trust()
	if err != nil {
		return r, err
	}
	if t.store != nil {
		faults, err := a.repairInstalled(ctx, t, from, trust, force)
		r.Faults, r.how = len(faults), count(len(faults), "fault")
		return r, err
	}
	h := a.host()
	if t.staged { // a repair that was killed may have left the CKM open
		if err := prestage.Seal(ctx, h, t.name, t.version); err != nil {
			return r, err
		}
	}
	r.Mended, err = verify.RepairPackage(ctx, t.folder, t.name, t.version, from, trust, a.meter)
	r.how = size(r.Mended) + " fetched"
	if err == nil && t.staged {
		err = prestage.Reseal(ctx, h, t.name, t.version, a.meter)
	}
	return r, err
}

func (a *app) repairInstalled(ctx context.Context, t target, from repo.Repository, trust sign.Trust, force bool) ([]assemble.Fault, error) {
	x, err := t.store.Index(t.name, t.version)
	if errors.Is(err, ckm.ErrFormat) {
		x, err = t.store.RestoreIndex(ctx, from, trust, t.name, t.version)
	}
	if err != nil {
		return nil, err
	}
	if err := a.notInUse(ctx, t, force); err != nil {
		return nil, err
	}
	dir := t.store.ImageDir(t.name, t.version)
	faults, err := verify.RepairImage(ctx, x, dir, []assemble.Source{assemble.RepositorySource(from, x)}, a.meter)
	if err != nil || len(faults) == 0 {
		return faults, err
	}
	left, err := verify.Image(ctx, x, dir, a.meter)
	if err == nil && len(left) > 0 {
		err = fmt.Errorf("%w: still damaged after the repair: %s; check the disk", ckm.ErrMismatch, left[0])
	}
	return faults, err
}

// notInUse refuses to touch an installed image that a program has open.
func (a *app) notInUse(ctx context.Context, t target, force bool) error {
	files, err := t.store.Files(t.name, t.version)
	if err != nil {
		return err
	}
	return a.pathsNotInUse(ctx, force, files...)
}

func (a *app) pathsNotInUse(ctx context.Context, force bool, paths ...string) error {
	if force {
		return nil
	}
	h := a.host()
	for _, p := range paths {
		used, err := h.InUse(ctx, p)
		if errors.Is(err, errors.ErrUnsupported) {
			return nil // this system cannot tell
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if used {
			return fmt.Errorf("%s is %w by another program; stop it first, or use --force", p, prestage.ErrInUse)
		}
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

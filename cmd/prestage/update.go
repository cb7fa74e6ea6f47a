package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/internal/client"
	"prestage/internal/prestage"
	"prestage/internal/repo"
)

type updateFlags struct {
	images, store, limit string
	keep                 int
	full, dryRun, force  bool
	seeds                []string
}

func (a *app) updateCommand() *cobra.Command {
	var f updateFlags
	cmd := &cobra.Command{
		Use:   "update IMAGE",
		Short: "Bring an installed image up to date, moving only what changed",
		Long: `The new version is built beside the one that is installed, from what that holds,
from other installed images, and from --images only what neither has. It is
checked whole before versions that --keep does not spare are removed. The
pre-stage folder is not used, unless the setting update_from_prestaged says so.`,
		Args: exactly(1, "one IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			u, err := a.update(cmd.Context(), args[0], &f)
			if err != nil {
				return err
			}
			run := u.Run
			if f.dryRun {
				run = u.Estimate
			}
			done, err := run(cmd.Context())
			if done == nil {
				return err
			}
			return errors.Join(err, a.report(done, func(w io.Writer) { showUpdated(w, done) }))
		},
	}
	imagesFlag(cmd, &f.images)
	limitFlag(cmd, &f.limit)
	cmd.Flags().StringVar(&f.store, "store", "", "image store (default the configured one)")
	cmd.Flags().IntVar(&f.keep, "keep", 1, "versions before the new one that stay installed")
	cmd.Flags().StringSliceVar(&f.seeds, "seed", nil, "folders of this machine whose files may hold parts of the image")
	cmd.Flags().BoolVar(&f.full, "full", false, "fetch all of the image, whatever is here already")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "say what would be moved, and change nothing")
	cmd.Flags().BoolVar(&f.force, "force", false, "remove versions even when they are in use")
	return cmd
}

func (a *app) update(ctx context.Context, arg string, f *updateFlags) (*client.Update, error) {
	if f.keep < 0 {
		return nil, usageError{fmt.Errorf("--keep %d is less than none", f.keep)}
	}
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	in, err := a.install(ctx, arg, f.store, f.images, f.limit, false)
	if err != nil {
		return nil, err
	}
	in.Full, in.SeedFolders = f.full, f.seeds
	// S11: pre-staging is for the first version, unless the machine's
	// administrator decided otherwise.
	if !s.UpdateFromPrestaged {
		in.Prestaged = nil
	}
	u := &client.Update{Install: *in, Keep: f.keep}
	u.Busy = func(ctx context.Context, name string, version uint32) (bool, error) {
		err := a.notInUse(ctx, target{store: u.Store, name: name, version: version}, f.force)
		if errors.Is(err, prestage.ErrInUse) {
			return true, nil
		}
		return false, err
	}
	return u, nil
}

func showUpdated(w io.Writer, u *client.Updated) {
	name := repo.ImageName(u.Name, u.Version)
	if u.Already {
		fmt.Fprintf(w, "%s is installed already in %s\n", name, u.Dir)
		return
	}
	did, fetched, removed := "updated", "fetched", "removed"
	if u.DryRun {
		did, fetched, removed = "would update", "to fetch", "would remove"
	}
	fmt.Fprintf(w, "%s %s to %s (%s) in %s\n", did, repo.ImageName(u.Name, u.From), name, size(u.Size), u.Dir)
	for _, s := range u.Reused {
		fmt.Fprintf(w, "  %s as it is from %s\n", size(s.Bytes), s.Source)
	}
	for i, s := range u.Sources {
		index := ""
		if i == 0 {
			index = fmt.Sprintf(", and %s of INDEX", size(u.Index))
		}
		fmt.Fprintf(w, "  %s %s from %s%s\n", size(s.Bytes), fetched, s.Source, index)
	}
	for _, v := range u.Removed {
		fmt.Fprintf(w, "  %s %s\n", removed, repo.ImageName(u.Name, v))
	}
}

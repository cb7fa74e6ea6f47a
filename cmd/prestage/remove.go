package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/prestage"
	"prestage/internal/repo"
)

func (a *app) removeCommand() *cobra.Command {
	var images, store string
	var staged, installed, force bool
	cmd := &cobra.Command{
		Use:   "remove IMAGE...",
		Short: "Remove a version of an image: its package, its staged copy, or what is installed",
		Long: `Without --staged or --installed, the package in the folder --images is removed.
NAME stands for the latest version there; older ones stay. What a program has
open is not removed unless --force is given.`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if staged && installed {
				return usageError{errors.New("use either --staged or --installed")}
			}
			var removed []target
			for _, arg := range args {
				name, version, err := image(arg)
				if err != nil {
					return err
				}
				t := target{name: name, version: version, staged: staged}
				switch {
				case installed:
					t, err = a.removeInstalled(cmd.Context(), t, store, force)
				case staged:
					t, err = a.removeStaged(cmd.Context(), t, force)
				default:
					t, err = a.removePackage(cmd.Context(), t, images, force)
				}
				if err != nil {
					return err
				}
				removed = append(removed, t)
			}
			names := make([]string, len(removed))
			for i, t := range removed {
				names[i] = repo.ImageName(t.name, t.version)
			}
			return a.report(map[string]any{"removed": names}, func(w io.Writer) {
				for _, t := range removed {
					fmt.Fprintf(w, "removed %s\n", t)
				}
			})
		},
	}
	imagesFlag(cmd, &images)
	cmd.Flags().StringVar(&store, "store", "", "image store (default the configured one)")
	cmd.Flags().BoolVar(&staged, "staged", false, "remove from this machine's pre-stage folder")
	cmd.Flags().BoolVar(&installed, "installed", false, "remove the installed image")
	cmd.Flags().BoolVar(&force, "force", false, "remove even what is in use")
	return cmd
}

func (a *app) removePackage(ctx context.Context, t target, images string, force bool) (target, error) {
	r, err := a.folder(images)
	if err != nil {
		return t, err
	}
	t.folder = r
	if t.version == 0 {
		e, err := repo.Find(ctx, r, t.name, 0)
		if err != nil {
			return t, err
		}
		t.version = e.Version
	}
	if err := a.pathsNotInUse(ctx, force, r.Path(ckm.DataName(t.name, t.version)), r.Path(ckm.IndexName(t.name, t.version))); err != nil {
		return t, err
	}
	return t, r.Remove(ctx, t.name, t.version)
}

func (a *app) removeStaged(ctx context.Context, t target, force bool) (target, error) {
	h, err := a.host()
	if err != nil {
		return t, err
	}
	dir, err := prestage.StagedFolder(ctx, h)
	if err != nil {
		return t, err
	}
	t.folder = repo.NewFolder(dir)
	if t.version == 0 {
		e, err := repo.Find(ctx, t.folder, t.name, 0)
		if err != nil {
			return t, err
		}
		t.version = e.Version
	}
	return t, prestage.Remove(ctx, h, t.name, t.version, force)
}

func (a *app) removeInstalled(ctx context.Context, t target, store string, force bool) (target, error) {
	s, err := a.store(store)
	if err != nil {
		return t, err
	}
	t.store = s
	versions, err := s.Versions(t.name)
	if err != nil {
		return t, err
	}
	if t.version == 0 && len(versions) > 0 {
		t.version = versions[len(versions)-1]
	}
	files, err := s.Files(t.name, t.version)
	if err != nil {
		return t, fmt.Errorf("%w: %s is not installed in %s", repo.ErrNotFound, repo.ImageName(t.name, t.version), s)
	}
	if err := a.pathsNotInUse(ctx, force, files...); err != nil {
		return t, err
	}
	return t, s.Remove(ctx, t.name, t.version)
}

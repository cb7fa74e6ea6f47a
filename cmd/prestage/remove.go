package main

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/prestage"
	"prestage/internal/repo"
)

func (a *app) removeCommand() *cobra.Command {
	var images, store string
	var staged, installed, force bool
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "remove IMAGE...",
		Short: "Remove a version of an image: its package, its staged copy, or what is installed",
		Long: `Without --staged or --installed, the package in the folder --images is removed, or
on the server that --images names, of which you must be a writer; who downloads it
gets it to its end. NAME stands for the latest version there; older ones stay. What a
program has open is not removed unless --force is given. With --hosts, NAME:N is removed from
the pre-stage folders of those machines; a machine that does not have it is as it
should be.`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if staged && installed {
				return usageError{errors.New("use either --staged or --installed")}
			}
			if f.given() {
				if installed || images != "" || store != "" {
					return usageError{errors.New("--hosts removes what is staged there; it goes with --force alone")}
				}
				return a.removeFleet(cmd.Context(), args, force, &f)
			}
			removed := []string{}
			done := func(t target, what string) error {
				removed = append(removed, repo.ImageName(t.name, t.version))
				if !a.json && !a.quiet {
					fmt.Fprintf(a.out, "removed %s\n", what)
				}
				return nil
			}
			err := each(cmd.Context(), a, args, func(arg string) error {
				name, version, err := image(arg)
				if err != nil {
					return err
				}
				t := target{name: name, version: version, staged: staged}
				switch {
				case !staged && !installed && strings.Contains(images, "://"): // not what is only configured: that is for reading
					where, err := a.removeServed(cmd.Context(), &t, images)
					if err != nil {
						return err
					}
					return done(t, fmt.Sprintf("%s in %s", repo.ImageName(t.name, t.version), where))
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
				return done(t, t.String())
			})
			if !a.json || err != nil && len(removed) == 0 {
				return err
			}
			return errors.Join(err, a.print(map[string]any{"removed": removed}, nil))
		},
	}
	imagesFlag(cmd, &images)
	cmd.Flags().StringVar(&store, "store", "", "image store (default the configured one)")
	cmd.Flags().BoolVar(&staged, "staged", false, "remove from this machine's pre-stage folder")
	cmd.Flags().BoolVar(&installed, "installed", false, "remove the installed image")
	cmd.Flags().BoolVar(&force, "force", false, "remove even what is in use")
	f.add(cmd)
	return cmd
}

func (a *app) removePackage(ctx context.Context, t target, images string, force bool) (target, error) {
	r, err := a.folder(images)
	if err != nil {
		return t, err
	}
	t.folder = r
	if t, err = latest(ctx, t); err != nil {
		return t, err
	}
	if err := a.pathsNotInUse(ctx, force, r.Path(ckm.DataName(t.name, t.version)), r.Path(ckm.IndexName(t.name, t.version))); err != nil {
		return t, err
	}
	return t, r.Remove(ctx, t.name, t.version)
}

// removeServed removes a package from a server, and says which.
func (a *app) removeServed(ctx context.Context, t *target, images string) (where string, err error) {
	r, err := repo.Open(images)
	if err != nil {
		return "", err
	}
	web, ok := r.(*repo.Web)
	if !ok {
		return "", usageError{fmt.Errorf("%s is no server", r)}
	}
	if t.version == 0 {
		e, err := repo.Find(ctx, web, t.name, 0)
		if err != nil {
			return "", err
		}
		t.version = e.Version
	}
	return web.String(), web.Remove(ctx, t.name, t.version)
}

func (a *app) removeStaged(ctx context.Context, t target, force bool) (target, error) {
	h := a.host()
	dir, err := prestage.StagedFolder(ctx, h)
	if err != nil {
		return t, err
	}
	t.folder = repo.NewFolder(dir)
	if t, err = latest(ctx, t); err != nil {
		return t, err
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

// latest fills in the version that is meant when none was named. Half a package
// counts, such as an interrupted removal leaves: the rerun must not take the
// version before for the latest.
func latest(ctx context.Context, t target) (target, error) {
	if t.version != 0 {
		return t, nil
	}
	if t.version = versionIn(t.folder, t.name, 0); t.version == 0 {
		_, err := repo.Find(ctx, t.folder, t.name, 0) // says what is there instead
		return t, err
	}
	return t, nil
}

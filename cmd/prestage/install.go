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

func (a *app) installCommand() *cobra.Command {
	var images, store, limit string
	var offline, full bool
	var seeds []string
	cmd := &cobra.Command{
		Use:   "install IMAGE",
		Short: "Install an image into the image store, from the pre-stage folder first",
		Long: `The pre-stage folder serves the first version of an image on this machine, with
no network needed. What is damaged there, or not there at all, comes from --images.`,
		Args: exactly(1, "one IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := a.install(cmd.Context(), args[0], store, images, limit, offline)
			if err != nil {
				return err
			}
			in.Full, in.SeedFolders = full, seeds
			done, err := in.Run(cmd.Context())
			if err != nil {
				return err
			}
			return a.report(done, func(w io.Writer) { showInstalled(w, done) })
		},
	}
	imagesFlag(cmd, &images)
	limitFlag(cmd, &limit)
	cmd.Flags().StringVar(&store, "store", "", "image store (default the configured one)")
	cmd.Flags().StringSliceVar(&seeds, "seed", nil, "folders of this machine whose files may hold parts of the image")
	cmd.Flags().BoolVar(&full, "full", false, "fetch all of the image, whatever is here already")
	cmd.Flags().BoolVar(&offline, "offline", false, "use the pre-stage folder alone")
	return cmd
}

func (a *app) install(ctx context.Context, arg, store, images, limit string, offline bool) (*client.Install, error) {
	name, version, err := image(arg)
	if err != nil {
		return nil, err
	}
	in := &client.Install{Name: name, Version: version, Named: version != 0, Meter: a.meter}
	if in.Trust, err = a.trust(); err != nil {
		return nil, err
	}
	if in.Limit, err = limiter(limit); err != nil {
		return nil, err
	}
	if in.Store, err = a.store(store); err != nil {
		return nil, err
	}
	staged, err := a.stagedFolder(ctx)
	switch {
	case err == nil:
		in.Prestaged = repo.NewStrictFolder(staged)
	case !errors.Is(err, prestage.ErrNotSetUp):
		return nil, err
	}
	if !offline {
		if in.Images, err = a.repository(images); err != nil {
			return nil, err
		}
	}
	return in, nil
}

func showInstalled(w io.Writer, done *client.Installed) {
	name := repo.ImageName(done.Name, done.Version)
	if done.Already {
		fmt.Fprintf(w, "%s is installed already in %s\n", name, done.Dir)
		return
	}
	fmt.Fprintf(w, "installed %s (%s) in %s\n", name, size(done.Size), done.Dir)
	for _, s := range done.Reused {
		fmt.Fprintf(w, "  %s as it is from %s\n", size(s.Bytes), s.Source)
	}
	for _, s := range done.Sources {
		fmt.Fprintf(w, "  %s from %s\n", size(s.Bytes), s.Source)
	}
}

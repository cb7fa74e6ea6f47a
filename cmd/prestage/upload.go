package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/internal/repo"
	"prestage/internal/server/upload"
	"prestage/internal/sign"
)

func (a *app) uploadCommand() *cobra.Command {
	var images, to, limit string
	keep := -1
	cmd := &cobra.Command{
		Use:   "upload IMAGE... --to URL",
		Short: "Publish a package on an image server (prestage serve)",
		Long: `The package in --images, and its patch if it has one, is sent to the server, which
must name you among the writers of the image in its file of rights. It can be seen
there when all of it has come and was checked, with the version that it was packed
with. What was cut goes on where it was when the same command is run again. With
--keep N, the versions before the latest N + 1 are removed from the server then.`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if to == "" {
				return usageError{errors.New("name the server with --to URL")}
			}
			from, err := a.repository(images)
			if err != nil {
				return err
			}
			r, err := repo.Open(to)
			if err != nil {
				return err
			}
			web, ok := r.(*repo.Web)
			if !ok {
				return usageError{fmt.Errorf("--to %s is a folder, and should be the URL of a server; copy files to a folder, or pack into it", r)}
			}
			done := []uploaded{}
			err = each(cmd.Context(), a, args, func(arg string) error {
				u, err := a.upload(cmd.Context(), from, web, arg, limit)
				if err != nil {
					return err
				}
				if u.Removed, err = keepServed(cmd.Context(), web, u.name, keep); err != nil {
					return fmt.Errorf("%s is there, but old versions could not be removed: %w", u.Image, err)
				}
				done = append(done, *u)
				return nil
			})
			if err != nil && len(done) == 0 {
				return err
			}
			return errors.Join(err, a.report(done, func(w io.Writer) {
				for _, u := range done {
					u.print(w)
				}
			}))
		},
	}
	imagesFlag(cmd, &images)
	limitFlag(cmd, &limit)
	cmd.Flags().StringVar(&to, "to", "", "URL of the packages on the server, for instance https://images.example/MEDVImages/")
	cmd.Flags().IntVar(&keep, "keep", -1, "versions before the latest that stay on the server; -1: all")
	return cmd
}

// uploaded is what upload reports of one image.
type uploaded struct {
	Image string `json:"image"`
	repo.Uploaded
	Removed []string `json:"removed,omitempty"` // older versions

	name, to string
}

func (u *uploaded) print(w io.Writer) {
	switch {
	case u.Already && u.Sent == 0:
		fmt.Fprintf(w, "%s is in %s already\n", u.Image, u.to)
	case u.Already:
		fmt.Fprintf(w, "%s is in %s already, and now its patch or its signatures, too\n", u.Image, u.to)
	default:
		fmt.Fprintf(w, "uploaded %s to %s: %s sent\n", u.Image, u.to, size(u.Sent))
	}
	for _, v := range u.Removed {
		fmt.Fprintf(w, "removed %s in %s\n", v, u.to)
	}
}

func (a *app) upload(ctx context.Context, from repo.Repository, to *repo.Web, arg, limit string) (*uploaded, error) {
	name, version, err := imageIn(ctx, from, arg)
	if err != nil {
		return nil, err
	}
	u := repo.Upload{Add: a.meter.Add}
	if u.Limit, err = limiter(limit); err != nil {
		return nil, err
	}
	if u.Encoded, err = from.Index(ctx, name, version); err != nil {
		return nil, err
	}
	if _, err := repo.DecodeIndex(from, u.Encoded, name, version); err != nil {
		return nil, err
	}
	if u.Data, err = from.Data(ctx, name, version); err != nil {
		return nil, err
	}
	defer u.Data.Close()
	total, err := u.Data.Size()
	if err != nil {
		return nil, err
	}
	total += int64(len(u.Encoded))
	if u.Patch, err = from.Patch(ctx, name, version); errors.Is(err, repo.ErrNotFound) {
		u.Patch = nil
	} else if err != nil {
		return nil, err
	} else {
		defer u.Patch.Close()
		if n, err := u.Patch.Size(); err == nil {
			total += n
		}
	}
	image := repo.ImageName(name, version)
	a.meter.Begin("uploading "+image, total)
	done, err := to.Upload(ctx, u)
	if err != nil {
		return nil, err
	}
	if done.PatchLeft != "" {
		a.meter.Warn("the patch of %s is left out: %s", image, done.PatchLeft)
	}
	return &uploaded{Image: image, Uploaded: done, name: name, to: to.String()}, nil
}

// keepServed removes the versions of an image from a server but the latest and keep
// more, or none if keep is less than 0.
func keepServed(ctx context.Context, r *repo.Web, name string, keep int) (removed []string, err error) {
	if keep < 0 {
		return nil, nil
	}
	versions, err := repo.Prune(ctx, r, name, keep)
	for _, v := range versions {
		removed = append(removed, repo.ImageName(name, v))
	}
	return removed, err
}

// uploadsConfig returns what bounds uploads to a server.
func (a *app) uploadsConfig(f *serveFlags) (c upload.Config, err error) {
	c.Age, c.Keep = f.uploadAge, f.keep
	if f.uploadAge <= 0 {
		return c, usageError{errors.New("--upload-age: use a time such as 72h")}
	}
	for flag, bytes := range map[string]struct {
		text string
		into *int64
	}{"--uploads": {f.uploads, &c.Most}, "--uploads-each": {f.ofImage, &c.MostOfImage}} {
		if bytes.text == "" {
			continue
		}
		if *bytes.into, err = byteSize(flag, bytes.text); err != nil {
			return c, err
		}
	}
	if len(f.trusted) == 0 {
		c.Trust, err = a.trust()
		return c, err
	}
	if f.trusted, err = publicKeys(f.trusted); err != nil {
		return c, err
	}
	c.Trust, err = sign.ParseTrust(f.trusted)
	return c, err
}

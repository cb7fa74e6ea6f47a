package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/internal/prestage"
	"prestage/internal/repo"
)

func (a *app) pushCommand() *cobra.Command {
	var images, limit string
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "push IMAGE...",
		Short: "Put packages into the pre-stage folder: copy, check, mark read-only",
		Long: `Without --hosts, on this machine. With --hosts, on Windows machines over their
administrative shares and on Linux machines over SSH: folders, rights, both files,
the check, read-only and the location, and a report of it all. A machine that is
off is tried again for as long as --retry says; the same command run again goes on
where it was cut. The exit code is 5 when any machine is not as it should be.`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.given() {
				return a.pushFleet(cmd.Context(), args, images, limit, &f)
			}
			r, err := a.repository(images)
			if err != nil {
				return err
			}
			done := []pushed{}
			err = each(cmd.Context(), a, args, func(arg string) error {
				p, err := a.push(cmd.Context(), r, arg, limit)
				if err == nil {
					done = append(done, *p)
				}
				return err
			})
			if err != nil && len(done) == 0 {
				return err
			}
			return errors.Join(err, a.report(done, func(w io.Writer) {
				for _, p := range done {
					for _, c := range p.Changes {
						fmt.Fprintln(w, c)
					}
					if p.Already {
						fmt.Fprintf(w, "%s is staged already, verified %s\n", p.Image, p.Receipt.Verified.Local().Format("2006-01-02 15:04:05"))
						continue
					}
					fmt.Fprintf(w, "staged %s: %s, read back and checked, marked read-only\n", p.Image, size(p.Size))
				}
			}))
		},
	}
	imagesFlag(cmd, &images)
	limitFlag(cmd, &limit)
	f.add(cmd)
	return cmd
}

// imageVersion is a version of an image.
type imageVersion struct {
	name    string
	version uint32
}

// String returns NAME:N.
func (v imageVersion) String() string { return repo.ImageName(v.name, v.version) }

// packagesFor returns the packages that IMAGE arguments mean.
func (a *app) packagesFor(ctx context.Context, r repo.Repository, args []string) (list []imageVersion, err error) {
	for _, arg := range args {
		name, version, err := imageIn(ctx, r, arg)
		if err != nil {
			return nil, err
		}
		list = append(list, imageVersion{name, version})
	}
	return list, nil
}

// pushed is what push reports of one image.
type pushed struct {
	Image string `json:"image"`
	*prestage.Pushed
}

func (a *app) push(ctx context.Context, r repo.Repository, arg, limit string) (*pushed, error) {
	name, version, err := imageIn(ctx, r, arg)
	if err != nil {
		return nil, err
	}
	l, err := limiter(limit)
	if err != nil {
		return nil, err
	}
	h := a.host()
	p, err := prestage.Push(ctx, h, r, name, version, l, a.meter)
	if err != nil {
		return nil, err
	}
	if p.Changes == nil {
		p.Changes = []string{}
	}
	return &pushed{repo.ImageName(name, version), p}, nil
}

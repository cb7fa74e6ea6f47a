package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

func (a *app) pushCommand() *cobra.Command {
	var images, limit, how string
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "push IMAGE...",
		Short: "Put packages into the pre-stage folder: copy, check, mark read-only",
		Long: `Without --hosts, on this machine. With --hosts, on Windows machines over their
administrative shares and on Linux machines over SSH: folders, rights, both files,
the check, read-only and the location, and a report of it all. A machine that is
off is tried again for as long as --retry says; the same command run again goes on
where it was cut. The exit code is 5 when any machine is not as it should be.

--verify says how a copy is checked before it counts:
  readback  every byte is read from the disk and compared, by the machine itself
            where it has prestage (Linux), over the network elsewhere
  host      the machine itself does that with what it has: prestage, sha256sum, or
            the agent that runs there; over the network where it has nothing
  sample    a hundredth is read over the network
  none      nothing is; the receipt says so`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !prestage.KnownHow(how) {
				return usageError{fmt.Errorf("--verify %q: use readback, host, sample or none", how)}
			}
			if f.given() {
				return a.pushFleet(cmd.Context(), args, images, limit, how, &f)
			}
			r, err := a.repository(images)
			if err != nil {
				return err
			}
			done := []pushed{}
			err = each(cmd.Context(), a, args, func(arg string) error {
				p, err := a.push(cmd.Context(), r, arg, limit, how)
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
						fmt.Fprintf(w, "%s is staged already, %s %s\n", p.Image, checkedHow[p.Receipt.How], p.Receipt.Verified.Local().Format("2006-01-02 15:04:05"))
						continue
					}
					fmt.Fprintf(w, "staged %s: %s, %s, marked read-only\n", p.Image, size(p.Size), checkedHow[p.Receipt.How])
				}
			}))
		},
	}
	imagesFlag(cmd, &images)
	limitFlag(cmd, &limit)
	cmd.Flags().StringVar(&how, "verify", prestage.HowReadback, "how a copy is checked: readback, host, sample or none")
	f.add(cmd)
	return cmd
}

// checkedHow says to people how a copy was checked.
var checkedHow = map[string]string{
	prestage.HowReadback: "read back and checked",
	prestage.HowHost:     "checked by the machine itself",
	prestage.HowSample:   "a sample read back and checked",
	prestage.HowNone:     "not read back",
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

// checkTrusted refuses packages whose signatures do not count, before anything is
// done with them.
func (a *app) checkTrusted(ctx context.Context, trust sign.Trust, r repo.Repository, packages []imageVersion) error {
	if !trust.Required() {
		return nil
	}
	for _, p := range packages {
		x, err := repo.ReadIndex(ctx, r, p.name, p.version)
		if err == nil {
			err = trust.Check(x)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r, err)
		}
	}
	return nil
}

// pushed is what push reports of one image.
type pushed struct {
	Image string `json:"image"`
	*prestage.Pushed
}

func (a *app) push(ctx context.Context, r repo.Repository, arg, limit, how string) (*pushed, error) {
	name, version, err := imageIn(ctx, r, arg)
	if err != nil {
		return nil, err
	}
	l, err := limiter(limit)
	if err != nil {
		return nil, err
	}
	trust, err := a.trust()
	if err != nil {
		return nil, err
	}
	p, err := prestage.Push(ctx, a.host(), r, name, version, prestage.PushOptions{How: how, Trust: trust, Limit: l, Meter: a.meter})
	if err != nil {
		return nil, err
	}
	if p.Changes == nil {
		p.Changes = []string{}
	}
	return &pushed{repo.ImageName(name, version), p}, nil
}

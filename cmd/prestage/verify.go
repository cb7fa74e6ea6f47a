package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/bundle"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/sign"
	"prestage/internal/verify"
)

func (a *app) verifyCommand() *cobra.Command {
	var images, index string
	cmd := &cobra.Command{
		Use:   "verify PATH|IMAGE ...",
		Short: "Check packages and installed images, and name all damage",
		Long: `PATH is a file of a package, a folder of packages, a pre-stage folder, the folder
of an installed image, or a deployment package; IMAGE stands for every copy on
this machine. An installed image that was used has been changed by its user, and
verify says so. With --index, PATH is a CKM, whatever it is called, and is compared
with that INDEX.

The exit code is 3 when anything is damaged, or when the settings name trusted keys
and a package is not signed by one of them.`,
		Args: atLeast(1, "a PATH or an IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			results := []verified{}
			err := each(cmd.Context(), a, args, func(arg string) error {
				if index != "" {
					v, err := a.verifyFile(cmd.Context(), arg, index)
					if err != nil {
						return fmt.Errorf("%s: %w", arg, err)
					}
					results = append(results, *v)
					return nil
				}
				if bundle.Is(arg) {
					v, err := a.verifyBundle(cmd.Context(), arg)
					if err != nil {
						return fmt.Errorf("%s: %w", arg, err)
					}
					results = append(results, *v)
					return nil
				}
				targets, err := a.targets(cmd.Context(), arg, images)
				if err != nil {
					return err
				}
				return each(cmd.Context(), a, targets, func(t target) error {
					v, err := a.verify(cmd.Context(), t)
					if err != nil {
						return fmt.Errorf("%s: %w", t, err)
					}
					results = append(results, *v)
					return nil
				})
			})
			if printErr := a.print(results, func(w io.Writer) { showVerified(w, results, a.quiet) }); printErr != nil {
				return printErr
			}
			if !slices.ContainsFunc(results, func(v verified) bool { return !v.OK }) {
				return err
			}
			if err != nil { // damage matters most, but is not all
				a.complain(err)
			}
			return silentError{exitDamaged}
		},
	}
	imagesFlag(cmd, &images)
	cmd.Flags().StringVar(&index, "index", "", "the INDEX to compare a CKM with")
	return cmd
}

// verified is what verify reports of one target.
type verified struct {
	Name     string           `json:"name"`
	Version  uint32           `json:"version"`
	Where    string           `json:"where"`
	Kind     string           `json:"kind"`           // package, staged, installed, bundle, file
	Digest   string           `json:"package_digest"` // of a package that is whole
	OK       bool             `json:"ok"`
	Faults   []assemble.Fault `json:"faults"`
	Signers  []sign.Signer    `json:"signers"`             // as far as the INDEX is whole
	Distrust string           `json:"untrusted,omitempty"` // why its signatures do not count

	what string
}

func (a *app) verify(ctx context.Context, t target) (*verified, error) {
	v := &verified{Name: t.name, Version: t.version, Kind: "package", what: t.String()}
	var (
		x   *ckm.Index
		err error
	)
	switch {
	case t.store != nil:
		v.Kind, v.Where = "installed", t.store.ImageDir(t.name, t.version)
		x, v.Faults, err = verifyInstalled(ctx, a, t)
	case t.staged:
		v.Kind, v.Where = "staged", t.folder.String()
		x, v.Faults, err = prestage.VerifyPackage(ctx, a.host(), t.name, t.version, a.meter)
	default:
		v.Where = t.folder.String()
		x, v.Faults, err = verify.Package(ctx, verify.Folder(t.folder), t.name, t.version, a.meter)
	}
	return v, a.conclude(v, x, err)
}

// verifyFile compares a CKM with an INDEX, wherever they lie.
func (a *app) verifyFile(ctx context.Context, data, index string) (*verified, error) {
	if _, err := os.Stat(data); err != nil {
		return nil, err
	}
	head, err := readHead(index)
	if err != nil {
		return nil, err
	}
	open := func(file string) (verify.File, error) {
		if file == ckm.IndexName(head.Name, head.Version) {
			return repo.OpenFile(index)
		}
		return repo.OpenFile(data)
	}
	v := &verified{Name: head.Name, Version: head.Version, Where: data, Kind: "file", what: data}
	x, faults, err := verify.Package(ctx, open, head.Name, head.Version, a.meter)
	v.Faults = faults
	return v, a.conclude(v, x, err)
}

func readHead(index string) (*ckm.Head, error) {
	f, err := repo.OpenFile(index)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return repo.ReadHead(io.NewSectionReader(f, 0, ckm.MaxIndexSize))
}

// conclude says of what package the faults are, if that is known, and whose
// signatures it has; err is why it could not be verified.
func (a *app) conclude(v *verified, x *ckm.Index, err error) error {
	if err != nil {
		return err
	}
	v.OK, v.Signers = len(v.Faults) == 0, []sign.Signer{}
	if v.OK {
		v.Faults = []assemble.Fault{}
	}
	if x == nil {
		return nil
	}
	if v.OK && v.Kind != "installed" {
		v.Digest = x.Digest().String()
	}
	trust, err := a.trust()
	if err != nil {
		return err
	}
	v.Signers = trust.Signers(x)
	if err := trust.Check(x); err != nil {
		v.OK, v.Distrust = false, err.Error()
	}
	return nil
}

// verifyBundle checks a deployment package, which has no name and no version.
func (a *app) verifyBundle(ctx context.Context, dir string) (*verified, error) {
	faults, err := bundle.Verify(ctx, dir, a.meter)
	if err != nil {
		return nil, err
	}
	v := &verified{Where: dir, Kind: "bundle", Faults: faults, what: "deployment package " + dir}
	return v, a.conclude(v, nil, nil)
}

func verifyInstalled(ctx context.Context, a *app, t target) (*ckm.Index, []assemble.Fault, error) {
	x, err := t.store.Index(t.name, t.version)
	if err != nil {
		return nil, nil, err
	}
	faults, err := verify.Image(ctx, x, t.store.ImageDir(t.name, t.version), a.meter)
	return x, faults, err
}

func showVerified(w io.Writer, results []verified, damagedOnly bool) {
	for _, v := range results {
		if v.OK && damagedOnly {
			continue
		}
		switch {
		case v.OK:
			fmt.Fprintf(w, "ok       %s\n", v.what)
		case len(v.Faults) > 0:
			fmt.Fprintf(w, "DAMAGED  %s: %s\n", v.what, count(len(v.Faults), "fault"))
		default:
			fmt.Fprintf(w, "UNTRUSTED  %s\n", v.what)
		}
		for _, s := range v.Signers {
			fmt.Fprintf(w, "  signed by %s\n", s)
		}
		if v.Distrust != "" {
			fmt.Fprintf(w, "  %s\n", v.Distrust)
		}
		for _, f := range v.Faults {
			fmt.Fprintf(w, "  %s\n", f)
		}
		switch {
		case len(v.Faults) == 0:
		case v.Kind == "installed":
			fmt.Fprintf(w, "  An image that was used is changed by that. \"prestage repair\" makes it what was packed; changes are lost.\n")
		case v.Kind == "bundle":
			fmt.Fprintf(w, "  Install nothing from it. Copy it again, or make it anew with \"prestage bundle\".\n")
		case v.Kind == "file":
		default:
			fmt.Fprintf(w, "  \"prestage repair\" mends it from another copy (--from).\n")
		}
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// signedPackage is what sign reports of one package.
type signedPackage struct {
	Image string   `json:"image"`
	Keys  []string `json:"keys"` // whose signatures it has now
}

func (a *app) signCommand() *cobra.Command {
	var images, key, signature, public string
	cmd := &cobra.Command{
		Use:   "sign IMAGE... --key KEY",
		Short: "Sign packages that are packed already",
		Long: `KEY is a file with a secret key (prestage key new, or minisign -G). The signature
goes into the INDEX, beside those by other keys; nothing else changes: machines that
have the package keep it, and the next push brings them the signature. Whoever signs
says what the INDEX says: verify a package first that lay where others can write.

A key that never comes to this machine signs there, by minisign -S, the file that
"prestage inspect IMAGE --export DIR" writes; --signature brings the .minisig file into
the package, if it is right under --public-key.`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if (key == "") == (signature == "") || (signature == "") != (public == "") || signature != "" && len(args) > 1 {
				return usageError{errors.New("name the secret key with --key KEY; or for one IMAGE --signature FILE and --public-key KEY.pub")}
			}
			r, err := a.folder(images)
			if err != nil {
				return err
			}
			if staged, err := a.stagedFolder(cmd.Context()); err == nil && same(staged, r.String()) {
				return usageError{errors.New("packages are not signed in the pre-stage folder; sign them where they were packed, and push them again")}
			}
			add, err := signing(cmd.Context(), key, signature, public)
			if err != nil {
				return err
			}
			done := []signedPackage{}
			err = each(cmd.Context(), a, args, func(arg string) error {
				name, version, err := imageIn(cmd.Context(), r, arg)
				if err != nil {
					return err
				}
				x, err := r.Sign(cmd.Context(), name, version, add)
				if err = a.exceptCatalog(err, "signed", x, r); err != nil {
					return err
				}
				done = append(done, signedPackage{repo.ImageName(name, version), repo.KeyIDs(x.Signatures)})
				return nil
			})
			if err != nil && len(done) == 0 {
				return err
			}
			return errors.Join(err, a.report(done, func(w io.Writer) {
				for _, s := range done {
					fmt.Fprintf(w, "signed %s in %s\n", s.Image, r)
				}
			}))
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "a file with the secret key")
	cmd.Flags().StringVar(&signature, "signature", "", "a file that minisign -S has made of the package's statement")
	cmd.Flags().StringVar(&public, "public-key", "", "the public key that the signature is by: its file, or its line")
	imagesFlag(cmd, &images)
	return cmd
}

// signing returns what signs: a secret key, or a signature that was made already.
func signing(ctx context.Context, key, signature, public string) (func(x *ckm.Index) error, error) {
	if key != "" {
		when, err := creationTime()
		if err != nil {
			return nil, err
		}
		return signer(ctx, key, when)
	}
	text, err := readSmall(signature)
	if err != nil {
		return nil, err
	}
	lines, err := publicKeys([]string{public})
	if err != nil {
		return nil, err
	}
	return func(x *ckm.Index) error {
		if err := sign.Attach(x, text, lines[0]); err != nil {
			return fmt.Errorf("%s: %w", signature, err)
		}
		return nil
	}, nil
}

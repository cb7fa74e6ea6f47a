package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/repo"
)

// signedPackage is what sign reports of one package.
type signedPackage struct {
	Image string   `json:"image"`
	Keys  []string `json:"keys"` // whose signatures it has now
}

func (a *app) signCommand() *cobra.Command {
	var images, key string
	cmd := &cobra.Command{
		Use:   "sign IMAGE... --key KEY",
		Short: "Sign packages that are packed already",
		Long: `KEY is a file with a secret key (prestage key new, or minisign -G). The signature
goes into the INDEX, beside those by other keys; nothing else changes: machines that
have the package keep it, and the next push brings them the signature. Whoever signs
says what the INDEX says: verify a package first that lay where others can write.`,
		Args: atLeast(1, "one IMAGE or more"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if key == "" {
				return usageError{errors.New("name the secret key with --key KEY")}
			}
			r, err := a.folder(images)
			if err != nil {
				return err
			}
			if staged, err := a.stagedFolder(cmd.Context()); err == nil && same(staged, r.String()) {
				return usageError{errors.New("packages are not signed in the pre-stage folder; sign them where they were packed, and push them again")}
			}
			when, err := creationTime()
			if err != nil {
				return err
			}
			sign, err := signer(key, when)
			if err != nil {
				return err
			}
			done := []signedPackage{}
			err = each(cmd.Context(), a, args, func(arg string) error {
				name, version, err := imageIn(cmd.Context(), r, arg)
				if err != nil {
					return err
				}
				x, err := r.Sign(cmd.Context(), name, version, sign)
				if err = a.exceptCatalog(err, "signed", x, r); err != nil {
					return err
				}
				done = append(done, signedPackage{repo.ImageName(name, version), signersOf(x)})
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
	imagesFlag(cmd, &images)
	return cmd
}

// signersOf returns the IDs of the keys that a package says it is signed by.
func signersOf(x *ckm.Index) []string {
	ids := []string{}
	list, _ := ckm.ParseSignatures(x.Signatures) // the index was decoded
	for _, s := range list {
		ids = append(ids, s.Key.String())
	}
	return ids
}

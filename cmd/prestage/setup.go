package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"prestage/internal/prestage"
	"prestage/internal/settings"
)

func (a *app) setupCommand() *cobra.Command {
	var strict, recommended bool
	var trusted []string
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "setup [FOLDER]",
		Short: "Create or mend the pre-stage folder, its rights, and the setting that leads to it",
		Long: `FOLDER is the folder that "MED-V Images" is in or shall be created in, or that
folder itself. Without FOLDER, the folders that are set up already are mended.

The rights are those that MED-V recommends. They let every user of a Windows
machine create folders in "MED-V Images"; with --strict they do not. The choice
is kept until --recommended or --strict is given again.

With --trusted-key, packages must be signed from now on: by one of the keys that are
named, which take the place of those before. Name it more than once for several.`,
		Args: cobra.MatchAll(atMostOne),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder, profile := "", ""
			switch {
			case strict:
				profile = settings.Strict
			case recommended:
				profile = settings.Recommended
			}
			keys, err := publicKeys(trusted)
			if err != nil {
				return err
			}
			if f.given() {
				if len(args) == 1 {
					folder = args[0] // as it is called there
				}
				return a.setupFleet(cmd.Context(), folder, profile, keys, &f)
			}
			if len(args) == 1 {
				if folder, err = folderArgument(args[0]); err != nil {
					return err
				}
			}
			// Before anything else is done by the keys that were trusted before.
			changes, err := prestage.Trust(cmd.Context(), a.host(), keys)
			if err != nil {
				return err
			}
			loc, err := prestage.Setup(cmd.Context(), a.host(), folder, profile)
			if err != nil {
				return err
			}
			loc.Changes = append(loc.Changes, changes...)
			return a.showLocation(loc)
		},
	}
	cmd.Flags().StringArrayVar(&trusted, "trusted-key", nil, "a public key whose signatures count: its file, or its line")
	cmd.Flags().BoolVar(&strict, "strict", false, `let administrators alone create folders in "MED-V Images"`)
	cmd.Flags().BoolVar(&recommended, "recommended", false, "the rights that MED-V recommends, again")
	cmd.MarkFlagsMutuallyExclusive("strict", "recommended")
	f.add(cmd)
	return cmd
}

// folderArgument reads a FOLDER. Two slips of the Windows command line would
// lead to a folder that nobody meant.
func folderArgument(arg string) (string, error) {
	switch {
	case arg == "":
		return "", usageError{errors.New("FOLDER is empty")}
	case runtime.GOOS == "windows" && strings.Contains(arg, `"`):
		return "", usageError{fmt.Errorf(`FOLDER is %q, with a quotation mark: write no \ before the closing one`, arg)}
	case len(arg) == 2 && filepath.VolumeName(arg) == arg:
		return "", usageError{fmt.Errorf(`FOLDER %s means the current folder of that drive; write %s\`, arg, arg)}
	}
	if runtime.GOOS == "windows" {
		arg = strings.TrimPrefix(arg, `\\?\`) // long paths need no mark
	}
	return absolute(arg), nil
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError{fmt.Errorf("it takes one FOLDER at most, and %d arguments were given", len(args))}
	}
	return nil
}

func (a *app) relocateCommand() *cobra.Command {
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "relocate FOLDER",
		Short: "Move the pre-stage location: set the new folder up, verify what is in it, change the setting",
		Long: `FOLDER is as with setup. Packages are not copied from the old place: copy them
first, or push them anew afterwards.`,
		Args: exactly(1, "one FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if f.given() {
				return a.relocateFleet(cmd.Context(), args[0], &f)
			}
			folder, err := folderArgument(args[0])
			if err != nil {
				return err
			}
			loc, err := prestage.Relocate(cmd.Context(), a.host(), folder, a.meter)
			if err != nil {
				return err
			}
			return a.showLocation(loc)
		},
	}
	f.add(cmd)
	return cmd
}

func (a *app) showLocation(loc *prestage.Location) error {
	if loc.Changes == nil {
		loc.Changes = []string{}
	}
	return a.report(loc, func(w io.Writer) {
		for _, c := range loc.Changes {
			fmt.Fprintln(w, c)
		}
		if len(loc.Changes) == 0 {
			fmt.Fprintln(w, "all is as it should be")
		}
		fmt.Fprintf(w, "pre-stage folder: %s\n", loc.Staged)
	})
}

package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/internal/prestage"
)

func (a *app) setupCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "setup [FOLDER]",
		Short: "Create or mend the pre-stage folder, its rights, and the setting that leads to it",
		Long: `FOLDER is the folder that "MED-V Images" is in or shall be created in, or that
folder itself. Without FOLDER, the folders that are set up already are mended.`,
		Args: cobra.MatchAll(atMostOne),
		RunE: func(cmd *cobra.Command, args []string) error {
			folder := ""
			if len(args) == 1 {
				folder = absolute(args[0])
			}
			h, err := a.host()
			if err != nil {
				return err
			}
			loc, err := prestage.Setup(cmd.Context(), h, folder)
			if err != nil {
				return err
			}
			return a.showLocation(loc)
		},
	}
}

func atMostOne(cmd *cobra.Command, args []string) error {
	if len(args) > 1 {
		return usageError{fmt.Errorf("it takes one FOLDER at most, and %d arguments were given", len(args))}
	}
	return nil
}

func (a *app) relocateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "relocate FOLDER",
		Short: "Move the pre-stage location: set the new folder up, verify what is in it, change the setting",
		Long: `FOLDER is as with setup. Packages are not copied from the old place: copy them
first, or push them anew afterwards.`,
		Args: exactly(1, "one FOLDER"),
		RunE: func(cmd *cobra.Command, args []string) error {
			h, err := a.host()
			if err != nil {
				return err
			}
			loc, err := prestage.Relocate(cmd.Context(), h, absolute(args[0]), a.meter)
			if err != nil {
				return err
			}
			return a.showLocation(loc)
		},
	}
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

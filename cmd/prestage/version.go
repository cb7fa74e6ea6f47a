package main

import (
	"fmt"
	"io"
	"runtime"

	"github.com/spf13/cobra"

	"prestage/ckm"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of the program and of the format it writes",
		Args:  exactly(0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			v := map[string]any{"version": version, "format": ckm.Version, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH}
			return a.print(v, func(w io.Writer) {
				fmt.Fprintf(w, "prestage %s (format %d, %s, %s/%s)\n", version, ckm.Version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			})
		},
	}
}

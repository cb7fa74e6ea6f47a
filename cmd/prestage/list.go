package main

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"prestage/internal/repo"
)

func (a *app) listCommand() *cobra.Command {
	var images string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the packages of a folder or a server",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.repository(images)
			if err != nil {
				return err
			}
			var problems []error
			var entries []repo.Entry
			if f, ok := r.(*repo.Folder); ok {
				entries, problems, err = f.Scan(cmd.Context())
			} else {
				entries, err = r.List(cmd.Context())
			}
			if err != nil {
				return err
			}
			for _, p := range problems {
				a.meter.Warn("%v", p)
			}
			if entries == nil {
				entries = []repo.Entry{}
			}
			return a.print(entries, func(w io.Writer) {
				t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
				fmt.Fprintln(t, "IMAGE NAME\tVERSION\tFILE SIZE\tIMAGE SIZE\tCREATED\tSIGNED BY")
				for _, e := range entries {
					fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", e.Name, e.Version, size(e.FileSize), size(e.ImageSize), e.Created.Format("2006-01-02 15:04"), cmp.Or(strings.Join(e.SignedBy, " "), "-"))
				}
				t.Flush()
			})
		},
	}
	imagesFlag(cmd, &images)
	return cmd
}

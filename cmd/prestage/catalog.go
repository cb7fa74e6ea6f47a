package main

import (
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"prestage/internal/repo"
)

func (a *app) catalogCommand() *cobra.Command {
	var iis bool
	cmd := &cobra.Command{
		Use:   "catalog DIR",
		Short: "Write catalog.json, which tells clients of a web server what the folder holds",
		Args:  exactly(1, "one DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r := repo.NewFolder(args[0])
			entries, problems, err := r.Scan(cmd.Context())
			if err != nil {
				return err
			}
			for _, p := range problems {
				a.meter.Warn("%v", p)
			}
			if err := r.WriteCatalog(cmd.Context()); err != nil {
				return err
			}
			path := r.Path(repo.CatalogName)
			wrote := map[string]any{"catalog": path, "images": len(entries)}
			if iis {
				if err := r.WriteWebConfig(); err != nil {
					return err
				}
				wrote["web_config"] = r.Path(repo.WebConfigName)
			}
			return a.report(wrote, func(w io.Writer) {
				fmt.Fprintf(w, "wrote %s with %s\n", path, count(len(entries), "image"))
				if iis {
					fmt.Fprintf(w, "wrote %s\n", r.Path(repo.WebConfigName))
				}
			})
		},
	}
	cmd.Flags().BoolVar(&iis, "iis", false, "write web.config too: Internet Information Services serves only what that names")
	return cmd
}

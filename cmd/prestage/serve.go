package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"prestage/internal/server"
	"prestage/internal/service"
)

func (a *app) serveCommand() *cobra.Command {
	var images, listen string
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a folder of packages over HTTP, until it is interrupted",
		Long: `Clients find the packages at http://ADDR/MEDVImages/. A package can be seen when
both of its files are there; packages that are added or removed meanwhile are
noticed. What the server does is told on standard error, or with --json on
standard output, a line each.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			folder, err := a.folder(images)
			if err != nil {
				return err
			}
			if _, err := folder.List(cmd.Context()); err != nil {
				return err
			}
			l, err := net.Listen("tcp", listen)
			if err != nil {
				return fmt.Errorf("%w; name another address with --listen", err)
			}
			s := server.New(server.Config{Folder: folder, Log: slog.New(a.serviceLog())})
			return service.Run(cmd.Context(), func(ctx context.Context, ready func()) error { return s.Serve(ctx, l, ready) })
		},
	}
	imagesFlag(cmd, &images)
	cmd.Flags().StringVar(&listen, "listen", ":8080", "address and port to listen on; port 0 takes a free one")
	return cmd
}

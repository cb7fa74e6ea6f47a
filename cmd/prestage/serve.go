package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"

	"github.com/spf13/cobra"

	"prestage/internal/server"
	"prestage/internal/service"
)

// serveFlags are what a server is told on the command line.
type serveFlags struct {
	images, listen string
	tls            server.TLS
	clientCert     string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a folder of packages over HTTP, until it is interrupted",
		Long: `Clients find the packages at http://ADDR/MEDVImages/. A package can be seen when
both of its files are there; packages that are added or removed meanwhile are
noticed. What the server does is told on standard error, or with --json on
standard output, a line each.

With --tls-cert and --tls-key it is https://, and HTTP/2. Files that flags name
are read again when they have changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			log := slog.New(a.serviceLog())
			s, err := a.newServer(cmd.Context(), &f, log)
			if err != nil {
				return err
			}
			l, err := net.Listen("tcp", f.listen)
			if err != nil {
				return fmt.Errorf("%w; name another address with --listen", err)
			}
			return service.Run(cmd.Context(), func(ctx context.Context, ready func()) error { return s.Serve(ctx, l, ready) })
		},
	}
	imagesFlag(cmd, &f.images)
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", ":8080", "address and port to listen on; port 0 takes a free one")
	flags.StringVar(&f.tls.Cert, "tls-cert", "", "certificate of the server, PEM, with those that lead to its root")
	flags.StringVar(&f.tls.Key, "tls-key", "", "its key, PEM")
	flags.StringVar(&f.tls.ClientCA, "client-ca", "", "who signs the certificates of clients, PEM; clients without one are refused")
	flags.StringVar(&f.clientCert, "client-cert", "required", "whether clients need a certificate: required or optional")
	return cmd
}

// newServer returns the server that the flags ask for.
func (a *app) newServer(ctx context.Context, f *serveFlags, log *slog.Logger) (*server.Server, error) {
	if (f.tls.Cert == "") != (f.tls.Key == "") {
		return nil, usageError{errors.New("--tls-cert and --tls-key go together")}
	}
	if f.tls.ClientCA != "" && f.tls.Cert == "" {
		return nil, usageError{errors.New("--client-ca needs --tls-cert and --tls-key: without TLS nobody shows a certificate")}
	}
	if f.clientCert != "required" && f.clientCert != "optional" {
		return nil, usageError{fmt.Errorf("--client-cert %q: use required or optional", f.clientCert)}
	}
	f.tls.Optional = f.clientCert == "optional"
	folder, err := a.folder(f.images)
	if err != nil {
		return nil, err
	}
	if _, err := folder.List(ctx); err != nil {
		return nil, err
	}
	return server.New(server.Config{Folder: folder, Log: log, TLS: f.tls})
}

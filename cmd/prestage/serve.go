package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"prestage/internal/durable"
	"prestage/internal/ledger"
	"prestage/internal/server"
	"prestage/internal/server/access"
	"prestage/internal/service"
)

// serveFlags are what a server is told on the command line.
type serveFlags struct {
	images, listen string
	tls            server.TLS
	clientCert     string
	access         access.Config
	events         eventsFlags

	trusted          []string
	uploads, ofImage string
	uploadAge        time.Duration
	keep             int

	accessLog, metrics        string
	limit, limitEach, minRate string
	limits                    server.Limits
	proxies                   []string
}

func (a *app) serveCommand() *cobra.Command {
	var f serveFlags
	var controlled bool
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve a folder of packages over HTTP, until it is interrupted",
		Long: `Clients find the packages at http://ADDR/MEDVImages/. A package can be seen when
both of its files are there; packages that are added or removed meanwhile are
noticed. What the server does is told on standard error, or with --json on
standard output, a line each.

Everybody may read all packages, unless --users, --tokens, --keytab or --client-ca
says how readers are known. --rights says who may read which images:

    [[allow]]
    images = ["win11", "kiosk-*"]
    readers = ["user:alice", "token:floor2", "certificate:*.example", "kerberos:*@EXAMPLE.COM"]

"*" is all whom the server knows, "anyone" everybody else too. Who is named in a line

    writers = ["token:build"]

beside images may upload and remove them (prestage upload, prestage remove), over TLS
or from this machine. A package can be seen when all of it has come and was found good;
with --trusted-key, or trusted keys in the settings, only if one of them has signed it.

With --events the server keeps what machines tell: who is known may tell, which is
everybody where nobody need be known. "prestage report" shows it.

With --tls-cert and --tls-key it is https://, and HTTP/2. Files that flags name
are read again when they have changed.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if controlled {
				return a.serveControlled(&f)
			}
			log := slog.New(a.serviceLog())
			return service.Run(cmd.Context(), func(ctx context.Context, ready func()) error { return a.serve(ctx, &f, log, ready) })
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&controlled, "service", false, "run under the service control manager of Windows, which starts it so")
	cmd.AddCommand(a.serveTokenCommand(), a.serveInstallCommand(),
		a.uninstallService(service.Server, "Stop the service and remove it; packages stay"))
	return cmd
}

// add adds the flags to a command.
func (f *serveFlags) add(cmd *cobra.Command) {
	imagesFlag(cmd, &f.images)
	flags := cmd.Flags()
	flags.StringVar(&f.listen, "listen", ":8080", "address and port to listen on; port 0 takes a free one")
	flags.StringVar(&f.tls.Cert, "tls-cert", "", "certificate of the server, PEM, with those that lead to its root")
	flags.StringVar(&f.tls.Key, "tls-key", "", "its key, PEM")
	flags.StringVar(&f.tls.ClientCA, "client-ca", "", "who signs the certificates of clients, PEM; clients without one are refused")
	flags.StringVar(&f.tls.Revoked, "client-crl", "", "which of these certificates are revoked: lists (CRLs) of who signs them, PEM or DER")
	flags.StringVar(&f.clientCert, "client-cert", "required", "whether clients need a certificate: required or optional")
	flags.StringVar(&f.access.Users, "users", "", "who may read by name and password: a file of htpasswd -B")
	flags.StringVar(&f.access.Tokens, "tokens", "", "who may read by a token: a file of \"serve token\"")
	flags.StringVar(&f.access.Keytab, "keytab", "", "who may read by a Kerberos ticket: the keys of HTTP/NAME")
	flags.StringVar(&f.access.Rights, "rights", "", "which images each of them may read and write: a TOML file (default all may be read, none written)")
	flags.StringArrayVar(&f.trusted, "trusted-key", nil, "a public key whose signatures uploads need: its file, or its line (default those of the settings)")
	flags.StringVar(&f.uploads, "uploads", "", "most bytes of unfinished uploads, for instance 500GiB (default what the disk has)")
	flags.StringVar(&f.ofImage, "uploads-each", "", "and of those of each image")
	flags.DurationVar(&f.uploadAge, "upload-age", 72*time.Hour, "when nobody has gone on with an upload for so long, it is removed")
	flags.IntVar(&f.keep, "keep", -1, "versions before the latest that stay when one is uploaded; -1: all")
	flags.StringVar(&f.limit, "limit", "", "most bytes a second to all clients together, for instance 100MiB, shared fairly")
	flags.StringVar(&f.limitEach, "limit-each", "", "most bytes a second to each client")
	flags.StringVar(&f.minRate, "min-rate", "1KiB", "bytes a second that a client must take, or be cut")
	flags.IntVar(&f.limits.Connections, "connections", 10_000, "most connections at once, of all clients together; 0 is no limit")
	flags.IntVar(&f.limits.EachHas, "connections-each", 256, "most connections at once of each client, that is, of each address; 0 is no limit")
	flags.StringArrayVar(&f.proxies, "trusted-proxy", nil, "address or network of a proxy before the server, which names its clients in X-Forwarded-For or Forwarded")
	flags.DurationVar(&f.limits.DrainMax, "drain", 20*time.Second, "when the server is to end, how long answers that are under way may take")
	flags.DurationVar(&f.limits.DrainNotice, "drain-notice", 0, "and for how long before that it says so, at /readyz, and answers still")
	flags.StringVar(&f.accessLog, "access-log", "none", "where a line of JSON goes for each request: a file, - for standard output, or none")
	f.events.add(cmd)
	flags.StringVar(&f.metrics, "metrics", "", "address and port for /metrics (Prometheus), /healthz and /readyz, without TLS")
}

// serve serves until ctx ends.
func (a *app) serve(ctx context.Context, f *serveFlags, log *slog.Logger, ready func()) error {
	c, err := a.serverConfig(ctx, f, log)
	if err != nil {
		return err
	}
	if c.Requests, err = a.accessLog(f.accessLog); err != nil {
		return err
	}
	end, err := f.events.open(&c, log)
	if err != nil {
		return err
	}
	defer end()
	s, err := server.New(c)
	if err != nil {
		return err
	}
	l, err := listen("--listen", f.listen)
	if err != nil {
		return err
	}
	if f.metrics != "" {
		m, err := listen("--metrics", f.metrics)
		if err != nil {
			return err
		}
		log.Info(fmt.Sprintf("metrics are at http://%s/metrics", m.Addr()))
		s.WatchedAt(m)
	}
	if err = s.Serve(ctx, l, ready); errors.Is(err, server.ErrOverheard) {
		return usageError{err}
	}
	return err
}

func listen(flag, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("%w; name another address with %s", err, flag)
	}
	return l, nil
}

// serveControlled serves as a service of Windows, which has no console.
func (a *app) serveControlled(f *serveFlags) error {
	return service.Server.RunControlled(func(ctx context.Context, ready func()) error {
		events, err := service.Server.EventLog()
		if err != nil {
			return err
		}
		log := slog.New(events)
		if err = a.serve(ctx, f, log, ready); err != nil {
			log.Error(fmt.Sprintf("the server has given up: %v", err))
		}
		return err
	})
}

func (a *app) serveInstallCommand() *cobra.Command {
	var f serveFlags
	var cmd *cobra.Command
	cmd = a.installService(service.Server, "Make the server a service of this machine, with these flags, and start it",
		func(ctx context.Context) ([]string, error) {
			place, err := a.imagesPlace(f.images)
			if err != nil {
				return nil, err
			}
			f.images = place
			c, err := a.serverConfig(ctx, &f, slog.New(a.serviceLog()))
			if err != nil {
				return nil, err
			}
			if _, err := server.New(c); err != nil { // what would keep it from starting
				return nil, err
			}
			if err := f.events.forService(c.Log); err != nil {
				return nil, err
			}
			return append([]string{"serve", "--images=" + absolute(place)}, f.given(cmd)...), nil
		})
	f.add(cmd)
	return cmd
}

// given returns the flags that a command was given, with absolute paths, but for
// --images.
func (f *serveFlags) given(cmd *cobra.Command) (words []string) {
	own := &cobra.Command{}
	(&serveFlags{}).add(own)
	cmd.Flags().Visit(func(flag *pflag.Flag) {
		value := flag.Value.String()
		switch flag.Name {
		case "images":
			return
		case "events":
			if value != "" && !ledger.IsServer(value) {
				value = absolute(value)
			}
		case "tls-cert", "tls-key", "client-ca", "client-crl", "users", "tokens", "keytab", "rights", "access-log":
			if value != "" && value != "none" && value != "-" {
				value = absolute(value)
			}
		}
		if list := map[string][]string{"trusted-key": f.trusted, "trusted-proxy": f.proxies}[flag.Name]; list != nil {
			for _, one := range list { // keys as lines, wherever their files lie
				words = append(words, "--"+flag.Name+"="+one)
			}
			return
		}
		if own.Flags().Lookup(flag.Name) != nil {
			words = append(words, "--"+flag.Name+"="+value)
		}
	})
	return words
}

// serverConfig returns what the flags ask for.
func (a *app) serverConfig(ctx context.Context, f *serveFlags, log *slog.Logger) (c server.Config, err error) {
	if (f.tls.Cert == "") != (f.tls.Key == "") {
		return c, usageError{errors.New("--tls-cert and --tls-key go together")}
	}
	if f.tls.ClientCA != "" && f.tls.Cert == "" {
		return c, usageError{errors.New("--client-ca needs --tls-cert and --tls-key: without TLS nobody shows a certificate")}
	}
	if f.tls.Revoked != "" && f.tls.ClientCA == "" {
		return c, usageError{errors.New("--client-crl needs --client-ca: without it no certificates count that could be revoked")}
	}
	if f.clientCert != "required" && f.clientCert != "optional" {
		return c, usageError{fmt.Errorf("--client-cert %q: use required or optional", f.clientCert)}
	}
	f.tls.Optional = f.clientCert == "optional"
	for flag, rate := range map[string]struct {
		text string
		into *int64
	}{
		"--limit": {f.limit, &f.limits.Total}, "--limit-each": {f.limitEach, &f.limits.Each}, "--min-rate": {f.minRate, &f.limits.MinRate},
	} {
		if *rate.into, err = byteRate(flag, rate.text); err != nil {
			return c, err
		}
	}
	if f.limits.Connections < 0 || f.limits.EachHas < 0 || f.limits.DrainMax < 0 || f.limits.DrainNotice < 0 {
		return c, usageError{errors.New("numbers of connections and times must not be negative")}
	}
	var proxies server.Proxies
	for _, s := range f.proxies {
		p, err := server.ParseProxy(s)
		if err != nil {
			return c, usageError{fmt.Errorf("--trusted-proxy %w", err)}
		}
		proxies = append(proxies, p)
	}
	uploads, err := a.uploadsConfig(f)
	if err != nil {
		return c, err
	}
	folder, err := a.folder(f.images)
	if err != nil {
		return c, err
	}
	if _, err := folder.List(ctx); err != nil {
		return c, err
	}
	return server.Config{Folder: folder, Log: log, TLS: f.tls, Access: f.access, Limits: f.limits, Proxies: proxies, Uploads: uploads}, nil
}

// accessLog returns where requests are recorded, nil for nowhere.
func (a *app) accessLog(place string) (*slog.Logger, error) {
	var to io.Writer = a.out
	switch place {
	case "none", "":
		return nil, nil
	case "-":
	default:
		f, err := os.OpenFile(place, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
		if err != nil {
			return nil, fmt.Errorf("--access-log: %w", err)
		}
		to = f
	}
	return slog.New(slog.NewJSONHandler(to, nil)), nil
}

func (a *app) serveTokenCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "token NAME",
		Short: "Make a token for a machine, and add it to the file of --tokens",
		Long: `The token is printed, once: the file holds its digest only. The machine sends it when
it finds it in $PRESTAGE_TOKEN. Who takes the line NAME:… out of the file, takes it back.`,
		Args: exactly(1, "one NAME"),
		RunE: func(_ *cobra.Command, args []string) error {
			if file == "" {
				return usageError{errors.New("name the file with --tokens")}
			}
			have, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			token, line, err := access.NewToken(have, args[0])
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			if len(have) > 0 && have[len(have)-1] != '\n' {
				have = append(have, '\n')
			}
			if err := durable.WriteFile(file, append(have, line...), 0o600); err != nil {
				return err
			}
			return a.print(map[string]string{"name": args[0], "token": token}, func(w io.Writer) { fmt.Fprintln(w, token) })
		},
	}
	cmd.Flags().StringVar(&file, "tokens", "", "the file")
	return cmd
}

// Package server is the image distribution server: a folder of packages over
// HTTP, as any static web server would serve it, but for what it knows of them.
// A package is there whole or not at all, says by its digest which one it is, and
// never changes.
package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"prestage/internal/repo"
	"prestage/internal/server/access"
)

// Prefix is the path that packages are under, which MED-V calls an alias.
const Prefix = "/MEDVImages/"

// Config says what is served, and how.
type Config struct {
	Folder *repo.Folder
	Log    *slog.Logger // of what the server does, for people
	TLS    TLS          // without a certificate, nothing is encrypted
	Access access.Config
}

// Server serves a folder of packages.
type Server struct {
	config Config
	shelf  *shelf
	tls    *tls.Config // nil: nothing is encrypted
	gate   *access.Gate
}

// New returns a server, after reading the files that the configuration names.
func New(c Config) (*Server, error) {
	s := &Server{config: c, shelf: newShelf(c.Folder, c.Log)}
	c.Access.Certificates = c.TLS.ClientCA != ""
	var err error
	if s.gate, err = access.New(c.Access, c.Log); err != nil {
		return nil, err
	}
	if c.TLS.Cert != "" {
		if s.tls, err = c.TLS.config(c.Log); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// ErrOverheard says that passwords or tokens would be sent to the server without
// encryption over a network.
var ErrOverheard = errors.New("passwords and tokens would be overheard: use TLS, or listen on loopback, behind a server that does")

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

// Limits of a request, whoever makes it.
const (
	headerTime  = 10 * time.Second // from the first byte of a request's header to its last
	idleTime    = 2 * time.Minute  // between requests on a connection
	headerBytes = 64 << 10         // of a request's header: a Kerberos ticket may take most of that
	streams     = 32               // requests at once on a connection of HTTP/2
)

// Serve answers on l until ctx ends, which is no error. It calls ready as soon as
// it does.
func (s *Server) Serve(ctx context.Context, l net.Listener, ready func()) error {
	if s.tls == nil && s.config.Access.Secrets() && !isLoopback(l.Addr()) {
		l.Close()
		return fmt.Errorf("listening on %s: %w", l.Addr(), ErrOverheard)
	}
	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerBytes,
		TLSConfig:         s.tls,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streams, SendPingTimeout: idleTime / 4},
		// What clients do wrong is in the log of requests, if anywhere.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	ended := make(chan error, 1)
	scheme, serve := "http", web.Serve
	if s.tls != nil {
		scheme, serve = "https", func(l net.Listener) error { return web.ServeTLS(l, "", "") }
	}
	go func() { ended <- serve(l) }()
	s.config.Log.Info(fmt.Sprintf("%s is served at %s://%s%s", s.config.Folder, scheme, l.Addr(), Prefix))
	ready()
	select {
	case err := <-ended:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	err := web.Close()
	if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return err
}

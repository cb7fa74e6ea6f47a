// Package server is the image distribution server: a folder of packages over
// HTTP, as any static web server would serve it, but for what it knows of them.
// A package is there whole or not at all, says by its digest which one it is, and
// never changes.
package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"time"

	"prestage/internal/repo"
)

// Prefix is the path that packages are under, which MED-V calls an alias.
const Prefix = "/MEDVImages/"

// Config says what is served, and how.
type Config struct {
	Folder *repo.Folder
	Log    *slog.Logger // of what the server does, for people
}

// Server serves a folder of packages.
type Server struct {
	config Config
	shelf  *shelf
}

// New returns a server.
func New(c Config) *Server {
	return &Server{config: c, shelf: newShelf(c.Folder, c.Log)}
}

// Limits of a request, whoever makes it.
const (
	headerTime  = 10 * time.Second // from the first byte of a request's header to its last
	idleTime    = 2 * time.Minute  // between requests on a connection
	headerBytes = 64 << 10         // of a request's header: a Kerberos ticket may take most of that
)

// Serve answers on l until ctx ends, which is no error. It calls ready as soon as
// it does.
func (s *Server) Serve(ctx context.Context, l net.Listener, ready func()) error {
	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: headerTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    headerBytes,
		// What clients do wrong is in the log of requests, if anywhere.
		ErrorLog: log.New(io.Discard, "", 0),
	}
	ended := make(chan error, 1)
	go func() { ended <- web.Serve(l) }()
	s.config.Log.Info(fmt.Sprintf("%s is served at http://%s%s", s.config.Folder, l.Addr(), Prefix))
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

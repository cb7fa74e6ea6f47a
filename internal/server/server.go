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
	"sync/atomic"
	"time"

	"prestage/internal/repo"
	"prestage/internal/server/access"
	"prestage/internal/server/pace"
	"prestage/internal/server/upload"
)

// Prefix is the path that packages are under, which MED-V calls an alias.
const Prefix = "/MEDVImages/"

// Config says what is served, and how.
type Config struct {
	Folder *repo.Folder
	Log    *slog.Logger // of what the server does, for people
	TLS    TLS          // without a certificate, nothing is encrypted
	Access access.Config
	Limits Limits
	// Proxies are believed when they say in the header of a request for whom they ask.
	Proxies Proxies
	// Uploads bounds what writers send; its Folder and Log are those above.
	Uploads upload.Config

	Requests *slog.Logger // a record of each request, or nil
	Events   Events       // takes what machines tell, or nil
}

// Server serves a folder of packages.
type Server struct {
	config Config
	shelf  *shelf
	tls    *tls.Config // nil: nothing is encrypted
	gate   *access.Gate
	pacer  *pace.Pacer
	store  *upload.Store // of unfinished uploads
	plain  bool          // others could overhear and change what is sent

	metrics *metrics
	reports *reports
	watched net.Listener // or nil
	ready   atomic.Bool  // it answers, and will go on to

	patience patience
}

// New returns a server, after reading the files that the configuration names.
func New(c Config) (*Server, error) {
	if c.Limits.MinRate == 0 {
		c.Limits.MinRate = leastRate
	}
	c.Access.Certificates = c.TLS.ClientCA != ""
	s := &Server{config: c, shelf: newShelf(c.Folder, c.Log), pacer: pace.New(c.Limits.Total, c.Limits.Each), patience: usualPatience}
	s.metrics = newMetrics(s.packages)
	s.reports = newReports(s.metrics.registry)
	var err error
	if s.gate, err = access.New(c.Access, c.Log); err != nil {
		return nil, err
	}
	if c.TLS.Cert != "" {
		if s.tls, err = c.TLS.config(c.Log, c.Requests); err != nil {
			return nil, err
		}
	}
	c.Uploads.Folder, c.Uploads.Log = c.Folder, c.Log
	s.store = upload.New(c.Uploads)
	s.metrics.countUploads(s.store)
	return s, nil
}

// WatchedAt has Serve answer on another listener, too, for those who watch over
// the server: metrics and health.
func (s *Server) WatchedAt(l net.Listener) { s.watched = l }

// ErrOverheard says that passwords or tokens would be sent to the server without
// encryption over a network.
var ErrOverheard = errors.New("passwords and tokens would be overheard: use TLS, or listen on loopback, behind a server that does")

func isLoopback(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	return ok && t.IP.IsLoopback()
}

var silent = log.New(io.Discard, "", 0)

// Serve answers on l until ctx ends, which is no error: answers that are under way
// are finished then, for as long as the limits say. It calls ready as soon as it
// answers.
func (s *Server) Serve(ctx context.Context, l net.Listener, ready func()) error {
	s.plain = s.tls == nil && !isLoopback(l.Addr())
	if s.plain && (s.config.Access.Secrets() || s.gate.Writers()) {
		l.Close()
		return fmt.Errorf("listening on %s: %w", l.Addr(), ErrOverheard)
	}
	defer s.keepStore(ctx)()
	limits := &s.config.Limits
	web := &http.Server{
		Handler:           s.handler(),
		ReadHeaderTimeout: s.patience.header,
		IdleTimeout:       s.patience.idle,
		MaxHeaderBytes:    headerBytes,
		TLSConfig:         s.tls,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: streams, SendPingTimeout: s.patience.stall},
		ConnContext:       withConn,
		// What clients do wrong is in the log of requests, if anywhere.
		ErrorLog: silent,
	}
	counted := &listener{Listener: l, most: limits.Connections, mostEach: limits.EachHas, proxies: s.config.Proxies, each: map[string]int{}}
	s.metrics.countConnections(counted)
	if s.watched != nil {
		defer s.serveMetrics(s.watched)()
	}
	scheme, serve := "http", web.Serve
	if s.tls != nil {
		scheme, serve = "https", func(l net.Listener) error { return web.ServeTLS(l, "", "") }
	}
	ended := make(chan error, 1)
	go func() { ended <- serve(counted) }()
	s.config.Log.Info(fmt.Sprintf("%s is served at %s://%s%s", s.config.Folder, scheme, l.Addr(), Prefix))
	s.ready.Store(true)
	ready()
	select {
	case err := <-ended:
		return fmt.Errorf("serving on %s: %w", l.Addr(), err)
	case <-ctx.Done():
	}
	return s.drain(ctx, web, ended)
}

// drain ends a server: first it says that it will, then it takes no more requests,
// then it waits for the answers that are under way, then it cuts those that are left.
func (s *Server) drain(ctx context.Context, web *http.Server, ended <-chan error) error {
	limits := &s.config.Limits
	s.ready.Store(false)
	s.config.Log.Info("the server ends as soon as it has finished what it is at")
	time.Sleep(limits.DrainNotice)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), limits.DrainMax)
	defer cancel()
	err := web.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		s.config.Log.Warn(fmt.Sprintf("some clients did not get all of their files in %v; they will ask again", limits.DrainMax))
		err = web.Close()
	}
	if end := <-ended; !errors.Is(end, http.ErrServerClosed) {
		return end
	}
	return err
}

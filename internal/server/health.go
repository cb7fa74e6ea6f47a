package server

import (
	"context"
	"fmt"
	"net/http"
)

// Paths for those who watch over the server.
const (
	healthPath = "/healthz" // it lives
	readyPath  = "/readyz"  // it should be sent requests
)

// say answers with a word.
func say(w http.ResponseWriter, code int, word string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	fmt.Fprintln(w, word)
}

// sayReady answers whether the server should be sent requests: not if it is about
// to end, nor if it cannot see its packages.
func (s *Server) sayReady(ctx context.Context, w http.ResponseWriter) {
	if !s.ready.Load() {
		say(w, http.StatusServiceUnavailable, "ending")
		return
	}
	if _, err := s.shelf.list(ctx); err != nil {
		say(w, http.StatusServiceUnavailable, "the folder of packages cannot be read")
		return
	}
	say(w, http.StatusOK, "ready")
}

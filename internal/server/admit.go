package server

import (
	"errors"
	"math"
	"net/http"
	"strconv"

	"prestage/internal/repo"
	"prestage/internal/server/access"
)

// admit finds out who asks, or answers that this cannot be believed.
func (s *Server) admit(w *answer, r *http.Request) bool {
	reader, err := s.gate.Identify(r, clientOf(w.remote))
	var guess access.GuessError
	switch {
	case err == nil:
		w.reader = reader
		return true
	case errors.Is(err, access.ErrUnknown):
		w.problem = err
		s.unknown(w)
	case errors.As(err, &guess):
		w.problem = err
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(guess.Wait.Seconds()))))
		because(w, http.StatusTooManyRequests, err.Error())
	default:
		later(w, http.StatusServiceUnavailable)
	}
	return false
}

// refuse answers to a reader who may not have what it asks for, whether or not
// that is there.
func (s *Server) refuse(w *answer) {
	if w.reader == access.Nobody {
		s.unknown(w)
		return
	}
	fail(w, http.StatusForbidden)
}

// unknown answers that a reader should say who it is.
func (s *Server) unknown(w *answer) {
	if s.gate.Challenge(w.Header()) {
		fail(w, http.StatusUnauthorized)
		return
	}
	fail(w, http.StatusForbidden) // only a certificate would help
}

// invite says in the header of an answer that the client would perhaps see more if it
// said who it is (RFC 9110, 11.6.1), as it is not asked to. It has all challenges, as
// an answer 401 would: which one suits is for the client to choose. Browsers and curl
// heed none but those of a 401, so that nobody is asked for a password; our own clients
// take up Negotiate. To who has shown a ticket it is never said: there it would be the
// server's part of the negotiation (RFC 4559, 5).
func (s *Server) invite(w *answer) {
	if w.reader == access.Nobody && s.gate.Hides() {
		s.gate.Challenge(w.Header())
	}
}

// readable returns those entries that a reader may read.
func (s *Server) readable(entries []repo.Entry, reader access.Reader) []repo.Entry {
	if s.gate.Open() {
		return entries
	}
	var may []repo.Entry
	for _, e := range entries {
		if s.gate.MayRead(reader, e.Name) {
			may = append(may, e)
		}
	}
	return may
}

// keep says how long caches may keep an answer; what not everybody may read is not
// for caches that many share.
func keep(w http.ResponseWriter, how string, public bool) {
	if !public {
		how = "private, " + how
		w.Header().Add("Vary", "Authorization")
	}
	w.Header().Set("Cache-Control", how)
}

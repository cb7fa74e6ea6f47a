package server

import (
	"io"
	"net/http"
	"time"
)

// Limits are what clients may take. The zero value of each is no limit, except
// where it says otherwise.
type Limits struct {
	Total, Each           int64 // bytes a second, of all clients together and of each
	MinRate               int64 // bytes a second that a client must take at least; 0: 1,024
	Connections, EachHas  int   // at once, of all clients together and of each
	DrainNotice, DrainMax time.Duration
}

// Limits of a request, whoever makes it.
const (
	headerBytes = 64 << 10 // of a request's header: a Kerberos ticket may take most of that
	streams     = 32       // requests at once on a connection of HTTP/2
	leastRate   = 1 << 10  // what MinRate stands for when it is not set
)

// patience is how long a client is waited for.
type patience struct {
	header time.Duration // from the first byte of a request's header, or the beginning of a connection, to its end
	idle   time.Duration // between requests on a connection
	stall  time.Duration // while it takes nothing of an answer
}

var usualPatience = patience{header: 10 * time.Second, idle: 2 * time.Minute, stall: 30 * time.Second}

// sane answers to requests that no client of ours makes, and to those over the
// limits.
func (s *Server) sane(w *answer, r *http.Request) bool {
	switch code := refusalOf(r.Context()); {
	case code != 0:
		w.Header().Set("Connection", "close")
		later(w, code)
	case isWrite(r): // who answers that says what it may have
		return true
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		w.Header().Set("Allow", "GET, HEAD")
		fail(w, http.StatusMethodNotAllowed)
	case r.ContentLength != 0:
		w.Header().Set("Connection", "close")
		fail(w, http.StatusRequestEntityTooLarge)
	default:
		return true
	}
	return false
}

// lingerBytes is how much is read of a request that was refused.
const lingerBytes = 4 << 20

// settle ends a request that was refused: the rest of its body need not be waited for
// long, but is not to cost the client its answer. A connection that is closed while
// bytes arrive is reset, and what the client has not read yet is lost (RFC 9112, 9.6).
// net/http sees to that, unless the client itself asked to close.
func (s *Server) settle(w *answer, r *http.Request) {
	if w.code < 400 || r.ContentLength == 0 {
		return
	}
	w.control.SetReadDeadline(time.Now().Add(s.patience.header))
	// Who expects to be told to continue sends nothing after a refusal.
	if r.ProtoMajor == 1 && r.Close && r.Header.Get("Expect") == "" {
		w.control.Flush()
		io.CopyN(io.Discard, r.Body, lingerBytes)
	}
}

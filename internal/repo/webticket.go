package repo

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strings"
	"sync/atomic"
	"time"

	"prestage/internal/ticket"
)

// ticketWait is how long the KDC may take for a ticket: less than a server may be
// silent, which would get the blame.
const ticketWait = 20 * time.Second

// tickets makes a server's requests, with a Kerberos ticket once the server has
// asked for one (RFC 4559), or has shown more to who has one. A ticket goes to that
// server alone, whatever is redirected: who gets a token can use it.
type tickets struct {
	*http.Transport
	server *url.URL
	tokens interface {
		Token(ctx context.Context, service string) ([]byte, error)
	}
	asked atomic.Bool           // the server has asked, or shown more
	open  atomic.Bool           // it has answered who showed none, and said that there may be more
	less  atomic.Pointer[error] // why the last list may not have all; nil: it has
}

// withTickets returns what makes the requests of who has nothing else to say who it
// is.
func (l login) withTickets(t *http.Transport, server *url.URL) http.RoundTripper {
	if l.user != nil || l.token != "" || !l.private {
		return t
	}
	return &tickets{Transport: t, server: server, tokens: &ticket.Tokens{}}
}

// RoundTrip implements http.RoundTripper. A request that the server refuses, and
// asks for a ticket, is made once more with another one: a token counts once, and
// net/http may have sent it twice. Where a ticket need not be, none that is missing
// or not good is in the way.
func (t *tickets) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Scheme != t.server.Scheme || !strings.EqualFold(req.URL.Host, t.server.Host) {
		return t.Transport.RoundTrip(req)
	}
	if isList(req) {
		t.less.Store(nil)
	}
	first := req
	var missing error // why there is no ticket; the server may not need one any more
	if t.asked.Load() {
		if first, missing = t.sign(req); missing != nil {
			first = req
			t.asked.Store(!t.open.Load()) // not for each file anew: a KDC may be silent
		}
	}
	resp, err := t.Transport.RoundTrip(first)
	if err == nil && first != req && req.Method == http.MethodGet && t.open.Load() && refuses(resp) {
		end(resp)
		t.asked.Store(false)
		first = req
		resp, err = t.Transport.RoundTrip(first)
	}
	switch {
	case err != nil:
		return nil, err
	case first == req && isList(req) && mayShowMore(resp):
		t.open.Store(true)
		if missing == nil {
			resp, missing, err = t.more(req, resp)
		}
		if missing != nil {
			t.less.Store(&missing)
		}
		return resp, err
	case !asksForTicket(resp):
		return resp, nil
	}
	end(resp)
	t.asked.Store(true)
	var again *http.Request
	if missing == nil {
		again, missing = t.sign(req)
	}
	switch {
	case req.Context().Err() != nil:
		return nil, req.Context().Err()
	case missing != nil:
		return nil, t.refused(resp, missing)
	}
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			return nil, errors.New("the server asks who sends this")
		}
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	if resp, err = t.Transport.RoundTrip(again); err == nil && asksForTicket(resp) {
		end(resp)
		return nil, t.refused(resp, t.notAccepted())
	}
	return resp, err
}

// more makes a request anew with a ticket, and returns what was answered without one,
// and why, if that is all there is. The request may have the tag of a copy, whosever
// that is: what others see has another tag (RFC 9110, 8.8.3), so that the answer to the
// ticket says whether its owner sees what is in the copy.
func (t *tickets) more(req *http.Request, less *http.Response) (resp *http.Response, missing, err error) {
	again, missing := t.sign(req)
	switch {
	case req.Context().Err() != nil:
		less.Body.Close()
		return nil, nil, req.Context().Err()
	case missing != nil:
		return less, missing, nil
	}
	resp, err = t.Transport.RoundTrip(again)
	if err == nil && refuses(resp) {
		end(resp)
		return less, t.notAccepted(), nil
	}
	end(less)
	if err == nil && resp.StatusCode < http.StatusBadRequest {
		t.asked.Store(true)
	}
	return resp, nil, err
}

// service is the server in the words of Kerberos, which knows machines by name.
func (t *tickets) service() string { return "HTTP/" + strings.ToLower(t.server.Hostname()) }

// sign returns the request with a ticket.
func (t *tickets) sign(req *http.Request) (*http.Request, error) {
	if _, err := netip.ParseAddr(t.server.Hostname()); err == nil {
		return nil, fmt.Errorf("a Kerberos ticket is for the name of a server and not for an address such as %s; use its name in the URL", t.server.Hostname())
	}
	ctx, cancel := context.WithTimeoutCause(req.Context(), ticketWait, errNoKDC)
	defer cancel()
	token, err := t.tokens.Token(ctx, t.service())
	switch {
	case err != nil && errors.Is(context.Cause(ctx), errNoKDC):
		return nil, errNoKDC
	case err != nil:
		return nil, err
	}
	req = req.Clone(req.Context())
	req.Header.Set("Authorization", "Negotiate "+base64.StdEncoding.EncodeToString(token))
	return req, nil
}

var errNoKDC = fmt.Errorf("no KDC has given a Kerberos ticket within %v", ticketWait)

// notAccepted is why a ticket that was shown is as good as none.
func (t *tickets) notAccepted() error {
	return fmt.Errorf("the Kerberos ticket for %s is not accepted; %s, and see whether the server has a key of that name and whether the clocks agree", t.service(), ticket.Renew)
}

// unseen says why there may be more on a server than its list shows, or nothing.
func (r *Web) unseen() string {
	if t, ok := r.client.Transport.(*tickets); ok {
		if why := t.less.Load(); why != nil {
			return fmt.Sprintf("; there may be more for who shows a Kerberos ticket: %v", *why)
		}
	}
	return ""
}

// refused is the error of an answer that asks for a ticket, and says why there is
// none. It is not of that one's kind: a cache that is not there is no missing image.
func (t *tickets) refused(resp *http.Response, err error) error {
	other := ""
	if takes(resp, "Basic") || takes(resp, "Bearer") {
		other = fmt.Sprintf("; or give it what else it takes: a user and a password in the URL, or a token in $%s", TokenVar)
	}
	return &fatalError{unavailable{fmt.Errorf("%s: the server refused: %s; %v%s", t.server, resp.Status, err, other)}}
}

// end takes what is left of an answer, so that its connection can be used again.
func end(resp *http.Response) {
	io.CopyN(io.Discard, resp.Body, maxAnswer)
	resp.Body.Close()
}

// asksForTicket reports whether a server wants to know who asks, and takes tickets.
func asksForTicket(resp *http.Response) bool {
	return resp.StatusCode == http.StatusUnauthorized && takes(resp, "Negotiate")
}

// isList reports whether what is asked for may be more for one than for another.
func isList(req *http.Request) bool {
	name := path.Base(req.URL.Path)
	return req.Method == http.MethodGet && (name == CatalogName || name == PolicyName)
}

// mayShowMore reports whether an answer to who has shown nothing says that a ticket
// might make it another one (RFC 9110, 11.6.1).
func mayShowMore(resp *http.Response) bool {
	return (resp.StatusCode == http.StatusOK || resp.StatusCode == http.StatusNotModified) && takes(resp, "Negotiate")
}

// refuses reports whether a request may have been refused for its ticket, which may
// be too large for the server, too.
func refuses(resp *http.Response) bool {
	switch resp.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge:
		return true
	}
	return false
}

// takes reports whether an answer has a challenge of a scheme (RFC 9110, 11.6.1).
func takes(resp *http.Response, scheme string) bool {
	for _, line := range resp.Header.Values("WWW-Authenticate") {
		for challenge := range strings.SplitSeq(line, ",") {
			if s, _, _ := strings.Cut(strings.TrimSpace(challenge), " "); strings.EqualFold(s, scheme) {
				return true
			}
		}
	}
	return false
}

package repo

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"prestage/internal/event"
	"prestage/internal/ticket"
)

// purse makes tokens that can be told apart: "HTTP/host 1", "HTTP/host 2", ….
type purse struct {
	mu  sync.Mutex
	n   int
	err error
}

func (p *purse) Token(_ context.Context, service string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	p.n++
	return fmt.Appendf(nil, "%s %d", service, p.n), nil
}

// doorman is a server that takes each token once, and nobody without one.
type doorman struct {
	*httptest.Server
	refuses string // a token that is not good

	mu   sync.Mutex
	came []string // what requests had to say, in order
	used map[string]bool
}

func newDoorman(t *testing.T, inside http.HandlerFunc) *doorman {
	d := &doorman{used: map[string]bool{}}
	d.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !d.admits(r) {
			w.Header().Add("WWW-Authenticate", `Basic realm="x, y", negotiate`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		inside(w, r)
	})
	d.URL = strings.Replace(d.URL, "127.0.0.1", "localhost", 1)
	return d
}

func (d *doorman) admits(r *http.Request) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	said := r.Header.Get("Authorization")
	if b, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(said, "Negotiate ")); err == nil && len(b) > 0 {
		said = string(b)
	}
	d.came = append(d.came, said)
	ok := strings.HasPrefix(said, "HTTP/localhost ") && !d.used[said] && said != d.refuses
	d.used[said] = true
	return ok
}

func (d *doorman) saw(t *testing.T, want ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if strings.Join(d.came, "|") != strings.Join(want, "|") {
		t.Errorf("requests came with %q, should be %q", d.came, want)
	}
	d.came = nil
}

// withTokens is the repository at a server, of who has tickets.
func withTokens(t *testing.T, address string, p *purse) *Web {
	r := newWeb(t, address)
	r.client.Transport.(*tickets).tokens = p
	return r
}

func catalog(w http.ResponseWriter, r *http.Request) { static(w, r, []byte(`{"format":1}`)) }

// A ticket is shown when the server asks for one, and from then on without being
// asked; all kinds of requests do that.
func TestWebTicket(t *testing.T) {
	d := newDoorman(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		case http.MethodPost:
			fmt.Fprint(w, `{"number":1}`)
		default:
			catalog(w, r)
		}
	})
	list := func(r *Web) {
		t.Helper()
		if _, err := r.List(t.Context()); err != nil {
			t.Error(err)
		}
	}
	r := withTokens(t, d.URL, &purse{})
	list(r)
	d.saw(t, "", "HTTP/localhost 1")
	list(r)
	list(r)
	d.saw(t, "HTTP/localhost 2", "HTTP/localhost 3")

	d.used = map[string]bool{}
	r = withTokens(t, d.URL, &purse{})
	if err := r.Remove(t.Context(), "win", 1); err != nil {
		t.Error(err)
	}
	d.saw(t, "", "HTTP/localhost 1")

	d.used = map[string]bool{}
	r = withTokens(t, d.URL, &purse{})
	report := &event.Report{Machine: "pc", Time: time.Now(), Events: []event.Event{{Number: 1, Time: time.Now()}}}
	if _, err := r.Report(t.Context(), report); err != nil {
		t.Error(err)
	}
	d.saw(t, "", "HTTP/localhost 1")

	// A token that has come to the server before is no reason to give up.
	d.refuses = "HTTP/localhost 2"
	list(r)
	d.saw(t, "HTTP/localhost 2", "HTTP/localhost 3")
}

// Who may know who asks: that server, where nobody overhears it, if nothing else
// says so.
func TestWebTicketStays(t *testing.T) {
	for address, may := range map[string]bool{"https://images.example/": true, "http://localhost:1/": true, "http://images.example/": false, "https://u:p@images.example/": false} {
		if _, has := newWeb(t, address).client.Transport.(*tickets); has != may {
			t.Errorf("%s: a ticket may be shown: %v", address, has)
		}
	}
	elsewhere := newDoorman(t, catalog)
	d := newDoorman(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/here/"+CatalogName) {
			catalog(w, r)
			return
		}
		to := elsewhere.URL + r.URL.Path
		if strings.HasPrefix(r.URL.Path, "/near/") {
			to = "/here/" + CatalogName
		}
		http.Redirect(w, r, to, http.StatusFound)
	})
	if _, err := withTokens(t, d.URL+"/near", &purse{}).List(t.Context()); err != nil {
		t.Error(err)
	}
	d.saw(t, "", "HTTP/localhost 1", "HTTP/localhost 2")
	r := withTokens(t, d.URL+"/far", &purse{n: 2})
	for range 2 {
		if _, err := r.List(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "401") {
			t.Error(err)
		}
	}
	elsewhere.saw(t, "", "")

	t.Setenv(TokenVar, "t0ken")
	if _, has := newWeb(t, d.URL).client.Transport.(*tickets); has {
		t.Error("a ticket may be shown beside a token")
	}
}

// Without a ticket, or with one that is not good, the error is that of the server,
// and says what to do.
func TestWebNoTicket(t *testing.T) {
	refused := func(address string, p *purse, want ...string) {
		t.Helper()
		r := withTokens(t, address, p)
		r.pause = time.Hour
		_, list := r.List(t.Context())
		_, report := r.Report(t.Context(), &event.Report{Machine: "pc", Time: time.Now()})
		for _, err := range []error{list, report, r.Remove(t.Context(), "win", 1)} {
			for _, w := range append(want, "the server refused: 401") {
				if !errors.Is(err, ErrUnavailable) || errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), w) {
					t.Errorf("%v\nshould be ErrUnavailable alone, with %q", err, w)
				}
			}
		}
	}
	d := newDoorman(t, catalog)
	p := &purse{}
	r := withTokens(t, d.URL, p)
	if _, err := r.List(t.Context()); err != nil {
		t.Error(err)
	}
	p.err = errors.New("it has expired")
	if _, err := r.List(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "it has expired") {
		t.Error(err)
	}
	d.saw(t, "", "HTTP/localhost 1", "")
	refused(d.URL, &purse{err: fmt.Errorf("no ticket: %w; get one with kinit", fs.ErrNotExist)}, "401 Unauthorized; no ticket: file does not exist; get one with kinit; or give it what else it takes")
	d.saw(t, "", "", "")
	refused(strings.Replace(d.URL, "localhost", "127.0.0.1", 1), &purse{}, "not for an address such as 127.0.0.1; use its name")
	d.used = map[string]bool{"HTTP/localhost 1": true, "HTTP/localhost 2": true, "HTTP/localhost 3": true, "HTTP/localhost 4": true, "HTTP/localhost 5": true}
	d.came = nil
	refused(d.URL, &purse{}, "the Kerberos ticket for HTTP/localhost is not accepted", ticket.Renew, "the clocks")
	d.saw(t, "", "HTTP/localhost 1", "HTTP/localhost 2", "HTTP/localhost 3", "HTTP/localhost 4", "HTTP/localhost 5")
}

// A piece of an upload that is refused is not lost: it cannot be sent again as it is,
// but the upload can go on.
func TestWebTicketStreamed(t *testing.T) {
	d := newDoorman(t, func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(http.StatusNoContent) })
	p := &purse{}
	r := withTokens(t, d.URL, p)
	piece := func() error {
		_, _, err := r.write(t.Context(), http.MethodPatch, d.URL, struct{ *strings.Reader }{strings.NewReader("piece")}, 5, func(http.Header) {})
		return err
	}
	var fatal *fatalError
	if err := piece(); err == nil || errors.As(err, &fatal) {
		t.Errorf("%v, should be one that another attempt mends", err)
	}
	if err := piece(); err != nil {
		t.Error(err)
	}
	d.saw(t, "", "HTTP/localhost 2")
}

// A KDC that does not answer is not a server that does not.
func TestWebTicketInterrupted(t *testing.T) {
	d := newDoorman(t, catalog)
	r := newWeb(t, d.URL)
	r.client.Transport.(*tickets).tokens = silentKDC{}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.List(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	synctest.Test(t, func(t *testing.T) {
		u, _ := url.Parse("https://images.example/")
		w := &tickets{server: u, tokens: silentKDC{}}
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, u.String(), nil)
		if _, err := w.sign(req); !errors.Is(err, errNoKDC) {
			t.Error(err)
		}
	})
}

type silentKDC struct{}

func (silentKDC) Token(ctx context.Context, _ string) ([]byte, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func TestAsksForTicket(t *testing.T) {
	for line, want := range map[string]bool{"Negotiate": true, `Basic realm="a", Negotiate`: true, "negotiate oYG2": true, "NTLM": false, `Basic realm="Negotiate"`: false, "": false} {
		resp := &http.Response{StatusCode: 401, Header: http.Header{"Www-Authenticate": {line}}}
		if got := asksForTicket(resp); got != want {
			t.Errorf("%q: %v", line, got)
		}
	}
	if asksForTicket(&http.Response{StatusCode: 200, Header: http.Header{"Www-Authenticate": {"Negotiate"}}}) {
		t.Error("nobody asked")
	}
	if got := (&tickets{server: &url.URL{Host: "Images.Example:8443"}}).service(); got != "HTTP/images.example" {
		t.Error(got)
	}
}

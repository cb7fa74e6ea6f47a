package repo

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"prestage/ckm"
	"prestage/internal/event"
	"prestage/internal/ticket"
)

// purse makes tokens that can be told apart: "HTTP/host 1", "HTTP/host 2", ….
type purse struct {
	mu    sync.Mutex
	n     int
	asked int // how often for a token, also in vain
	err   error
}

func (p *purse) Token(_ context.Context, service string) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.asked++
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

// porch is a server that shows something to everybody, more to who has a token, and
// says so. What it refuses is a token that is not good.
type porch struct {
	*doorman
	code         int            // of a refusal
	public, more map[string]int // the versions of images that it shows
	closed       bool           // only to who has a token
	busy         bool           // to who has a token
}

func newPorch(t *testing.T) *porch {
	p := &porch{doorman: &doorman{used: map[string]bool{}}, code: http.StatusUnauthorized, public: map[string]int{"demo": 1}, more: map[string]int{"win": 1}}
	p.Server = serve(t, func(w http.ResponseWriter, r *http.Request) {
		known := p.admits(r)
		shown := maps.Clone(p.public)
		if known {
			maps.Copy(shown, p.more)
		} else {
			w.Header().Set("WWW-Authenticate", `Negotiate, Basic realm="x"`)
		}
		name, _, _, isPackage := ckm.ParseFileName(path.Base(r.URL.Path))
		switch {
		case !known && r.Header.Get("Authorization") != "":
			w.WriteHeader(p.code)
		case !known && p.closed, !known && isPackage && shown[name] == 0:
			w.WriteHeader(http.StatusUnauthorized)
		case known && p.busy:
			w.WriteHeader(http.StatusServiceUnavailable)
		case isPackage:
			static(w, r, []byte("of "+name))
		default:
			c := &Catalog{Format: 1}
			for _, name := range slices.Sorted(maps.Keys(shown)) {
				c.Images = append(c.Images, NewEntry(&ckm.Info{Name: name, Version: uint32(shown[name])}, ckm.Digest{}, 1))
			}
			b := c.Encode()
			w.Header().Set("ETag", `"`+ckm.Sum(b).String()+`"`)
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		}
	})
	p.URL = strings.Replace(p.URL, "127.0.0.1", "localhost", 1)
	return p
}

// lacks wants an image not to be found, for a reason that says so much of tickets.
func (p *porch) lacks(t *testing.T, r *Web, want string) {
	t.Helper()
	_, err := Find(t.Context(), r, "win", 0)
	_, why, _ := strings.Cut(fmt.Sprint(err), "; there may be more for who shows a Kerberos ticket: ")
	if !errors.Is(err, ErrNotFound) || (want == "") != (why == "") || !strings.Contains(why, want) {
		t.Errorf("%v, should be ErrNotFound with %q", err, want)
	}
	p.came = nil
}

// shows lists what a client sees, after so many requests with those words.
func (p *porch) shows(t *testing.T, r *Web, want string, came ...string) {
	t.Helper()
	entries, err := r.List(t.Context())
	if err != nil {
		t.Error(err)
	}
	var have []string
	for _, e := range entries {
		have = append(have, ImageName(e.Name, e.Version))
	}
	if got := strings.Join(have, " "); got != want {
		t.Errorf("it sees %q, should see %q", got, want)
	}
	p.saw(t, came...)
}

// Who has a ticket sees what it may, though the server does not insist; when it has
// once worked, in one request.
func TestWebTicketShowsMore(t *testing.T) {
	p := newPorch(t)
	tokens := &purse{}
	r := withTokens(t, p.URL, tokens)
	p.shows(t, r, "demo:1 win:1", "", "HTTP/localhost 1")
	p.shows(t, r, "demo:1 win:1", "HTTP/localhost 2")
	if b, err := Policy(t.Context(), r); err != nil || !bytes.Contains(b, []byte("win")) {
		t.Errorf("%s, %v", b, err)
	}
	p.saw(t, "HTTP/localhost 3")
	if _, err := withTokens(t, p.URL, &purse{n: 3}).Index(t.Context(), "demo", 1); !errors.Is(err, ckm.ErrFormat) {
		t.Error(err)
	}
	p.saw(t, "") // a package is the same for all

	// Without a ticket there is what everybody may see, and what all others may fetch.
	tokens.asked, tokens.err = 0, errors.New("it has expired")
	p.shows(t, r, "demo:1", "")
	if tokens.asked != 1 {
		t.Errorf("there was no ticket, %d times", tokens.asked)
	}
	for _, c := range []struct{ image, want string }{{"demo", "of demo"}, {"demo", "of demo"}, {"win", "it has expired"}} {
		if _, err := r.Index(t.Context(), c.image, 1); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, should have %q", c.image, err, c.want)
		}
	}
	p.saw(t, "", "", "")
	if tokens.asked != 2 {
		t.Errorf("a ticket was looked for %d times, for what all may have too", tokens.asked)
	}
	p.shows(t, r, "demo:1", "")

	// A copy of what all may see is not taken for what the ticket's owner may see, nor
	// the other way round.
	p.more["win"] = 2
	tokens.err = nil
	r.client.Transport.(*tickets).asked.Store(false)
	p.shows(t, r, "demo:1 win:2", "", "HTTP/localhost 4")
	p.more["win"] = 3
	p.shows(t, r, "demo:1 win:3", "HTTP/localhost 5")
	r.client.Transport.(*tickets).asked.Store(false)
	p.public["demo"] = 2
	p.shows(t, r, "demo:2 win:3", "", "HTTP/localhost 6")
	r.client.Transport.(*tickets).asked.Store(false)
	p.shows(t, r, "demo:2 win:3", "", "HTTP/localhost 7") // not modified
	p.more = nil
	p.lacks(t, r, "")
	tokens.n = 7
	p.used["HTTP/localhost 8"] = false
	p.shows(t, r, "demo:2", "HTTP/localhost 8")
	r.client.Transport.(*tickets).asked.Store(false)
	p.shows(t, r, "demo:2", "", "HTTP/localhost 9") // not modified for all, nor for the owner
	p.more = map[string]int{"win": 4}
	r.client.Transport.(*tickets).asked.Store(false)
	p.shows(t, r, "demo:2 win:4", "", "HTTP/localhost 10") // not modified for all

	// A server that is busy with what the ticket's owner may see has not said that
	// there is no more.
	p.busy = true
	r = withTokens(t, p.URL, &purse{n: 10})
	if _, err := r.List(t.Context()); !errors.Is(err, ErrUnavailable) {
		t.Error(err)
	}
	p.saw(t, "", "HTTP/localhost 11", "", "HTTP/localhost 12", "", "HTTP/localhost 13")
}

// Where a ticket need not be, one that is not there or not good is in nobody's way.
func TestWebTicketNotNeeded(t *testing.T) {
	p := newPorch(t)
	for range 2 {
		p.shows(t, withTokens(t, p.URL, &purse{err: fmt.Errorf("no ticket: %w", fs.ErrNotExist)}), "demo:1", "")
		p.shows(t, withTokens(t, strings.Replace(p.URL, "localhost", "127.0.0.1", 1), &purse{}), "demo:1", "")
	}
	p.lacks(t, withTokens(t, p.URL, &purse{err: fmt.Errorf("no ticket: %w", fs.ErrNotExist)}), "no ticket: file does not exist")
	for _, p.code = range []int{http.StatusUnauthorized, http.StatusForbidden, http.StatusBadRequest, http.StatusRequestHeaderFieldsTooLarge} {
		p.used = map[string]bool{"HTTP/localhost 1": true, "HTTP/localhost 2": true, "HTTP/localhost 4": true, "HTTP/localhost 5": true, "HTTP/localhost 6": true}
		r := withTokens(t, p.URL, &purse{})
		p.lacks(t, withTokens(t, p.URL, &purse{}), "the Kerberos ticket for HTTP/localhost is not accepted")
		p.shows(t, r, "demo:1", "", "HTTP/localhost 1")
		p.shows(t, r, "demo:1", "", "HTTP/localhost 2") // not modified
		p.shows(t, r, "demo:1 win:1", "", "HTTP/localhost 3")
		p.shows(t, r, "demo:1", "HTTP/localhost 4", "", "HTTP/localhost 5") // not good any more
		p.shows(t, r, "demo:1", "", "HTTP/localhost 6")
		p.shows(t, r, "demo:1 win:1", "", "HTTP/localhost 7")
		p.used["HTTP/localhost 8"] = true // it came twice
		p.shows(t, r, "demo:1 win:1", "HTTP/localhost 8", "", "HTTP/localhost 9")
	}
	// So it is for a package that all may have.
	p.code = http.StatusUnauthorized
	r := withTokens(t, p.URL, &purse{n: 9})
	p.shows(t, r, "demo:1 win:1", "", "HTTP/localhost 10")
	p.used["HTTP/localhost 11"] = true
	if _, err := r.Index(t.Context(), "demo", 1); !errors.Is(err, ckm.ErrFormat) {
		t.Error(err)
	}
	p.saw(t, "HTTP/localhost 11", "")
	p.used["HTTP/localhost 12"] = true
	if _, err := r.Index(t.Context(), "win", 1); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "is not accepted") {
		t.Error(err)
	}
	p.saw(t, "", "HTTP/localhost 12")
	p.used["HTTP/localhost 13"], p.used["HTTP/localhost 14"] = true, true
	// A server that shows nothing to everybody any more says so.
	p.closed = true
	if _, err := r.List(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "is not accepted") {
		t.Error(err)
	}
	p.saw(t, "HTTP/localhost 13", "", "HTTP/localhost 14")

	// Who waits for a KDC need not wait to its end.
	p.closed = false
	r = newWeb(t, p.URL)
	r.client.Transport.(*tickets).tokens = silentKDC{}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.List(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
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

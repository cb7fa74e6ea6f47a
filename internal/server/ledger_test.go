package server

import (
	"bytes"
	"context"
	"database/sql"
	"io"
	"log/slog"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"crypto/tls"

	"prestage/internal/event"
	"prestage/internal/ledger"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// keeping is a server with a database of its own.
func keeping(t *testing.T, c Config) (s *testServer, where string) {
	t.Helper()
	where = filepath.Join(t.TempDir(), "events.db")
	k, err := ledger.Keep(where, ledger.Bounds{}, slog.New(slog.NewTextHandler(&diary{}, nil)))
	must(t, err)
	t.Cleanup(func() { k.Close() })
	c.Events = k
	return start(t, c), where
}

// While something else holds the database, machines are told to come again, and
// packages are served.
func TestReportsIntoALockedDatabase(t *testing.T) {
	s, where := keeping(t, Config{})
	body := encoded(t, told(1))
	if a := s.post(eventsPath, bytes.NewReader(body)); a.StatusCode != 200 {
		t.Fatal(a.Status)
	}
	db, err := sql.Open("sqlite", where)
	must(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	_, err = db.Exec("BEGIN IMMEDIATE")
	must(t, err)
	answers := make(chan reply, 20)
	for range cap(answers) {
		go func() {
			resp, err := http.Post(s.url+event.Path, "application/json", bytes.NewReader(body))
			if err != nil {
				answers <- reply{Response: &http.Response{Status: err.Error()}}
				return
			}
			resp.Body.Close()
			answers <- reply{Response: resp}
		}()
	}
	for range cap(answers) {
		if a := <-answers; a.StatusCode != 503 || a.Header.Get("Retry-After") == "" {
			t.Errorf("locked: %s", a.Status)
		}
		if a := s.get(repo.CatalogName); a.StatusCode != 200 {
			t.Errorf("packages: %s", a.Status)
		}
	}
	_, err = db.Exec("ROLLBACK")
	must(t, err)
	if a := s.post(eventsPath, bytes.NewReader(body)); a.StatusCode != 200 {
		t.Error(a.Status)
	}
}

// Over HTTP/2, too, reports have their bounds.
func TestReportsOverHTTP2(t *testing.T) {
	authority := testenv.NewAuthority(t)
	cert, key := authority.Issue(t, "server", time.Hour)
	s, where := keeping(t, Config{TLS: TLS{Cert: cert, Key: key}})
	// A stream has to last as long as keeping takes; who does not wait so long keeps nothing.
	hasty := start(t, Config{TLS: s.config.TLS, Events: &book{}}, func(s *Server) { s.patience.stall = time.Second })
	client := &http.Client{Transport: &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: authority.Pool()}}}
	post := func(s *testServer, body io.Reader) (int, string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, "POST", "https://"+s.addr+eventsPath, body)
		must(t, err)
		req.Header.Set("Content-Type", "application/json")
		resp, err := client.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if resp.ProtoMajor != 2 {
			t.Errorf("it is %s", resp.Proto)
		}
		if err != nil {
			return resp.StatusCode, err.Error()
		}
		return resp.StatusCode, string(b)
	}
	for n := range 3 {
		if code, said := post(s, bytes.NewReader(encoded(t, told(n)))); code != 200 {
			t.Errorf("%d %s", code, said)
		}
	}
	if code, said := post(s, bytes.NewReader(make([]byte, event.MaxReport+1))); code != 413 {
		t.Errorf("too long: %d %s", code, said)
	}
	slow, sent := io.Pipe()
	go sent.Write([]byte("{")) // and nothing more
	if code, said := post(hasty, slow); code != 408 {
		t.Errorf("slow: %d %s", code, said)
	}
	for _, s := range []*testServer{hasty, s} {
		if code, said := post(s, bytes.NewReader(encoded(t, told(3)))); code != 200 {
			t.Errorf("after that: %d %s", code, said)
		}
	}
	l, err := ledger.OpenToRead(t.Context(), where)
	must(t, err)
	defer l.Close()
	n := 0
	for _, err := range l.Activity(t.Context(), ledger.Filter{}) {
		must(t, err)
		n++
	}
	if n < 3 {
		t.Errorf("%d events", n)
	}
}

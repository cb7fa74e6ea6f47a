package repo

import (
	"bytes"
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// A token goes where nobody can overhear it, and nowhere else.
func TestWebToken(t *testing.T) {
	t.Setenv(TokenVar, "t0ken")
	if _, err := Open("http://images.example/"); err == nil || strings.Contains(err.Error(), "t0ken") || !strings.Contains(err.Error(), TokenVar) {
		t.Errorf("the token would be overheard: %v", err)
	}
	if _, err := Open("https://images.example/"); err != nil {
		t.Error(err)
	}
	var got string
	elsewhere := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got = r.Header.Get("Authorization")
		static(w, r, []byte(`{"format":1}`))
	})
	if _, err := newWeb(t, elsewhere.URL).List(t.Context()); err != nil || got != "Bearer t0ken" {
		t.Errorf("%q, %v", got, err)
	}
	if _, err := newWeb(t, strings.Replace(elsewhere.URL, "http://", "http://user:secret@", 1)).List(t.Context()); err != nil || !strings.HasPrefix(got, "Basic ") {
		t.Errorf("a user of the URL comes first: %q, %v", got, err)
	}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1), http.StatusFound)
	})
	if _, err := newWeb(t, s.URL).List(t.Context()); err == nil && got != "" {
		t.Errorf("another host got %q", got)
	}
}

// A certificate is shown to who asks for one; who is refused for it is told so,
// at once.
func TestWebClientCertificate(t *testing.T) {
	a := testenv.NewAuthority(t)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		static(w, r, []byte(`{"format":1}`))
	}))
	s.TLS = &tls.Config{ClientCAs: a.Pool(), ClientAuth: tls.RequireAndVerifyClientCert}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	list := func() error {
		r := trusting(t, s)
		r.pause = time.Hour
		_, err := r.List(t.Context())
		return err
	}
	if err := list(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("without one: %v", err)
	}
	cert, key := a.Issue(t, "pc-001", time.Hour)
	t.Setenv(ClientCertVar, cert)
	t.Setenv(ClientKeyVar, key)
	if err := list(); err != nil {
		t.Error(err)
	}
	// Both in one file.
	c, err1 := os.ReadFile(cert)
	k, err2 := os.ReadFile(key)
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	if err := os.WriteFile(cert, bytes.Join([][]byte{c, k}, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(ClientKeyVar, "")
	if err := list(); err != nil {
		t.Error(err)
	}
	a.IssueTo(t, cert, key, "pc-001", -time.Hour)
	t.Setenv(ClientKeyVar, key)
	if err := list(); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an expired one: %v", err)
	}
	t.Setenv(ClientCertVar, "nowhere")
	if _, err := Open(s.URL); err == nil || !strings.Contains(err.Error(), ClientCertVar) {
		t.Errorf("no such file: %v", err)
	}
}

package server

import (
	"crypto/tls"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// greet makes a connection of its own, asks for the catalog, and returns who
// answered and by which protocol.
func (s *testServer) greet(by *testenv.Authority, change func(c *tls.Config)) (name, proto string, err error) {
	s.t.Helper()
	c := &tls.Config{RootCAs: by.Pool(), NextProtos: []string{"h2", "http/1.1"}}
	if change != nil {
		change(c)
	}
	transport := &http.Transport{TLSClientConfig: c, DisableKeepAlives: true, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	resp, err := (&http.Client{Transport: transport}).Get("https://" + s.addr + Prefix + "catalog.json")
	if err != nil {
		return "", "", err
	}
	resp.Body.Close()
	return resp.TLS.PeerCertificates[0].Subject.CommonName, resp.Proto, nil
}

func TestTLS(t *testing.T) {
	a := testenv.NewAuthority(t)
	cert, key := a.Issue(t, "first", time.Hour)
	s := start(t, Config{TLS: TLS{Cert: cert, Key: key}})
	is := func(what, want, wantProto string, change func(c *tls.Config)) {
		t.Helper()
		name, proto, err := s.greet(a, change)
		if err != nil || name != want || proto != wantProto {
			t.Errorf("%s: %q, %s, %v", what, name, proto, err)
		}
	}
	is("at first", "first", "HTTP/2.0", nil)
	is("TLS 1.2", "first", "HTTP/2.0", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	if _, _, err := s.greet(a, func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }); err == nil {
		t.Error("TLS 1.1 was accepted")
	}
	if got := s.raw("GET / HTTP/1.1\r\nHost: x\r\n\r\n"); !strings.Contains(got, " 400 ") {
		t.Errorf("without TLS: %s", got)
	}

	// The certificate is renewed, damaged, renewed.
	a.IssueTo(t, cert, key, "second", time.Hour)
	is("renewed", "second", "HTTP/2.0", nil)
	must(t, os.WriteFile(cert, []byte("nonsense"), 0o600))
	is("damaged", "second", "HTTP/2.0", nil)
	if !strings.Contains(s.log.String(), "stays in force") {
		t.Errorf("nothing was said of it:\n%s", s.log)
	}
	a.IssueTo(t, cert, key, "third", time.Hour)
	is("mended", "third", "HTTP/2.0", nil)
	a.IssueTo(t, cert, key, "late", -time.Hour)
	if _, _, err := s.greet(a, nil); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired certificate: %v", err)
	}
}

func TestClientCertificates(t *testing.T) {
	a, other := testenv.NewAuthority(t), testenv.NewAuthority(t)
	cert, key := a.Issue(t, "server", time.Hour)
	for _, optional := range []bool{false, true} {
		clients := testenv.NewAuthority(t)
		s := start(t, Config{TLS: TLS{Cert: cert, Key: key, ClientCA: clients.File, Optional: optional}})
		try := func(by *testenv.Authority, lasts time.Duration) error {
			t.Helper()
			_, _, err := s.greet(a, func(c *tls.Config) {
				if by == nil {
					return
				}
				cert, key := by.Issue(t, "pc-001", lasts)
				pair, err := tls.LoadX509KeyPair(cert, key)
				must(t, err)
				c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil }
			})
			return err
		}
		if err := try(clients, time.Hour); err != nil {
			t.Errorf("optional %v: %v", optional, err)
		}
		if err := try(nil, 0); (err == nil) != optional {
			t.Errorf("optional %v: without a certificate: %v", optional, err)
		}
		if err := try(other, time.Hour); err == nil {
			t.Errorf("optional %v: a stranger's certificate was accepted", optional)
		}
		if err := try(clients, -time.Hour); err == nil {
			t.Errorf("optional %v: an expired certificate was accepted", optional)
		}
		// Who signs may change.
		b, err := os.ReadFile(other.File)
		must(t, err)
		must(t, os.WriteFile(clients.File, b, 0o600))
		if err := try(other, time.Hour); err != nil {
			t.Errorf("optional %v: %v", optional, err)
		}
		if err := try(clients, time.Hour); err == nil {
			t.Errorf("optional %v: the former signer is still trusted", optional)
		}
	}
}

func TestBadCertificateFiles(t *testing.T) {
	a := testenv.NewAuthority(t)
	cert, key := a.Issue(t, "server", time.Hour)
	for name, c := range map[string]TLS{
		"no file": {Cert: "nowhere", Key: key}, "no key": {Cert: cert, Key: "nowhere"}, "not a pair": {Cert: a.File, Key: key},
		"no signer": {Cert: cert, Key: key, ClientCA: "nowhere"}, "a key for a signer": {Cert: cert, Key: key, ClientCA: key},
	} {
		if _, err := New(Config{TLS: c}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

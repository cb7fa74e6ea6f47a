package server

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// Who has a certificate that was taken back is refused from the next connection on,
// and others are not.
func TestRevoked(t *testing.T) {
	a := testenv.NewAuthority(t)
	cert, key := a.Issue(t, "server", time.Hour)
	for _, optional := range []bool{false, true} {
		clients, other := testenv.NewAuthority(t), testenv.NewAuthority(t)
		crl := filepath.Join(t.TempDir(), "crl")
		clients.Revoke(t, crl, time.Hour)
		record := &diary{}
		s := start(t, Config{TLS: TLS{Cert: cert, Key: key, ClientCA: clients.File, Optional: optional, Revoked: crl},
			Requests: slog.New(slog.NewJSONHandler(record, nil))})
		type client struct{ cert, key string }
		issue := func(name string) (c client) { c.cert, c.key = clients.Issue(t, name, time.Hour); return c }
		good, bad := issue("good"), issue("bad")
		in := func(what string, c client, want bool) {
			t.Helper()
			for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				_, proto, err := s.greet(a, func(config *tls.Config) {
					config.MaxVersion = version
					if c.cert != "" {
						pair, err := tls.LoadX509KeyPair(c.cert, c.key)
						must(t, err)
						config.Certificates = []tls.Certificate{pair}
					}
				})
				if (err == nil) != want || err == nil && proto != "HTTP/2.0" {
					t.Errorf("optional %v: %s: %s: %q, %v", optional, what, tls.VersionName(version), proto, err)
				}
			}
		}
		said := func(text string, times int) {
			t.Helper()
			if n := strings.Count(s.log.String(), text); n != times {
				t.Errorf("optional %v: %q was said %d times, and should be %d times:\n%s", optional, text, n, times, s.log)
			}
		}
		in("at first", good, true)
		in("at first", bad, true)

		clients.Revoke(t, crl, time.Hour, bad.cert)
		in("revoked", bad, false)
		in("another one is revoked", good, true)
		in("without a certificate", client{}, optional)
		said("a client is refused: the certificate is revoked", 1)
		if n := strings.Count(record.String(), `"msg":"refused","remote":"127.0.0.1:`); n != 2 || !strings.Contains(record.String(), "CN=bad") {
			t.Errorf("optional %v: %d are on record:\n%s", optional, n, record)
		}

		// What makes no sense, or has been signed by others, changes nothing.
		must(t, os.WriteFile(crl, []byte("nonsense"), 0o600))
		in("nonsense", bad, false)
		in("nonsense", good, true)
		other.Revoke(t, crl, time.Hour, good.cert)
		in("by a stranger", bad, false)
		in("by a stranger", good, true)
		said("stays in force", 2)

		// One that is old counts, and that is said.
		clients.Revoke(t, crl, -time.Hour, bad.cert)
		in("old", bad, false)
		in("old", good, true)
		said("is old", 1)
		clients.Revoke(t, crl, time.Hour)
		in("no longer revoked", bad, true)
	}
}

// A list that grows old while the server runs is told of then, and only then.
func TestRevocationsGrowOld(t *testing.T) {
	clients := testenv.NewAuthority(t)
	log := &diary{}
	lists, err := parseLists(clients.List(t, &x509.RevocationList{NextUpdate: time.Now().Add(time.Hour)}))
	must(t, err)
	r, err := newRevocations(lists, signersOf(t, clients))
	must(t, err)
	for _, c := range []struct {
		after time.Duration
		said  int
	}{{0, 0}, {59 * time.Minute, 0}, {61 * time.Minute, 1}, {time.Hour * 99, 1}} {
		r.tellOld(slog.New(slog.NewTextHandler(log, nil)), time.Now().Add(c.after))
		if n := strings.Count(log.String(), "is old"); n != c.said {
			t.Errorf("after %v: it was said %d times:\n%s", c.after, n, log)
		}
	}
}

func signersOf(t testing.TB, a *testenv.Authority) []*x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(a.File)
	must(t, err)
	return parseSigners(b)
}

func TestRevocationLists(t *testing.T) {
	a, other := testenv.NewAuthority(t), testenv.NewAuthority(t)
	cert, key := a.Issue(t, "server", time.Hour)
	first, _ := a.Issue(t, "first", time.Hour)
	second, _ := other.Issue(t, "second", time.Hour)
	text := func(der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}) }
	list := func(by *testenv.Authority, extensions ...pkix.Extension) []byte {
		return by.List(t, &x509.RevocationList{NextUpdate: time.Now().Add(time.Hour), ExtraExtensions: extensions}, first)
	}
	point := func(value ...byte) pkix.Extension {
		return pkix.Extension{Id: distributionPoint, Critical: true, Value: append([]byte{0x30, byte(len(value))}, value...)}
	}
	entry := a.List(t, &x509.RevocationList{NextUpdate: time.Now().Add(time.Hour), RevokedCertificateEntries: []x509.RevocationListEntry{{
		SerialNumber: big.NewInt(5), RevocationTime: time.Now(),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}}}})
	certificate, err := os.ReadFile(cert)
	must(t, err)
	signer, err := os.ReadFile(a.File)
	must(t, err)
	otherSigner, err := os.ReadFile(other.File)
	must(t, err)
	both := secretFile(t, string(signer)+string(otherSigner))
	for name, c := range map[string]struct {
		file []byte
		ca   string
		says string // "": it is taken
	}{
		"PEM":                              {text(list(a)), a.File, ""},
		"DER":                              {list(a), a.File, ""},
		"of two signers":                   {append(text(list(a)), text(other.List(t, &x509.RevocationList{NextUpdate: time.Now().Add(time.Hour)}, second))...), both, ""},
		"of two signers, DER":              {append(list(a), list(other)...), both, ""},
		"with words":                       {append([]byte("of floor 3\n"), text(list(a))...), a.File, ""},
		"of some certificates":             {list(a, point(0x81, 1, 0xff)), a.File, ""},
		"empty":                            {nil, a.File, "holds none"},
		"nonsense":                         {[]byte("nonsense"), a.File, "neither PEM nor DER"},
		"other DER":                        {[]byte{0x30, 0}, a.File, "malformed"},
		"cut short":                        {list(a)[:200], a.File, "neither PEM nor DER"},
		"cut short, PEM":                   {text(list(a))[:200], a.File, "cut short"},
		"the second cut short":             {append(text(list(a)), text(list(a))[:200]...), a.File, "cut short"},
		"more after it":                    {append(list(a), "x"...), a.File, "neither PEM nor DER"},
		"a certificate":                    {certificate, a.File, "holds a CERTIFICATE"},
		"by a stranger":                    {list(other), a.File, "is not signed by the signer of that name"},
		"the second by a stranger":         {append(text(list(a)), text(list(other))...), a.File, "is not signed by the signer of that name"},
		"by who may not sign":              {list(a), cert, "is signed by none of those"},
		"changed":                          {bytes.Replace(list(a), []byte("tests"), []byte("tEsts"), 1), a.File, "is signed by none of those"},
		"of changes":                       {list(a, pkix.Extension{Id: deltaList, Critical: true, Value: []byte{2, 1, 1}}), a.File, "complete list"},
		"with what is not understood":      {list(a, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}, Critical: true}), a.File, "1.2.3"},
		"of others' certificates":          {list(a, point(0x84, 1, 0xff)), a.File, "other signers"},
		"with a nonsensical point":         {list(a, point(0x84, 9)), a.File, "cannot be read"},
		"with another one's entry":         {entry, a.File, "2.5.29.29"},
		"with what need not be understood": {list(a, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 3}}), a.File, ""},
		"of changes, not critical":         {list(a, pkix.Extension{Id: deltaList, Value: []byte{2, 1, 1}}), a.File, "complete list"},
	} {
		_, err := New(Config{Folder: repo.NewFolder(t.TempDir()), Log: slog.New(slog.DiscardHandler), TLS: TLS{Cert: cert, Key: key, ClientCA: c.ca, Revoked: secretFile(t, string(c.file))}})
		if (err == nil) != (c.says == "") || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Of several ways to those who are trusted, one must be free of what is revoked.
func TestRevokedOnTheWay(t *testing.T) {
	c := func(issuer string, serial int64) *x509.Certificate {
		return &x509.Certificate{RawIssuer: []byte(issuer), SerialNumber: big.NewInt(serial)}
	}
	client, floor, root, again := c("floor", 7), c("root", 1), c("root", 0), c("other", 1)
	for name, x := range map[string]struct {
		revoked *x509.Certificate
		chains  [][]*x509.Certificate
		want    bool
	}{
		"the client":             {client, [][]*x509.Certificate{{client, floor, root}, {client, again}}, true},
		"its number elsewhere":   {c("root", 7), [][]*x509.Certificate{{client, floor, root}}, false},
		"who signed it":          {floor, [][]*x509.Certificate{{client, floor, root}}, true},
		"one of two who did":     {floor, [][]*x509.Certificate{{client, floor, root}, {client, again}}, false},
		"no certificate":         {client, nil, false},
		"who signed it, trusted": {floor, [][]*x509.Certificate{{client, floor}}, true},
	} {
		r := &revocations{revoked: map[certificateID]bool{idOf(x.revoked): true}}
		if got := r.find(x.chains) != nil; got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

// FuzzRevocationLists reads files that somebody has put there: nothing but a list
// that a signer has signed takes a certificate back.
func FuzzRevocationLists(f *testing.F) {
	a := testenv.NewAuthority(f)
	signers := signersOf(f, a)
	good := a.List(f, &x509.RevocationList{NextUpdate: time.Now().Add(time.Hour)}, a.File)
	f.Add(good)
	f.Add(pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: good}))
	f.Add(testenv.NewAuthority(f).List(f, &x509.RevocationList{NextUpdate: time.Now().Add(time.Hour)}, a.File))
	f.Fuzz(func(t *testing.T, b []byte) {
		lists, err := parseLists(b)
		if err != nil {
			return
		}
		r, err := newRevocations(lists, signers)
		if err != nil {
			return
		}
		for _, l := range lists {
			if !bytes.Contains(good, l.RawTBSRevocationList) || r.find([][]*x509.Certificate{{signers[0]}}) == nil {
				t.Errorf("a list that nobody has signed is taken: %q", l.Raw)
			}
		}
	})
}

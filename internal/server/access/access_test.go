package access

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// file writes a file of a test.
func file(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func user(t testing.TB, name, password string) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	must(t, err)
	return name + ":" + strings.Replace(string(hash), "$2a$", "$2y$", 1) + "\n" // as htpasswd writes it
}

func token(name, token string) string {
	sum := sha256.Sum256([]byte(token))
	return name + ":" + hex.EncodeToString(sum[:]) + "\n"
}

func newGate(t testing.TB, c Config) *Gate {
	t.Helper()
	g, err := New(c, slog.New(slog.DiscardHandler))
	must(t, err)
	return g
}

// asked is a request with a field Authorization, if it is not empty.
func asked(authorization string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	if authorization != "" {
		r.Header.Set("Authorization", authorization)
	}
	return r
}

func basic(name, password string) *http.Request {
	r := asked("")
	r.SetBasicAuth(name, password)
	return r
}

// shown is a request by who has shown a certificate.
func shown(c *x509.Certificate, verified bool) *http.Request {
	r := asked("")
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	if verified {
		r.TLS.VerifiedChains = [][]*x509.Certificate{{c}}
	}
	return r
}

func TestIdentify(t *testing.T) {
	users := file(t, "# people\n\n"+user(t, "alice", "secret")+user(t, "bob", "sécret:x"))
	all := newGate(t, Config{Users: users, Tokens: file(t, token("floor2", "t0ken")), Certificates: true})
	open := newGate(t, Config{})
	machine := &x509.Certificate{DNSNames: []string{"pc-001.example", "x"}, Subject: pkix.Name{CommonName: "other"}}
	for _, c := range []struct {
		name string
		gate *Gate
		r    *http.Request
		want Reader
		bad  bool
	}{
		{"nobody", all, asked(""), Nobody, false},
		{"a user", all, basic("alice", "secret"), "user:alice", false},
		{"again", all, basic("alice", "secret"), "user:alice", false},
		{"another user", all, basic("bob", "sécret:x"), "user:bob", false},
		{"a wrong password", all, basic("alice", "Secret"), Nobody, true},
		{"another one's password", all, basic("alice", "sécret:x"), Nobody, true},
		{"no password", all, basic("alice", ""), Nobody, true},
		{"an unknown user", all, basic("eve", "secret"), Nobody, true},
		{"no user", all, basic("", ""), Nobody, true},
		{"not base64", all, asked("Basic !!!"), Nobody, true},
		{"no colon", all, asked("Basic YWxpY2U="), Nobody, true},
		{"a token", all, asked("Bearer t0ken"), "token:floor2", false},
		{"a token, in other letters", all, asked("bearer  t0ken"), "token:floor2", false},
		{"a wrong token", all, asked("Bearer t0keN"), Nobody, true},
		{"no token", all, asked("Bearer"), Nobody, true},
		{"a digest for a token", all, asked("Bearer " + strings.TrimSpace(strings.TrimPrefix(token("", "t0ken"), ":"))), Nobody, true},
		{"what is not taken", all, asked("Negotiate YII="), Nobody, true},
		{"what nobody knows", all, asked("Digest x"), Nobody, true},
		{"a certificate", all, shown(machine, true), "certificate:pc-001.example", false},
		{"a certificate that TLS has not verified", all, shown(machine, false), Nobody, false},
		{"a subject", all, shown(&x509.Certificate{Subject: pkix.Name{CommonName: "pc-002"}}, true), "certificate:pc-002", false},
		{"an address", all, shown(&x509.Certificate{EmailAddresses: []string{"a@example"}}, true), "certificate:a@example", false},
		{"a certificate of nobody", all, shown(&x509.Certificate{}, true), Nobody, true},
		{"who need not be known", open, basic("eve", "x"), Nobody, false},
		{"a certificate where none counts", open, shown(machine, true), Nobody, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := c.gate.Identify(c.r, "10.0.0.1")
			if got != c.want || errors.Is(err, ErrUnknown) != c.bad || (err != nil) != c.bad {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
			if err != nil && (strings.Contains(err.Error(), "ecret") || strings.Contains(err.Error(), "t0ken")) {
				t.Errorf("it says what it was told: %v", err)
			}
		})
	}
	h := http.Header{}
	if !all.Challenge(h) || len(h.Values("WWW-Authenticate")) != 2 {
		t.Errorf("%v", h)
	}
	if open.Challenge(http.Header{}) || newGate(t, Config{Certificates: true}).Challenge(http.Header{}) {
		t.Error("there is nothing to ask for")
	}

	// A password that was right is wrong as soon as the file says so.
	must(t, os.WriteFile(users, []byte(user(t, "alice", "other")), 0o600))
	if _, err := all.Identify(basic("alice", "secret"), "10.0.0.1"); !errors.Is(err, ErrUnknown) {
		t.Errorf("the old password: %v", err)
	}
	if got, err := all.Identify(basic("alice", "other"), "10.0.0.1"); got != "user:alice" {
		t.Errorf("the new password: %v", err)
	}
}

// bcrypt is run once for a password, not for each request.
func TestProven(t *testing.T) {
	u, err := parseUsers([]byte(user(t, "alice", "secret")))
	must(t, err)
	p := newProven()
	check := func(password string) (bool, int) {
		t.Helper()
		ok, err := p.check(t.Context(), u, "alice", password)
		must(t, err)
		return ok, len(p.codes)
	}
	for _, c := range []struct {
		password string
		ok       bool
		kept     int
	}{{"wrong", false, 0}, {"secret", true, 1}, {"secret", true, 1}, {"wrong", false, 1}} {
		if ok, kept := check(c.password); ok != c.ok || kept != c.kept {
			t.Errorf("%s: %v, %d are remembered", c.password, ok, kept)
		}
	}
	for len(p.turn) < cap(p.turn) {
		p.turn <- struct{}{} // whoever must be checked would wait for ever
	}
	if ok, _ := check("secret"); !ok {
		t.Error("a proven password was checked again")
	}
	for i := range mostProven {
		p.codes[p.code(fmt.Sprint(i))] = true
	}
	for len(p.turn) > 0 {
		<-p.turn
	}
	if ok, err := p.check(t.Context(), users{hashes: map[string][]byte{"b": u.hashes["alice"]}}, "b", "secret"); !ok || err != nil || len(p.codes) > mostProven {
		t.Errorf("%v, %v, %d are remembered", ok, err, len(p.codes))
	}
}

func TestRights(t *testing.T) {
	g := newGate(t, Config{Tokens: file(t, ""), Rights: file(t, `
[[allow]]
images = ["win11", "kiosk-*"]
readers = ["user:alice", "token:floor2-*", "kerberos:*@EXAMPLE.COM"]
[[allow]]
images = ["tools"]
readers = ["*"]
[[allow]]
images = ["demo"]
readers = ["anyone"]
`)})
	for _, c := range []struct {
		reader Reader
		may    string
		not    string
	}{
		{"user:alice", "win11 kiosk- kiosk-1 tools demo", "win1 win110 xwin11 WIN11 kiosk other"},
		{"user:alice2", "tools demo", "win11"},
		{"token:floor2-a", "win11 tools", "other"},
		{"token:alice", "tools", "win11"},
		{"kerberos:bob@EXAMPLE.COM", "win11", "other"},
		{"kerberos:host/pc@EXAMPLE.COM", "win11", "other"},
		{"kerberos:bob@EXAMPLE.COM.evil", "tools", "win11"},
		{"certificate:user:alice", "tools", "win11"},
		{Nobody, "demo", "win11 tools other"},
	} {
		for _, image := range strings.Fields(c.may) {
			if !g.MayRead(c.reader, image) {
				t.Errorf("%q may not read %s", c.reader, image)
			}
		}
		for _, image := range strings.Fields(c.not) {
			if g.MayRead(c.reader, image) {
				t.Errorf("%q may read %s", c.reader, image)
			}
		}
		if !g.MayLook(c.reader) {
			t.Errorf("%q may not look", c.reader)
		}
	}
	all := newGate(t, Config{Tokens: file(t, "")})
	none := newGate(t, Config{Rights: file(t, "")})
	open := newGate(t, Config{})
	for _, c := range []struct {
		name   string
		gate   *Gate
		reader Reader
		may    bool
	}{
		{"who is known", all, "token:x", true}, {"who is not known", all, Nobody, false},
		{"when nothing is allowed", none, "token:x", false}, {"when nothing is allowed", none, Nobody, false}, {"when nothing is asked", open, Nobody, true},
	} {
		if got := c.gate.MayRead(c.reader, "win11"); got != c.may {
			t.Errorf("%s: may read: %v", c.name, got)
		}
	}
	if !open.Open() || all.Open() || none.Open() {
		t.Error("which one is open?")
	}
}

// Files that make no sense are refused, with what to do.
func TestBadFiles(t *testing.T) {
	for _, c := range []struct{ kind, text, says string }{
		{"users", "alice", "line 1"},
		{"users", "\n:x", "line 2"},
		{"users", "alice:{SHA}x", "htpasswd -B"},
		{"users", "alice:$apr1$x$y", "htpasswd -B"},
		{"users", "alice:$2y$31$abcdefghijklmnopqrstuuXVZ5xTXGDtKSEHQh8.T2ZyNnXqfnRZq2", "cost 31"},
		{"users", "alice:$2y$04$abcdefghijklmnopqrstuuXVZ5xTXGDtKSEHQh8.T2ZyNnXqfnRZq2\nalice:$2y$04$abcdefghijklmnopqrstuuXVZ5xTXGDtKSEHQh8.T2ZyNnXqfnRZq2", "twice"},
		{"tokens", "a:b", "SHA-256"},
		{"tokens", token("a", "x")[:60], "SHA-256"},
		{"tokens", token("a", "x") + token("a", "y"), "twice"},
		{"rights", "[allow]", ""},
		{"rights", "x = 1", `"x"`},
		{"rights", "[[allow]]\nimages = ['a']\nwriters = ['anyone']", "writer"},
		{"rights", "[[allow]]\nimages = ['a']\nwriters = ['alice']", "user:"},
		{"rights", "[[allow]]\nimages = ['a']", "needs images, and readers or writers"},
		{"rights", "[[allow]]\nimages = ['a']\nreaders = ['alice']", "user:"},
		{"keytab", "", "keytab"},
		{"keytab", "\x05\x02\x00\x00\x00\x05", "keytab"},
		{"keytab", "nonsense", "keytab"},
	} {
		path := file(t, c.text)
		var config Config
		for kind, to := range map[string]*string{"users": &config.Users, "tokens": &config.Tokens, "rights": &config.Rights, "keytab": &config.Keytab} {
			if kind == c.kind {
				*to = path
			}
		}
		_, err := New(config, slog.New(slog.DiscardHandler))
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), c.kind+": "+path) {
			t.Errorf("%s %q: %v", c.kind, c.text, err)
		}
	}
}

func TestNewToken(t *testing.T) {
	text := "# tokens\n"
	for _, name := range []string{"a", "b-1.example"} {
		tok, line, err := NewToken([]byte(text), name)
		must(t, err)
		text += line
		known, err := parseTokens([]byte(text))
		must(t, err)
		if got, err := known.reader(tok); got != Reader("token:"+name) || len(tok) < 40 {
			t.Errorf("%q, %v", got, err)
		}
	}
	for _, name := range []string{"", "a", "a:b", "a b", "#a", "a\n"} {
		if _, _, err := NewToken([]byte(text), name); err == nil {
			t.Errorf("%q was accepted", name)
		}
	}
}

// FuzzFiles reads files of all kinds: nonsense is an error, and nobody is let in
// by it.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("alice:$2y$04$abcdefghijklmnopqrstuuXVZ5xTXGDtKSEHQh8.T2ZyNnXqfnRZq2"))
	f.Add([]byte(token("a", "x")))
	f.Add([]byte("[[allow]]\nimages = ['a*']\nreaders = ['user:*', 'anyone']"))
	f.Add([]byte("\x05\x02\x00\x00\x00\x05"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if u, err := parseUsers(b); err == nil && u.hashes[""] != nil {
			t.Error("a user without a name")
		}
		if tokens, err := parseTokens(b); err == nil {
			if r, err := tokens.reader(""); err == nil && r == "token:" {
				t.Error("a token without a name")
			}
		}
		if r, err := parseRights(b); err == nil && !r.anyone && r.allow(Nobody, "a") {
			t.Error("nobody may read, and does")
		}
		parseKeytab(b)
	})
}

// FuzzAuthorization sends whatever a client may.
func FuzzAuthorization(f *testing.F) {
	g := newGate(f, Config{Users: file(f, user(f, "alice", "secret")), Tokens: file(f, token("a", "x"))})
	g.keytab = newKeytab(f)
	for _, s := range []string{"Basic YWxpY2U6c2VjcmV0", "Bearer x", "Negotiate YII=", "Negotiate YA==", "Negotiate oQcwBaADCgEC", "Negotiate YBgGBisGAQUFAqAOMAygCjAIBgYrBgEFBQI=", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := g.Identify(asked(s), "10.0.0.1")
		if (err == nil) == (r == Nobody) && s != "" && strings.TrimSpace(s) != "" && !strings.HasPrefix(s, " ") {
			t.Errorf("%q: %q, %v", s, r, err)
		}
		if strings.HasPrefix(string(r), kindKerberos) {
			t.Errorf("%q was taken for a ticket", s)
		}
	})
}

// Whether there is more for some than for all follows from the rights alone.
func TestHides(t *testing.T) {
	allow := func(images, readers string) string {
		return "[[allow]]\nimages = [" + images + "]\nreaders = [" + readers + "]\n"
	}
	tokens := file(t, "")
	for rights, want := range map[string]bool{
		"":                                     false,
		allow("'a'", "'*'"):                    true,
		allow("'*'", "'anyone'"):               false,
		allow("'a'", "'anyone', 'user:alice'"): false,
		allow("'a'", "'anyone'") + allow("'b'", "'user:alice'"):                           true,
		allow("'b'", "'user:alice'") + allow("'*'", "'anyone'"):                           false,
		allow("'a-*'", "'anyone'") + allow("'a-b', 'a-*', 'a-*-c'", "'user:alice'"):       false,
		allow("'a-*'", "'anyone'") + allow("'a-b', 'a*'", "'user:alice'"):                 true,
		allow("'a'", "'anyone'") + "[[allow]]\nimages = ['*']\nwriters = ['token:build']": false,
	} {
		if got := newGate(t, Config{Tokens: tokens, Rights: file(t, rights)}).Hides(); got != want {
			t.Errorf("%v for\n%s", got, rights)
		}
	}
	if newGate(t, Config{}).Hides() || !newGate(t, Config{Tokens: tokens}).Hides() {
		t.Error("without rights, who is known may read all, and all may where nobody is")
	}
}

// Writers are those that rights name, and nobody else.
func TestMayWrite(t *testing.T) {
	open := func(rights string) *Gate {
		c := Config{Users: file(t, ""), Rights: file(t, rights)}
		if rights == "" {
			c.Rights = ""
		}
		g, err := New(c, slog.New(slog.DiscardHandler))
		must(t, err)
		return g
	}
	g := open("[[allow]]\nimages = ['*']\nreaders = ['anyone']\n[[allow]]\nimages = ['win*']\nwriters = ['user:alice', 'token:build-*']\n[[allow]]\nimages = ['scratch']\nreaders = ['user:eve']\nwriters = ['*']\n")
	for _, c := range []struct {
		who   Reader
		image string
		may   bool
	}{
		{"user:alice", "win11", true}, {"token:build-7", "win", true}, {"user:eve", "scratch", true},
		{"user:eve", "win11", false}, {"user:alice", "linux", false}, {"user:alice2", "win11", false}, {"", "win11", false}, {"", "scratch", false}, {"token:alice", "win11", false},
	} {
		if got := g.MayWrite(c.who, c.image); got != c.may {
			t.Errorf("%q may write %s: %v", c.who, c.image, got)
		}
	}
	if !g.Writers() || open("").Writers() || open("").MayWrite("user:alice", "win11") || open("[[allow]]\nimages = ['*']\nreaders = ['*']").Writers() {
		t.Error("writers where there are none")
	}
	if g.MayRead("token:build-7", "other") != true || open("[[allow]]\nimages = ['*']\nwriters = ['*']").MayRead("user:alice", "a") {
		t.Error("who may write may not read for that")
	}
}

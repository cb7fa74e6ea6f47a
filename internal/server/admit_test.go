package server

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"prestage/internal/repo"
	"prestage/internal/server/access"
)

// secretFile writes a file of a test.
func secretFile(t testing.TB, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	must(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

// users is a file with alice, whose password is secret.
func users(t testing.TB) string {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	must(t, err)
	return secretFile(t, "alice:"+string(hash)+"\n")
}

const (
	asAlice = "Authorization: Basic YWxpY2U6c2VjcmV0"
	asEve   = "Authorization: Basic ZXZlOnNlY3JldA=="
)

// Readers see what they may read, and learn nothing of the rest.
func TestReaders(t *testing.T) {
	rights := secretFile(t, `
[[allow]]
images = ["win11"]
readers = ["user:alice", "user:bob"]
[[allow]]
images = ["demo"]
readers = ["anyone"]
`)
	s := start(t, Config{Access: access.Config{Users: users(t), Rights: rights}})
	for _, name := range []string{"win11", "demo", "other"} {
		add(t, s.folder, name, 1)
	}
	listed := func(file string) bool { return file == "" || file == repo.CatalogName }
	for _, c := range []struct {
		file, as string
		code     int
		private  bool
	}{
		{"win11_1.ckm", asAlice, 200, true}, {"win11_1.index", asAlice, 200, true}, {"win11_2.ckm", asAlice, 404, false},
		{"win11_1.ckm", "", 401, false}, {"win11_1.ckm", asEve, 401, false}, {"win11_9.ckm", "", 401, false},
		{"other_1.ckm", asAlice, 403, false}, {"other_2.ckm", asAlice, 403, false}, {"nothing_1.ckm", asAlice, 403, false},
		{"demo_1.ckm", "", 200, false}, {"demo_1.ckm", asAlice, 200, false}, {"demo_1.ckm", asEve, 401, false},
		{"catalog.json", asAlice, 200, true}, {"catalog.json", "", 200, true}, {"", asAlice, 200, true}, {"", asEve, 401, false},
	} {
		var header []string
		if c.as != "" {
			header = append(header, c.as)
		}
		a := s.get(c.file, header...)
		if a.StatusCode != c.code {
			t.Errorf("%q as %q: %s, want %d", c.file, c.as, a.Status, c.code)
		}
		if got := a.Header.Get("WWW-Authenticate"); (got != "") != (c.code == 401 || listed(c.file) && c.as == "") {
			t.Errorf("%q as %q: WWW-Authenticate: %s", c.file, c.as, got)
		}
		if private := strings.Contains(a.Header.Get("Cache-Control"), "private"); private != c.private {
			t.Errorf("%q as %q: Cache-Control: %s", c.file, c.as, a.Header.Get("Cache-Control"))
		}
	}
	images := func(header ...string) (names []string) {
		t.Helper()
		a := s.get(repo.CatalogName, header...)
		c, err := repo.ParseCatalog(a.body)
		must(t, err)
		for _, e := range c.Images {
			names = append(names, e.Name)
			if page := s.get("", header...); !bytes.Contains(page.body, []byte(e.Name)) {
				t.Errorf("the page has no %s", e.Name)
			}
		}
		return names
	}
	if got := strings.Join(images(asAlice), " "); got != "demo win11" {
		t.Errorf("alice sees %s", got)
	}
	if got := strings.Join(images(), " "); got != "demo" {
		t.Errorf("everybody sees %s", got)
	}
	// Rights change while the server runs.
	must(t, os.WriteFile(rights, []byte("[[allow]]\nimages = ['*']\nreaders = ['user:alice']\n"), 0o600))
	if got := strings.Join(images(asAlice), " "); got != "demo other win11" {
		t.Errorf("then alice sees %s", got)
	}
	if got := s.get(repo.CatalogName).StatusCode; got != 401 {
		t.Errorf("then everybody gets %d", got)
	}
}

// Who has not said who it is learns that there may be more for others, where that is
// so, and gets what it may have all the same.
func TestInvited(t *testing.T) {
	const some = "[[allow]]\nimages = ['demo']\nreaders = ['anyone']\n"
	rights := secretFile(t, some+"[[allow]]\nimages = ['win11']\nreaders = ['user:alice']\n")
	c := access.Config{Users: users(t), Tokens: secretFile(t, ""), Rights: rights}
	s := start(t, Config{Access: c})
	add(t, s.folder, "demo", 1)
	must(t, os.WriteFile(s.folder.Path(repo.PolicyName), []byte("{}"), 0o644))
	const basic, bearer = `Basic realm="MEDVImages", charset="UTF-8"`, `Bearer realm="MEDVImages"`
	is := func(s *testServer, method, file string, code int, want []string, header ...string) reply {
		t.Helper()
		a := s.ask(method, Prefix+file, header...)
		if got := a.Header.Values("WWW-Authenticate"); a.StatusCode != code || !slices.Equal(got, want) {
			t.Errorf("%s %q with %q: %s, WWW-Authenticate: %q; want %d, %q", method, file, header, a.Status, got, code, want)
		}
		return a
	}
	for _, file := range []string{repo.CatalogName, repo.PolicyName, ""} {
		a := is(s, "GET", file, 200, []string{basic, bearer})
		have := "If-None-Match: " + a.Header.Get("ETag")
		for _, a := range []reply{a, is(s, "HEAD", file, 200, []string{basic, bearer}), is(s, "GET", file, 304, []string{basic, bearer}, have)} {
			if a.Header.Get("Vary") != "Authorization" || a.Header.Get("Cache-Control") != "private, "+cacheShortly || a.Header.Get("ETag") == "" {
				t.Errorf("%q: %v", file, a.Header)
			}
		}
		is(s, "GET", file, 200, nil, asAlice)
		is(s, "HEAD", file, 200, nil, asAlice)
		is(s, "GET", file, 401, []string{basic, bearer}, asEve)
	}
	// The copy of one is not taken for that of another.
	nobody, alice := s.get(repo.CatalogName), s.get(repo.CatalogName, asAlice)
	if nobody.Header.Get("ETag") != alice.Header.Get("ETag") {
		t.Error("the same catalog has two tags")
	}
	add(t, s.folder, "win11", 1)
	is(s, "GET", repo.CatalogName, 304, []string{basic, bearer}, "If-None-Match: "+nobody.Header.Get("ETag"))
	is(s, "GET", repo.CatalogName, 200, nil, asAlice, "If-None-Match: "+nobody.Header.Get("ETag"))
	alice = s.get(repo.CatalogName, asAlice)
	is(s, "GET", repo.CatalogName, 200, []string{basic, bearer}, "If-None-Match: "+alice.Header.Get("ETag"))
	// What concerns one image alone says nothing of others.
	is(s, "GET", "demo_1.index", 200, nil)

	// Nothing more is there for who can write, nor where everybody may read everything.
	must(t, os.WriteFile(rights, []byte(some+"writers = ['user:alice']\n"), 0o600))
	is(s, "GET", repo.CatalogName, 200, nil)
	open := start(t, Config{Folder: s.folder})
	if a := is(open, "GET", repo.CatalogName, 200, nil); a.Header.Get("Vary") != "" || a.Header.Get("Cache-Control") != cacheShortly {
		t.Errorf("%v", a.Header)
	}
	must(t, os.Remove(s.folder.Path(repo.PolicyName)))
	is(s, "GET", repo.PolicyName, 404, nil)
}

// Passwords do not go over a network unencrypted.
func TestOverheard(t *testing.T) {
	l, err := net.Listen("tcp", ":0")
	must(t, err)
	s, err := New(Config{Log: slog.New(slog.DiscardHandler), Folder: repo.NewFolder(t.TempDir()), Access: access.Config{Users: users(t)}})
	must(t, err)
	if err := s.Serve(context.Background(), l, func() { t.Error("it listens") }); !errors.Is(err, ErrOverheard) {
		t.Error(err)
	}
}

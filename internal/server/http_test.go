package server

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/repo"
)

// What HTTP says of a file that can be asked for by ranges and conditions (RFC
// 9110, 13 and 14).
func TestContract(t *testing.T) {
	s := start(t, Config{})
	data := add(t, s.folder, "win11", 3)
	size := len(data)
	whole := s.get("win11_1.ckm")
	tag, modified := whole.Header.Get("ETag"), whole.Header.Get("Last-Modified")
	part := func(from, to int) string { return fmt.Sprintf("bytes %d-%d/%d", from, to, size) }
	long := "bytes=0-0" + strings.Repeat(",2-2", mostRanges)
	for _, c := range []struct {
		name   string
		method string
		header []string
		code   int
		cr     string // Content-Range
		body   []byte
	}{
		{"all", "GET", nil, 200, "", data},
		{"head", "HEAD", nil, 200, "", nil},
		{"a range", "GET", []string{"Range: bytes=10-19"}, 206, part(10, 19), data[10:20]},
		{"to the end", "GET", []string{"Range: bytes=100-"}, 206, part(100, size-1), data[100:]},
		{"beyond the end", "GET", []string{"Range: bytes=100-99999999"}, 206, part(100, size-1), data[100:]},
		{"the last bytes", "GET", []string{"Range: bytes=-5"}, 206, part(size-5, size-1), data[size-5:]},
		{"more last bytes than there are", "GET", []string{"Range: bytes=-99999999"}, 206, part(0, size-1), data},
		{"behind the end", "GET", []string{fmt.Sprintf("Range: bytes=%d-", size)}, 416, fmt.Sprintf("bytes */%d", size), nil},
		{"units in other letters", "GET", []string{"Range: Bytes=0-0"}, 206, part(0, 0), data[:1]},
		{"other units", "GET", []string{"Range: frames=0-0"}, 200, "", data},
		{"no range at all", "GET", []string{"Range: bytes"}, 200, "", data},
		{"a range backwards", "GET", []string{"Range: bytes=5-1"}, 416, "", nil},
		{"too many ranges", "GET", []string{"Range: " + long}, 416, "", nil},
		{"a range of a head", "HEAD", []string{"Range: bytes=10-19"}, 200, "", nil},

		{"have it", "GET", []string{"If-None-Match: " + tag}, 304, "", nil},
		{"have it, weakly", "GET", []string{"If-None-Match: W/" + tag}, 304, "", nil},
		{"have it, among others", "HEAD", []string{`If-None-Match: "x", ` + tag}, 304, "", nil},
		{"have any", "GET", []string{"If-None-Match: *"}, 304, "", nil},
		{"have another", "GET", []string{`If-None-Match: "x"`}, 200, "", data},
		{"have another, of that time", "GET", []string{`If-None-Match: "x"`, "If-Modified-Since: " + modified}, 200, "", data},
		{"not modified", "GET", []string{"If-Modified-Since: " + modified}, 304, "", nil},
		{"modified", "GET", []string{"If-Modified-Since: Sat, 01 Jan 2000 00:00:00 GMT"}, 200, "", data},
		{"no time at all", "GET", []string{"If-Modified-Since: yesterday"}, 200, "", data},
		{"that one", "GET", []string{"If-Match: " + tag}, 200, "", data},
		{"that one, weakly", "GET", []string{"If-Match: W/" + tag}, 412, "", nil},
		{"another one", "GET", []string{`If-Match: "x"`}, 412, "", nil},
		{"another one's range", "GET", []string{`If-Match: "x"`, "Range: bytes=0-0"}, 412, "", nil},
		{"unmodified", "GET", []string{"If-Unmodified-Since: " + modified}, 200, "", data},
		{"modified since", "GET", []string{"If-Unmodified-Since: Sat, 01 Jan 2000 00:00:00 GMT"}, 412, "", nil},
		{"its range", "GET", []string{"If-Range: " + tag, "Range: bytes=1-2"}, 206, part(1, 2), data[1:3]},
		{"its range, weakly", "GET", []string{"If-Range: W/" + tag, "Range: bytes=1-2"}, 200, "", data},
		{"another's range", "GET", []string{`If-Range: "x"`, "Range: bytes=1-2"}, 200, "", data},
		{"the range of that time", "GET", []string{"If-Range: " + modified, "Range: bytes=1-2"}, 206, part(1, 2), data[1:3]},
		{"the range of another time", "GET", []string{"If-Range: Sat, 01 Jan 2000 00:00:00 GMT", "Range: bytes=1-2"}, 200, "", data},
		{"have it, a range", "GET", []string{"If-None-Match: " + tag, "Range: bytes=1-2"}, 304, "", nil},

		{"post", "POST", nil, 405, "", nil},
		{"delete", "DELETE", nil, 405, "", nil},
		{"options", "OPTIONS", nil, 405, "", nil},
		{"what nobody knows", "FETCH", nil, 405, "", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.ask(c.method, Prefix+"win11_1.ckm", c.header...)
			if a.StatusCode != c.code || a.Header.Get("Content-Range") != c.cr {
				t.Fatalf("%s, Content-Range %q; want %d, %q", a.Status, a.Header.Get("Content-Range"), c.code, c.cr)
			}
			if c.code < 300 && !bytes.Equal(a.body, c.body) {
				t.Errorf("%d bytes that are not the %d expected", len(a.body), len(c.body))
			}
			if c.method == "HEAD" && c.code == 200 && a.ContentLength != int64(size) {
				t.Errorf("Content-Length %d, want %d", a.ContentLength, size)
			}
			if c.code < 400 && (a.Header.Get("ETag") != tag || !strings.Contains(a.Header.Get("Cache-Control"), "immutable")) {
				t.Errorf("ETag %q, Cache-Control %q", a.Header.Get("ETag"), a.Header.Get("Cache-Control"))
			}
			if c.code >= 400 && (a.Header.Get("ETag") != "" || strings.Contains(a.Header.Get("Cache-Control"), "immutable")) {
				t.Errorf("an error has ETag %q, Cache-Control %q", a.Header.Get("ETag"), a.Header.Get("Cache-Control"))
			}
			if c.code == 405 && a.Header.Get("Allow") != "GET, HEAD" {
				t.Errorf("allow: %q", a.Header.Get("Allow"))
			}
		})
	}
	if got := whole.Header.Get("Content-Type"); got != "application/octet-stream" {
		t.Errorf("Content-Type %q", got)
	}
	if whole.Header.Get("Accept-Ranges") != "bytes" || strings.HasPrefix(tag, "W/") || len(tag) < 20 || modified == "" {
		t.Errorf("%v", whole.Header)
	}
}

// Several ranges come in one answer of several parts.
func TestManyRanges(t *testing.T) {
	s := start(t, Config{})
	data := add(t, s.folder, "win11", 1)
	a := s.get("win11_1.ckm", "Range: bytes=0-9, 1000-1099,-3")
	kind, params, err := mime.ParseMediaType(a.Header.Get("Content-Type"))
	must(t, err)
	if a.StatusCode != 206 || kind != "multipart/byteranges" || a.Header.Get("Content-Range") != "" {
		t.Fatalf("%s, %v", a.Status, a.Header)
	}
	parts := multipart.NewReader(bytes.NewReader(a.body), params["boundary"])
	for _, want := range [][2]int{{0, 10}, {1000, 1100}, {len(data) - 3, len(data)}} {
		p, err := parts.NextPart()
		must(t, err)
		b, err := io.ReadAll(p)
		must(t, err)
		if cr := fmt.Sprintf("bytes %d-%d/%d", want[0], want[1]-1, len(data)); p.Header.Get("Content-Range") != cr {
			t.Errorf("Content-Range %q, want %q", p.Header.Get("Content-Range"), cr)
		}
		if !bytes.Equal(b, data[want[0]:want[1]]) {
			t.Errorf("the part %v is another one", want)
		}
	}
	if _, err := parts.NextPart(); err != io.EOF {
		t.Errorf("there is more: %v", err)
	}
}

// Validators depend on the package alone: after a restart, and on another server
// with a copy, a client goes on where it was.
func TestValidatorsStay(t *testing.T) {
	s := start(t, Config{})
	add(t, s.folder, "win11", 1)
	dir := t.TempDir()
	must(t, os.CopyFS(dir, os.DirFS(s.folder.String())))
	must(t, os.Chtimes(filepath.Join(dir, "win11_1.ckm"), time.Now(), time.Unix(1e9, 0)))
	others := []*testServer{start(t, Config{Folder: s.folder}), start(t, Config{Folder: repo.NewFolder(dir)})}
	for _, file := range []string{"win11_1.ckm", "win11_1.index", repo.CatalogName, ""} {
		want := s.get(file).Header
		for _, o := range others {
			got := o.get(file).Header
			if got.Get("ETag") == "" || got.Get("ETag") != want.Get("ETag") || got.Get("Last-Modified") != want.Get("Last-Modified") {
				t.Errorf("%q: %v, and %v", file, want, got)
			}
		}
	}
	if s.get("win11_1.ckm").Header.Get("ETag") == s.get("win11_1.index").Header.Get("ETag") {
		t.Error("INDEX and CKM have the same ETag")
	}
}

// The catalog and the page are made from what can be seen, and follow it.
func TestCatalog(t *testing.T) {
	s := start(t, Config{})
	images := func() string {
		t.Helper()
		a := s.get(repo.CatalogName)
		if a.StatusCode != 200 || a.Header.Get("Content-Type") != "application/json" || a.Header.Get("Cache-Control") != cacheShortly {
			t.Fatalf("%s, %v", a.Status, a.Header)
		}
		c, err := repo.ParseCatalog(a.body)
		must(t, err)
		var names []string
		for _, e := range c.Images {
			names = append(names, repo.ImageName(e.Name, e.Version))
		}
		if got := s.get(repo.CatalogName, "If-None-Match: "+a.Header.Get("ETag")).StatusCode; got != 304 {
			t.Errorf("asked again: %d", got)
		}
		return strings.Join(names, " ")
	}
	is := func(want string) {
		t.Helper()
		if got := images(); got != want {
			t.Errorf("the catalog has %q, want %q", got, want)
		}
	}
	is("")
	if page := s.get(""); !bytes.Contains(page.body, []byte("no images")) {
		t.Errorf("%s", page.body)
	}
	add(t, s.folder, "größe+1", 1)
	is("größe+1:1")
	add(t, s.folder, "win11", 1)
	add(t, s.folder, "win11", 2)
	is("größe+1:1 win11:1 win11:2")
	page := s.get("")
	if page.StatusCode != 200 || page.Header.Get("Content-Type") != "text/html; charset=utf-8" || page.Header.Get("Content-Security-Policy") == "" {
		t.Errorf("%s, %v", page.Status, page.Header)
	}
	for _, want := range []string{"größe&#43;1", `href="./gr%c3%b6%c3%9fe&#43;1_1.ckm"`, `href="./win11_2.index"`, "catalog.json"} {
		if !strings.Contains(strings.ToLower(string(page.body)), strings.ToLower(want)) {
			t.Errorf("the page has no %q:\n%s", want, page.body)
		}
	}
	if got := s.get("gr%C3%B6%C3%9Fe+1_1.ckm").StatusCode; got != 200 {
		t.Errorf("the name in UTF-8: %d", got)
	}
	must(t, s.folder.Remove(t.Context(), "win11", 2))
	is("größe+1:1 win11:1")
	if got := s.get("win11_2.ckm").StatusCode; got != 404 {
		t.Errorf("what was removed: %d", got)
	}
}

// A package whose INDEX is missing is not there, nor is one that is not whole.
func TestHalfPackages(t *testing.T) {
	s := start(t, Config{})
	add(t, s.folder, "win11", 1)
	index, data := s.folder.Path("win11_1.index"), s.folder.Path("win11_1.ckm")
	gone := func(what string) {
		t.Helper()
		for _, file := range []string{"win11_1.index", "win11_1.ckm"} {
			if a := s.get(file); a.StatusCode != 404 {
				t.Errorf("%s: %s is served: %s", what, file, a.Status)
			}
		}
		if c := s.get(repo.CatalogName); bytes.Contains(c.body, []byte("win11")) {
			t.Errorf("%s: it is in the catalog", what)
		}
	}
	there := func(what string) {
		t.Helper()
		for _, file := range []string{"win11_1.index", "win11_1.ckm"} {
			if a := s.get(file); a.StatusCode != 200 {
				t.Errorf("%s: %s is not served: %s", what, file, a.Status)
			}
		}
	}
	there("at first")
	must(t, os.Rename(index, index+"~"))
	gone("without an INDEX")
	must(t, os.Rename(index+"~", index))
	there("with it again")
	must(t, os.Rename(data, data+"~"))
	gone("without a CKM")
	must(t, os.Rename(data+"~", data))
	there("with it again")
	b, err := os.ReadFile(data)
	must(t, err)
	must(t, os.WriteFile(data, b[:len(b)-1], 0o644))
	gone("cut short")
	if !strings.Contains(s.log.String(), "should have") {
		t.Errorf("nothing was said of it:\n%s", s.log)
	}
	must(t, os.WriteFile(data, b, 0o644))
	there("mended")
	must(t, os.WriteFile(index, []byte("not an INDEX"), 0o644))
	gone("with another INDEX")
	must(t, os.Remove(index))
	must(t, os.Mkdir(index, 0o755))
	gone("with a folder for an INDEX")
}

// What was replaced says that it is another one.
func TestReplacedPackage(t *testing.T) {
	s := start(t, Config{})
	data := add(t, s.folder, "win11", 1)
	for frames, when := range []string{"once", "again"} {
		before := s.get("win11_1.ckm")
		if !bytes.Equal(before.body, data) {
			t.Fatalf("%s: other bytes", when)
		}
		must(t, s.folder.Remove(t.Context(), "win11", 1))
		must(t, os.Remove(s.folder.Path(repo.CatalogName))) // forget that there was one
		data = add(t, s.folder, "win11", 2+frames)
		after := s.get("win11_1.ckm", "If-Range: "+before.Header.Get("ETag"), "Range: bytes=100-")
		if after.StatusCode != 200 || !bytes.Equal(after.body, data) {
			t.Errorf("%s: a client would have gone on with another file: %s", when, after.Status)
		}
	}
}

// Nothing is served that is not a package, whatever the path says.
func TestPaths(t *testing.T) {
	s := start(t, Config{})
	add(t, s.folder, "win11", 1)
	dir := s.folder.String()
	must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "other_1.ckm"), []byte("secret"), 0o644))
	must(t, os.WriteFile(filepath.Join(filepath.Dir(dir), "other_1.index"), []byte("secret"), 0o644))
	for _, f := range []string{".hidden", "notes.txt", ".prestage-1.new.ckm.partial", "sub/win11_1.ckm"} {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, f)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, f), []byte("secret"), 0o644))
	}
	base := filepath.Base(dir)
	for _, path := range []string{
		".hidden", "notes.txt", ".prestage.lock", ".prestage.packing", ".prestage-1.new.ckm.partial", "sub/win11_1.ckm", "sub/", "sub",
		"../other_1.ckm", "..%2fother_1.ckm", "%2e%2e/other_1.ckm", "%2e%2e%2fother_1.ckm", "..%5cother_1.ckm", `..\other_1.ckm`,
		"%252e%252e/other_1.ckm", "..;/other_1.ckm", "....//other_1.ckm", "%c0%ae%c0%ae/other_1.ckm", "../" + base + "/win11_1.ckm",
		"./win11_1.ckm", "//win11_1.ckm", "/win11_1.ckm", "sub/../win11_1.ckm", "win11_1.ckm/", "win11_1.ckm/.", "win11_1.ckm%00", "win11_1.ckm%00.html",
		"win11_1.ckm%20", "win11_1.ckm.", "win11_1.ckm::$DATA", "WIN11_1.CKM", "win11_01.ckm", "win11_0.ckm", "win11_1", "win11_2.ckm",
		"%2fetc%2fpasswd", "..", "%2e%2e", ".", "~", "catalog.json/", "Catalog.json", "\xff_1.ckm", "%ff_1.ckm", "con_1.ckm",
	} {
		a := s.raw("GET " + Prefix + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(a, "HTTP/1.1 404 ") && !strings.HasPrefix(a, "HTTP/1.1 400 ") {
			t.Errorf("%q: %s", path, a)
		}
	}
	for _, path := range []string{"/etc/passwd", "/../etc/passwd", "/MEDVImages", "/MEDVImagesX/win11_1.ckm", "/medvimages/win11_1.ckm", "*", "//"} {
		a := s.raw("GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
		if strings.HasPrefix(a, "HTTP/1.1 2") {
			t.Errorf("%q: %s", path, a)
		}
	}
	for _, path := range []string{"/", "/MEDVImages"} {
		if a := s.ask("GET", path); a.StatusCode != 308 || a.Header.Get("Location") != Prefix {
			t.Errorf("%q: %s to %q", path, a.Status, a.Header.Get("Location"))
		}
	}
}

// A folder that cannot be read says so, and is looked at again.
func TestFolderGone(t *testing.T) {
	s := start(t, Config{})
	add(t, s.folder, "win11", 1)
	if got := s.get("").StatusCode; got != 200 {
		t.Fatal(got)
	}
	must(t, os.Rename(s.folder.String(), s.folder.String()+"~"))
	if a := s.get(repo.CatalogName); a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || a.Header.Get("ETag") != "" {
		t.Errorf("%s, %v", a.Status, a.Header)
	}
	if a := s.get("win11_1.ckm"); a.StatusCode != 503 {
		t.Errorf("%s", a.Status)
	}
	must(t, os.Rename(s.folder.String()+"~", s.folder.String()))
	if got := s.get("win11_1.ckm").StatusCode; got != http.StatusOK {
		t.Error(got)
	}
}

// Names that Windows or a URL would read otherwise are still names.
func TestOddNames(t *testing.T) {
	s := start(t, Config{})
	for _, name := range []string{"a%2e", "a&b=c", "a;b", "a#b", "ä+ö", "100%", "a'b"} {
		add(t, s.folder, name, 1)
		r, err := repo.Open(s.url)
		must(t, err)
		b, err := r.Index(t.Context(), name, 1)
		must(t, err)
		if _, err := ckm.Decode(b); err != nil {
			t.Error(err)
		}
	}
}

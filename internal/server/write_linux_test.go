package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"prestage/ckm"
	"prestage/internal/patch"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/server/access"
	"prestage/internal/server/upload"
	"prestage/internal/testenv"
)

const asBob = "Authorization: Basic Ym9iOnNlY3JldA=="

// writable returns what lets alice and bob write images, of whom bob may not write
// secret ones, and eve read.
func writable(t testing.TB) Config {
	t.Helper()
	hash, err := bcrypt.GenerateFromPassword([]byte("secret"), bcrypt.MinCost)
	must(t, err)
	return Config{
		Uploads: upload.Config{Age: time.Hour, Keep: -1},
		Access: access.Config{
			Users: secretFile(t, fmt.Sprintf("alice:%[1]s\nbob:%[1]s\neve:%[1]s\n", hash)),
			Rights: secretFile(t, `
[[allow]]
images = ["*"]
readers = ["*"]
[[allow]]
images = ["win*", "linux"]
writers = ["user:alice", "user:bob"]
[[allow]]
images = ["secret"]
writers = ["user:alice"]
`),
		},
	}
}

// web is the server as somebody's repository, who gives up soon.
func (s *testServer) web(user string) *repo.Web {
	s.t.Helper()
	u, err := url.Parse(s.url)
	must(s.t, err)
	u.User = url.UserPassword(user, "secret")
	r, err := repo.NewWeb(u)
	must(s.t, err)
	r.Retries = 2
	return r
}

// workshop is a folder where packages are made.
type workshop struct {
	*repo.Folder
	t testing.TB
}

func newWorkshop(t testing.TB) workshop { return workshop{repo.NewFolder(t.TempDir()), t} }

// pack packs versions of an image, each a little larger than the one before and with
// a patch.
func (w workshop) pack(name string, versions int) workshop {
	w.t.Helper()
	open := func(version int) patch.Package {
		x, err := repo.ReadIndex(w.t.Context(), w, name, uint32(version))
		must(w.t, err)
		d, err := w.Data(w.t.Context(), name, uint32(version))
		must(w.t, err)
		w.t.Cleanup(func() { d.Close() })
		return patch.Package{Index: x, Data: d}
	}
	for v := range versions {
		add(w.t, w.Folder, name, 4+v)
		if v == 0 {
			continue
		}
		old, pkg := open(v), open(v+1)
		must(w.t, w.AddPatch(w.t.Context(), name, uint32(v+1), func(to io.Writer, scratch *os.File) error {
			_, err := patch.Write(w.t.Context(), to, scratch, old, pkg, progress.Discard)
			if !errors.Is(err, patch.ErrNotWorth) {
				return err
			}
			// One whose only part makes the new chunk from an old one.
			c := ckm.NewPatchCompressor()
			first, end := pkg.Index.FrameChunks(pkg.Index.Frames() - 1)
			raw, base := w.chunk(pkg, first), w.chunk(old, 0)
			stored, err := c.Compress(raw, base)
			if err != nil {
				return err
			}
			p := &ckm.Patch{Package: pkg.Index.Digest(), Base: old.Index.Digest(), BaseVersion: old.Index.Version,
				Parts: []ckm.PatchPart{{First: uint32(first), Count: uint32(end - first), Base: []ckm.ChunkRun{{First: 0, Count: 1}}, Stored: uint32(len(stored))}}}
			head, err := p.EncodeHead(pkg.Index, old.Index)
			if err == nil {
				_, err = to.Write(append(head, stored...))
			}
			return err
		}))
	}
	return w
}

// chunk returns the bytes of a chunk that has a frame of its own.
func (w workshop) chunk(p patch.Package, c int) []byte {
	w.t.Helper()
	f := p.Index.FrameOf(c)
	r, err := p.Data.ReadRange(w.t.Context(), int64(p.Index.Frame(f).Offset), int64(p.Index.Frame(f).Stored))
	must(w.t, err)
	defer r.Close()
	stored, err := io.ReadAll(r)
	must(w.t, err)
	raw, err := p.Index.DecodeFrame(f, nil, stored)
	must(w.t, err)
	return raw
}

// send uploads a package.
func (w workshop) send(to *repo.Web, name string, version uint32) (repo.Uploaded, error) {
	w.t.Helper()
	var u repo.Upload
	var err error
	u.Encoded, err = w.Index(w.t.Context(), name, version)
	must(w.t, err)
	u.Data, err = w.Data(w.t.Context(), name, version)
	must(w.t, err)
	defer u.Data.Close()
	if p, err := w.Patch(w.t.Context(), name, version); err == nil {
		defer p.Close()
		u.Patch = p
	}
	return to.Upload(w.t.Context(), u)
}

// file returns the bytes of a file.
func (w workshop) file(name string) []byte {
	w.t.Helper()
	b, err := os.ReadFile(w.Path(name))
	must(w.t, err)
	return b
}

// path is where the parts of a package's upload are.
func (w workshop) path(name string, version uint32) string {
	w.t.Helper()
	x, err := repo.ReadIndex(w.t.Context(), w, name, version)
	must(w.t, err)
	return fmt.Sprintf("%s%s%s_%d/%s", Prefix, repo.UploadPath, name, version, x.Digest())
}

// has checks that the server shows a package as it was packed, or that nobody sees
// anything of it.
func (s *testServer) has(w workshop, name string, version uint32, there bool) {
	s.t.Helper()
	files := []string{ckm.IndexName(name, version), ckm.DataName(name, version)}
	if _, err := os.Stat(w.Path(ckm.PatchName(name, version))); err == nil {
		files = append(files, ckm.PatchName(name, version))
	}
	for _, f := range files {
		a := s.get(f, asAlice)
		if there && !bytes.Equal(a.body, w.file(f)) {
			s.t.Errorf("%s: %s, other bytes", f, a.Status)
		}
		if _, err := os.Lstat(s.folder.Path(f)); !there && (a.StatusCode != 404 || err == nil) {
			s.t.Errorf("%s can be seen: %s", f, a.Status)
		}
	}
	if listed := bytes.Contains(s.get(repo.CatalogName, asAlice).body, []byte(`"`+files[0]+`"`)); listed != there {
		s.t.Errorf("the catalog has %s: %v", files[0], listed)
	}
}

// piece sends a piece.
func (s *testServer) piece(path string, at, length int, body []byte, header ...string) reply {
	s.t.Helper()
	for tries := 0; ; tries++ {
		r, err := s.tryPiece(path, at, length, body, header...)
		// A server that refuses a piece need not read it; its answer may be lost then.
		if tries < 10 && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			continue
		}
		must(s.t, err)
		return r
	}
}

func (s *testServer) tryPiece(path string, at, length int, body []byte, header ...string) (reply, error) {
	req, err := http.NewRequest("PATCH", "http://"+s.addr+path, bytes.NewReader(body))
	must(s.t, err)
	req.Header.Set("Content-Type", repo.UploadType)
	req.Header.Set(repo.UploadOffset, fmt.Sprint(at))
	req.Header.Set(repo.UploadLength, fmt.Sprint(length))
	if at+len(body) == length {
		req.Header.Set(repo.UploadComplete, "?1")
	}
	for _, h := range append([]string{asAlice}, header...) {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp, b}, err
}

// wants checks an answer.
func (r reply) wants(t testing.TB, what string, code int, says string) {
	t.Helper()
	if r.StatusCode != code || !strings.Contains(string(r.body), says) {
		t.Errorf("%s: %s %s, want %d %s", what, r.Status, r.body, code, says)
	}
}

func TestUpload(t *testing.T) {
	s := start(t, writable(t))
	w := newWorkshop(t).pack("win11", 3)
	for v := uint32(1); v <= 2; v++ {
		u, err := w.send(s.web("alice"), "win11", v)
		must(t, err)
		size := len(w.file(ckm.DataName("win11", v)))
		if u.Already || u.Patch != (v == 2) || v == 1 && u.Sent < int64(size) || v == 2 && u.Sent > int64(size/2) {
			t.Errorf("version %d of %d bytes: %+v", v, size, u)
		}
		s.has(w, "win11", v, true)
	}
	if u, err := w.send(s.web("bob"), "win11", 2); err != nil || !u.Already || u.Sent != 0 {
		t.Errorf("again: %+v, %v", u, err)
	}
	// A package that is there without its patch gets that.
	must(t, os.Remove(s.folder.Path("win11_2.patch")))
	if u, err := w.send(s.web("bob"), "win11", 2); err != nil || !u.Already || !u.Patch {
		t.Errorf("the patch: %+v, %v", u, err)
	}
	s.has(w, "win11", 2, true)
	// One whose base is not there is left out.
	must(t, s.web("bob").Remove(t.Context(), "win11", 2))
	s.has(w, "win11", 2, false)
	if u, err := w.send(s.web("bob"), "win11", 3); err != nil || u.Patch || !strings.Contains(u.PatchLeft, "win11:2") {
		t.Errorf("without what the patch is based on: %+v, %v", u, err)
	}
	// A version that was removed does not come back.
	if _, err := w.send(s.web("alice"), "win11", 2); !errors.Is(err, repo.ErrConflict) {
		t.Errorf("what was removed: %v", err)
	}
	if err := s.web("bob").Remove(t.Context(), "win11", 2); !errors.Is(err, repo.ErrNotFound) {
		t.Errorf("removed twice: %v", err)
	}
	s.nothingUnfinished()
	entries, err := s.folder.List(t.Context())
	must(t, err)
	if len(entries) != 2 {
		t.Errorf("%v", entries)
	}
}

// nothingUnfinished checks that uploads leave nothing.
func (s *testServer) nothingUnfinished() {
	s.t.Helper()
	left, err := filepath.Glob(filepath.Join(s.folder.String(), ".prestage-uploads", "[0-9a-f]*"))
	must(s.t, err)
	temps, err := filepath.Glob(filepath.Join(s.folder.String(), "*.partial"))
	must(s.t, err)
	if n, bytes := s.store.Unfinished(); n != 0 || bytes != 0 || len(left)+len(temps) != 0 {
		s.t.Errorf("%d uploads of %d bytes are left: %q %q", n, bytes, left, temps)
	}
}

func TestUploadRights(t *testing.T) {
	s := start(t, writable(t))
	w := newWorkshop(t).pack("secret", 1).pack("other", 1)
	add(t, s.folder, "secret", 1)
	for _, c := range []struct {
		method, image, as string
		code              int
	}{
		{"GET", "secret", asAlice, 409}, {"GET", "secret", asBob, 403}, {"GET", "secret", asEve, 403}, {"GET", "secret", "X: y", 401},
		{"GET", "secret", "Authorization: Basic ZXZlOndyb25n", 401}, {"GET", "other", asAlice, 403},
		{"POST", "secret", asBob, 403}, {"POST", "secret", "X: y", 401}, {"POST", "other", asAlice, 403},
		{"PUT", "secret", asAlice, 405}, {"PATCH", "secret", asAlice, 405}, {"DELETE", "secret", asAlice, 405}, {"DELETE", "secret", asBob, 403},
	} {
		s.ask(c.method, w.path(c.image, 1), c.as).wants(t, fmt.Sprint(c), c.code, "")
	}
	for file, code := range map[string]int{"secret_1.ckm": 405, "secret_1.patch": 405, "catalog.json": 405, "": 405, "../secret_1.index": 405, "secret_2.index": 404} {
		s.ask("DELETE", Prefix+file, asAlice).wants(t, "DELETE "+file, code, "")
	}
	for as, code := range map[string]int{asBob: 403, asEve: 403, "X: y": 401} {
		s.ask("DELETE", Prefix+"secret_1.index", as).wants(t, "DELETE as "+as, code, "")
		s.piece(w.path("secret", 1)+"/index", 0, 10, []byte("0123456789"), as, "Authorization: "+strings.TrimPrefix(as, "Authorization: ")).wants(t, "PATCH as "+as, code, "")
	}
	if a := s.get("secret_1.index", asAlice); a.StatusCode != 200 {
		t.Errorf("it is gone: %s", a.Status)
	}
	s.nothingUnfinished()
	// Without rights, nobody writes.
	open := start(t, Config{Folder: s.folder})
	open.ask("DELETE", Prefix+"secret_1.index").wants(t, "without rights", 403, "")
	open.ask("GET", w.path("secret", 1)).wants(t, "without rights", 403, "")
	// Nor where others could change what is written.
	s.plain = true
	s.ask("DELETE", Prefix+"secret_1.index", asAlice).wants(t, "without TLS", 403, "TLS")
	c := writable(t)
	c.Access.Users = ""
	for _, addr := range []string{":0", "0.0.0.0:0"} {
		l, err := net.Listen("tcp", addr)
		must(t, err)
		c.Folder, c.Log = s.folder, s.config.Log
		x, err := New(c)
		must(t, err)
		if err := x.Serve(context.Background(), l, func() { t.Error("it listens") }); !errors.Is(err, ErrOverheard) {
			t.Errorf("%s: %v", addr, err)
		}
	}
}

// What is no name of a package reaches nothing.
func TestUploadNames(t *testing.T) {
	s := start(t, writable(t))
	digest := strings.Repeat("ab", 32)
	before := tree(t, s.folder.String())
	for _, path := range []string{
		"", "x", "win11_1", "win11_1/", "win11_1//index", "win11_0/" + digest, "win11_01/" + digest, "win11/" + digest, "win11_99999999999/" + digest,
		"../win11_1/" + digest, "..%2fwin11_1/" + digest, "%2e%2e/win11_1/" + digest, "win11_1/../" + digest, "win11_1/..%2f..%2f" + digest,
		"win11_1/" + digest + "/meta", "win11_1/" + digest + "/upload.json", "win11_1/" + digest + "/index/x", "win11_1/" + digest + "/../index", "win11_1/" + digest + "/index.part",
		"win11_1/" + strings.ToUpper(digest), "win11_1/" + digest[1:], "win11_1/" + digest + "00", "win%5c11_1/" + digest, "win%0a11_1/" + digest, "win%0011_1/" + digest,
		"win:x_1/" + digest, "win%ff_1/" + digest, "/win11_1/" + digest, "win11_1.index/" + digest, strings.Repeat("win", 500) + "_1/" + digest,
	} {
		for _, method := range []string{"GET", "POST"} {
			if a := s.ask(method, Prefix+repo.UploadPath+path, asAlice); a.StatusCode != 404 && a.StatusCode != 400 && a.StatusCode != 403 && a.StatusCode != 308 {
				t.Errorf("%s %.100q: %s %s", method, path, a.Status, a.body)
			}
		}
		got := s.raw("PATCH " + Prefix + repo.UploadPath + path + " HTTP/1.1\r\nHost: x\r\n" + asAlice + "\r\nContent-Type: " + repo.UploadType +
			"\r\nUpload-Offset: 0\r\nUpload-Length: 4\r\nContent-Length: 4\r\n\r\nabcd")
		if !strings.HasPrefix(got, "HTTP/1.1 4") {
			t.Errorf("PATCH %.100q: %s", path, got)
		}
	}
	if after := tree(t, s.folder.String()); after != before {
		t.Errorf("something has come:\n%s", after)
	}
}

// tree lists the files below a folder but those of the lock.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if name := filepath.Base(path); err == nil && name != ".lock" && !strings.HasPrefix(name, ".prestage") {
			fmt.Fprintln(&b, path)
		}
		return err
	}))
	return b.String()
}

func TestUploadOffsets(t *testing.T) {
	s := start(t, writable(t))
	w := newWorkshop(t).pack("win11", 1)
	path, index, data := w.path("win11", 1), w.file("win11_1.index"), w.file("win11_1.ckm")
	at := func(a reply, what string, code, offset int) {
		t.Helper()
		a.wants(t, what, code, "")
		if got := a.Header.Get(repo.UploadOffset); got != fmt.Sprint(offset) {
			t.Errorf("%s: it is at %s, want %d", what, got, offset)
		}
	}
	s.ask("POST", path, asAlice).wants(t, "published before it was begun", 404, "")
	s.piece(path+"/ckm", 0, len(data), data[:10]).wants(t, "the CKM first", 409, "must be sent first")
	s.piece(path+"/index", 0, 2<<30, index).wants(t, "a large INDEX", 413, "too large")
	at(s.piece(path+"/index", 0, len(index), index[:100]), "begun", 204, 100)
	at(s.piece(path+"/index", 0, len(index), index), "from the start", 409, 100)
	at(s.piece(path+"/index", 101, len(index), index[101:]), "with a gap", 409, 100)
	s.piece(path+"/index", 100, len(index), append(index[100:], 1)).wants(t, "longer than it says", 413, "")
	s.ask("POST", path, asAlice).wants(t, "published too early", 409, "INDEX")
	at(s.piece(path+"/index", 100, len(index), index[100:]), "all of it", 204, len(index))
	at(s.piece(path+"/index", len(index), len(index), nil), "once more", 409, len(index))
	s.piece(path+"/ckm", 0, len(data)+1, data).wants(t, "another length", 413, fmt.Sprint(len(data)))
	at(s.piece(path+"/ckm", 0, len(data), data[:1000]), "the CKM", 204, 1000)
	s.ask("POST", path, asAlice).wants(t, "published too early", 409, "from byte 1000")
	if a := s.ask("GET", path, asBob); !bytes.Contains(a.body, []byte(`"ckm":{"offset":0`)) {
		t.Errorf("bob goes on with what alice has begun: %s", a.body)
	}
	s.has(w, "win11", 1, false)

	// A connection that is cut.
	c := s.dial("127.0.0.1")
	send(t, c, fmt.Sprintf("PATCH %s/ckm HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Type: %s\r\nUpload-Offset: 1000\r\nUpload-Length: %d\r\nContent-Length: %d\r\n\r\n",
		path, asAlice, repo.UploadType, len(data), len(data)-1000)+string(data[1000:50000]))
	must(t, c.(*net.TCPConn).CloseWrite())
	if got := rest(t, c); got != "" && !strings.HasPrefix(got, "HTTP/1.1 4") {
		t.Errorf("cut: %q", got)
	}
	eventually(t, "what has come is there", func() bool {
		return bytes.Contains(s.ask("GET", path, asAlice).body, []byte(`"ckm":{"offset":50000`))
	})
	at(s.piece(path+"/ckm", 50000, len(data), data[50000:]), "the rest", 204, len(data))
	s.has(w, "win11", 1, false)
	s.ask("POST", path, asAlice).wants(t, "published", 200, `"published":true`)
	s.has(w, "win11", 1, true)
	s.ask("POST", path, asAlice).wants(t, "published again", 200, `"published":true`)
	s.piece(path+"/ckm", 0, len(data), data).wants(t, "what is there", 409, "there already")
	s.nothingUnfinished()
}

// What does not look like a piece is none, and no request hides in another.
func TestUploadRequests(t *testing.T) {
	s := start(t, writable(t), hasty)
	w := newWorkshop(t).pack("win11", 1)
	path := w.path("win11", 1) + "/index"
	const hidden = "DELETE /MEDVImages/win11_1.index HTTP/1.1\r\nHost: x\r\n" + asAlice + "\r\n\r\n"
	must(t, os.WriteFile(s.folder.Path("win11_1.ckm"), w.file("win11_1.ckm"), 0o644))
	must(t, os.WriteFile(s.folder.Path("win11_1.index"), w.file("win11_1.index"), 0o644))
	const fields = "Content-Type: application/partial-upload\r\nUpload-Offset: 0\r\nUpload-Length: 5\r\n"
	for name, c := range map[string]struct{ fields, body string }{
		"chunked":                 {fields + "Transfer-Encoding: chunked\r\n", "5\r\nabcde\r\n0\r\n\r\n"},
		"CL and TE":               {fields + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n" + hidden},
		"TE and CL":               {fields + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n" + hidden},
		"an unknown TE":           {fields + "Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", "abcde" + hidden},
		"TE with a space":         {fields + "Content-Length: 5\r\nTransfer-Encoding : chunked\r\n", "0\r\n\r\n" + hidden},
		"two lengths":             {fields + "Content-Length: 5\r\nContent-Length: 6\r\n", "abcde" + hidden},
		"a list of lengths":       {fields + "Content-Length: 5, 6\r\n", "abcde" + hidden},
		"a signed length":         {fields + "Content-Length: +5\r\n", "abcde" + hidden},
		"a negative length":       {fields + "Content-Length: -5\r\n", "abcde" + hidden},
		"another type":            {"Content-Type: text/plain\r\nUpload-Offset: 0\r\nUpload-Length: 5\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"compressed":              {fields + "Content-Encoding: gzip\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"no offset":               {"Content-Type: application/partial-upload\r\nUpload-Length: 5\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"two offsets":             {fields + "Upload-Offset: 1\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"a negative offset":       {"Content-Type: application/partial-upload\r\nUpload-Offset: -1\r\nUpload-Length: 5\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"a huge offset":           {"Content-Type: application/partial-upload\r\nUpload-Offset: 9223372036854775807\r\nUpload-Length: 5\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"an overflowing one":      {"Content-Type: application/partial-upload\r\nUpload-Offset: 4611686018427387904\r\nUpload-Length: 4611686018427387904\r\nContent-Length: 9223372036854775807\r\n", "abcde" + hidden},
		"more than a whole":       {fields + "Content-Length: 99999999999\r\n", "abcde"},
		"a long field":            {fields + "X: " + strings.Repeat("x", 2*headerBytes) + "\r\nContent-Length: 5\r\n", "abcde" + hidden},
		"a body for a question":   {"", ""},
		"half a piece":            {fields + "Content-Length: 5\r\n", "abc"},
		"what is no INDEX":        {fields + "Upload-Complete: ?1\r\nContent-Length: 5\r\n", "abcde"},
		"a CKM where none may be": {fields + "Content-Length: 5\r\n", "abcde"},
	} {
		text := "PATCH " + path + " HTTP/1.1\r\nHost: x\r\n" + asAlice + "\r\n" + c.fields + "\r\n" + c.body
		if name == "a body for a question" {
			text = "GET " + strings.TrimSuffix(path, "/index") + " HTTP/1.1\r\nHost: x\r\n" + asAlice + "\r\nContent-Length: 9999\r\n\r\n" + hidden
		}
		if name == "a CKM where none may be" {
			text = strings.Replace(text, "/index ", "/ckm ", 1)
		}
		conn := s.dial("127.0.0.1")
		go io.WriteString(conn, text) // it may not take all of it
		got := rest(t, conn)
		if !strings.HasPrefix(got, "HTTP/1.1 4") && got != "" && !strings.HasPrefix(got, "HTTP/1.1 501") || strings.Count(got, "HTTP/1.1") > 1 {
			t.Errorf("%s: %.400q", name, got)
		}
		if name == "half a piece" && !strings.HasPrefix(got, "HTTP/1.1 408") {
			t.Errorf("%s: %.200q", name, got)
		}
		if _, err := os.Stat(s.folder.Path("win11_1.index")); err != nil {
			t.Fatalf("%s: a hidden request was answered", name)
		}
		for _, u := range []string{"win11_1.index", "win11_1.ckm"} {
			if b, _ := os.ReadFile(s.folder.Path(u)); !bytes.Equal(b, w.file(u)) {
				t.Errorf("%s: %s changed", name, u)
			}
		}
	}
}

// Who is gone and does not say so does not keep an upload from going on.
func TestUploadHalfOpen(t *testing.T) {
	s := start(t, writable(t)) // which waits for half a minute
	w := newWorkshop(t).pack("win11", 1)
	path, index, data := w.path("win11", 1), w.file("win11_1.index"), w.file("win11_1.ckm")
	s.piece(path+"/index", 0, len(index), index).wants(t, "the INDEX", 204, "")
	silent := s.dial("127.0.0.1")
	send(t, silent, fmt.Sprintf("PATCH %s/ckm HTTP/1.1\r\nHost: x\r\n%s\r\nContent-Type: %s\r\nUpload-Offset: 0\r\nUpload-Length: %d\r\nContent-Length: %d\r\n\r\n",
		path, asAlice, repo.UploadType, len(data), len(data))+string(data[:30000]))
	eventually(t, "something has come", func() bool {
		return bytes.Contains(s.ask("GET", path, asAlice).body, []byte(`"ckm":{"offset":30000`))
	})
	if _, err := w.send(s.web("alice"), "win11", 1); err != nil {
		t.Error(err)
	}
	if got := rest(t, silent); !strings.HasPrefix(got, "HTTP/1.1 409") || !strings.Contains(got, "another request goes on") {
		t.Errorf("%q", got)
	}
	s.has(w, "win11", 1, true)
}

func TestUploadTampered(t *testing.T) {
	w := newWorkshop(t).pack("win11", 2)
	files := []string{"win11_2.index", "win11_2.ckm", "win11_2.patch"}
	for name, c := range map[string]struct {
		file   string
		change func(b []byte) []byte
		says   string
	}{
		"a bit of the INDEX":           {files[0], func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "the INDEX"},
		"the first byte of the INDEX":  {files[0], func(b []byte) []byte { b[0] ^= 1; return b }, "the INDEX"},
		"an INDEX that is cut short":   {files[0], func(b []byte) []byte { return b[:len(b)-1] }, "the INDEX"},
		"an INDEX with more behind it": {files[0], func(b []byte) []byte { return append(b, 0) }, "the INDEX"},
		"another INDEX":                {files[0], func([]byte) []byte { return w.file("win11_1.index") }, "it is the INDEX of win11:1"},
		"the header of the CKM":        {files[1], func(b []byte) []byte { b[5] ^= 1; return b }, "the CKM"},
		"a frame":                      {files[1], func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, "the CKM from byte"},
		"the trailer":                  {files[1], func(b []byte) []byte { b[len(b)-1] ^= 1; return b }, "the CKM"},
		"the head of the patch":        {files[2], func(b []byte) []byte { b[100] ^= 1; return b }, "the patch"},
		"a part of the patch":          {files[2], func(b []byte) []byte { b[len(b)-50] ^= 1; return b }, "the patch"},
		"a patch that is cut short":    {files[2], func(b []byte) []byte { return b[:len(b)-1] }, "the patch"},
		"a patch with more behind it":  {files[2], func(b []byte) []byte { return append(b, 0) }, "the patch"},
		"half a patch's head":          {files[2], func(b []byte) []byte { return b[:40] }, "the patch"},
		"another patch":                {files[2], func(b []byte) []byte { copy(b[20:], b[60:90]); return b }, "the patch"},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, writable(t))
			w := workshop{w.Folder, t}
			_, err := w.send(s.web("alice"), "win11", 1)
			must(t, err)
			path := w.path("win11", 2)
			var last reply
			for i, part := range []string{"index", "ckm", "patch"} {
				b := w.file(files[i])
				if files[i] == c.file {
					b = c.change(b)
				}
				if last = s.piece(path+"/"+part, 0, len(b), b); last.StatusCode != 204 {
					break
				}
			}
			if last.StatusCode == 204 {
				last = s.ask("POST", path, asAlice)
			}
			last.wants(t, name, 422, c.says)
			s.has(w, "win11", 2, false)
			s.has(w, "win11", 1, true)
			_, err = w.send(s.web("alice"), "win11", 2)
			must(t, err)
			s.has(w, "win11", 2, true)
			s.nothingUnfinished()
		})
	}
}

// Of several who upload a version at once, one package is published, whole.
func TestUploadTogether(t *testing.T) {
	one, other := newWorkshop(t).pack("win11", 1), newWorkshop(t)
	add(t, other.Folder, "win11", 9)
	s := start(t, writable(t))
	var g sync.WaitGroup
	var mu sync.Mutex
	published := map[bool]int{}
	for i := range 6 {
		g.Go(func() {
			w, who := one, "alice"
			if i%2 == 1 {
				w = other
			}
			if i >= 4 {
				who = "bob"
			}
			web := s.web(who)
			web.Retries = 20 // those of the same user keep interrupting each other
			u, err := w.send(web, "win11", 1)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				published[i%2 == 1]++
			case !errors.Is(err, repo.ErrConflict):
				t.Errorf("%d: %+v, %v", i, u, err)
			}
		})
	}
	g.Wait()
	if published[true] > 0 && published[false] > 0 || published[true]+published[false] == 0 {
		t.Fatalf("published: %v", published)
	}
	w := one
	if published[true] > 0 {
		w = other
	}
	s.has(w, "win11", 1, true)
}

func TestUploadBounds(t *testing.T) {
	w := newWorkshop(t).pack("win11", 1).pack("win10", 1)
	c := writable(t)
	c.Uploads.Most, c.Uploads.MostOfImage = 1500<<10, 1000<<10
	s := start(t, c)
	s.piece(w.path("win11", 1)+"/index", 0, 2000<<10, w.file("win11_1.index")).wants(t, "too large", 413, "unfinished uploads of win11")
	s.piece(w.path("win11", 1)+"/index", 0, len(w.file("win11_1.index")), w.file("win11_1.index")).wants(t, "the first", 204, "")
	s.piece(w.path("win10", 1)+"/index", 0, len(w.file("win10_1.index")), w.file("win10_1.index")).wants(t, "the second", 507, "unfinished uploads")
	if _, err := w.send(s.web("bob"), "win10", 1); !errors.Is(err, repo.ErrUnavailable) || !strings.Contains(err.Error(), "make room there") {
		t.Errorf("%v", err)
	}
	// What nobody goes on with goes, and after that there is room.
	s.store.Sweep(time.Now().Add(59 * time.Minute))
	if n, _ := s.store.Unfinished(); n == 0 {
		t.Error("swept too early")
	}
	s.store.Sweep(time.Now().Add(61 * time.Minute))
	s.nothingUnfinished()
	_, err := w.send(s.web("bob"), "win10", 1)
	must(t, err)
	s.has(w, "win10", 1, true)

	// Their number has a bound, too.
	s = start(t, writable(t))
	for i := range 20 {
		path := fmt.Sprintf("%s%swin11_1/%064x/index", Prefix, repo.UploadPath, i)
		if a := s.piece(path, 0, 10, []byte("1")); a.StatusCode != 204 {
			a.wants(t, "many", 507, "8 unfinished uploads of win11")
			return
		}
	}
	t.Error("20 unfinished uploads of an image")
}

// A server that is started anew goes on with uploads, and two do not take them to
// the same folder.
func TestUploadRestart(t *testing.T) {
	c := writable(t)
	s := start(t, c)
	w := newWorkshop(t).pack("win11", 1)
	path, index, data := w.path("win11", 1), w.file("win11_1.index"), w.file("win11_1.ckm")
	s.piece(path+"/index", 0, len(index), index).wants(t, "the INDEX", 204, "")
	s.piece(path+"/ckm", 0, len(data), data[:100000]).wants(t, "some of the CKM", 204, "")
	c.Folder = s.folder
	second := start(t, c)
	second.ask("GET", path, asAlice).wants(t, "a second server", 503, "another server takes")
	must(t, s.stop())
	second.ask("GET", path, asAlice).wants(t, "when the first has ended", 200, `"ckm":{"offset":100000`)
	// Folders that are no uploads any more go.
	must(t, second.stop())
	junk := filepath.Join(s.folder.String(), ".prestage-uploads", "junk")
	must(t, os.MkdirAll(junk, 0o700))
	third := start(t, c)
	u, err := w.send(third.web("alice"), "win11", 1)
	must(t, err)
	if u.Sent != int64(len(data)-100000) {
		t.Errorf("%+v", u)
	}
	if _, err := os.Stat(junk); err == nil {
		t.Error("junk is left")
	}
	third.has(w, "win11", 1, true)
}

// Who downloads a package gets it to its end, though it is removed meanwhile.
func TestRemoveWhileRead(t *testing.T) {
	s := start(t, writable(t))
	data := add(t, s.folder, "win11", 100)
	c := s.dial("127.0.0.1")
	must(t, c.(*net.TCPConn).SetReadBuffer(64<<10))
	send(t, c, "GET "+Prefix+"win11_1.ckm HTTP/1.0\r\n"+asEve+"\r\n\r\n")
	head := make([]byte, 100)
	_, err := io.ReadFull(c, head)
	must(t, err)
	must(t, s.web("alice").Remove(t.Context(), "win11", 1))
	s.get("win11_1.ckm", asEve).wants(t, "afterwards", 404, "")
	if got := rest(t, c); !strings.HasSuffix(got, string(data[1000:])) {
		t.Errorf("%d bytes of %d", len(got), len(data))
	}
	if !strings.Contains(s.log.String(), "win11:1 is removed, by user:alice") {
		t.Errorf("nothing was said of it:\n%s", s.log)
	}
}

// The same over HTTP/2, where a stream ends by itself when its client does not get on.
func TestUploadHTTP2(t *testing.T) {
	testenv.NeedTime(t)
	a := testenv.NewAuthority(t)
	c := writable(t)
	c.TLS.Cert, c.TLS.Key = a.Issue(t, "server", time.Hour)
	c.Limits.MinRate = 64 << 10
	s := start(t, c, func(s *Server) { s.patience.stall = 2 * time.Second })
	w := newWorkshop(t).pack("win11", 1)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool()}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	ask := func(method, path string, at, length int, body io.Reader) *http.Response {
		t.Helper()
		req, err := http.NewRequest(method, "https://"+s.addr+path, body)
		must(t, err)
		req.Header.Set("Authorization", strings.TrimPrefix(asAlice, "Authorization: "))
		req.Header.Set("Content-Type", repo.UploadType)
		req.Header.Set(repo.UploadOffset, fmt.Sprint(at))
		req.Header.Set(repo.UploadLength, fmt.Sprint(length))
		req.Header.Set(repo.UploadComplete, "?1")
		req.ContentLength = int64(length - at)
		resp, err := (&http.Client{Transport: transport}).Do(req)
		must(t, err)
		t.Cleanup(func() { resp.Body.Close() })
		if resp.ProtoMajor != 2 {
			t.Errorf("%s", resp.Proto)
		}
		return resp
	}
	path, index, data := w.path("win11", 1), w.file("win11_1.index"), w.file("win11_1.ckm")
	if r := ask("PATCH", path+"/index", 0, len(index), bytes.NewReader(index)); r.StatusCode != 204 {
		t.Error(r.Status)
	}
	// Half of it, and then nothing.
	pr, pw := io.Pipe()
	go pw.Write(data[:len(data)/2])
	if r := ask("PATCH", path+"/ckm", 0, len(data), pr); r.StatusCode != 408 {
		t.Errorf("what does not come: %s", r.Status)
	}
	pw.Close()
	// One who is slow and gets on takes longer than a silent one is waited for.
	slow := &dripping{Reader: bytes.NewReader(data[len(data)/2:]), n: len(data)/2/60 + 1}
	if r := ask("PATCH", path+"/ckm", len(data)/2, len(data), slow); r.StatusCode != 204 {
		b, _ := io.ReadAll(r.Body)
		t.Errorf("slowly: %s %s", r.Status, b)
	}
	if r := ask("POST", path, 0, 0, http.NoBody); r.StatusCode != 200 {
		t.Error(r.Status)
	}
	got, err := os.ReadFile(s.folder.Path("win11_1.ckm"))
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("other bytes, %v", err)
	}
}

// dripping is read in pieces, with a rest before each.
type dripping struct {
	io.Reader
	n int
}

func (d *dripping) Read(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	return d.Reader.Read(p[:min(d.n, len(p))])
}

// What is uploaded is on record and in the metrics.
func TestUploadWatched(t *testing.T) {
	log := &diary{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	c := writable(t)
	c.Requests = slog.New(slog.NewJSONHandler(log, nil))
	s := start(t, c, func(s *Server) { s.WatchedAt(l) })
	w := newWorkshop(t).pack("win11", 1).pack("win10", 1)
	_, err = w.send(s.web("alice"), "win11", 1)
	must(t, err)
	must(t, s.web("alice").Remove(t.Context(), "win11", 1))
	index := w.file("win10_1.index")
	s.piece(w.path("win10", 1)+"/index", 0, len(index), index).wants(t, "another", 204, "")
	all := len(index) + len(w.file("win11_1.index")) + len(w.file("win11_1.ckm"))
	for _, want := range []string{
		`prestage_server_requests_total{code="204",for="upload"} 3`, `prestage_server_requests_total{code="204",for="removal"} 1`,
		fmt.Sprintf("prestage_server_received_bytes_total %v", float64(all)), "prestage_server_uploads 1", "prestage_server_packages 0",
	} {
		eventually(t, want, func() bool {
			resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
			must(t, err)
			defer resp.Body.Close()
			b, err := io.ReadAll(resp.Body)
			must(t, err)
			return bytes.Contains(b, []byte(want))
		})
	}
	if !strings.Contains(log.String(), `"status":204,"bytes":0,"seconds":`) || !strings.Contains(log.String(), fmt.Sprintf(`"received":%d`, len(w.file("win11_1.ckm")))) {
		t.Errorf("the record:\n%s", log)
	}
	if strings.Contains(log.String(), "secret\"") {
		t.Error("the record holds a password")
	}
}

// FuzzUploadOf reads paths: what is taken is what it would be written as.
func FuzzUploadOf(f *testing.F) {
	digest := strings.Repeat("0a", 32)
	for _, s := range []string{"win11_1/" + digest, "win11_1/" + digest + "/ckm", "a/../b_1/" + digest, "/" + digest, "x_1//index"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		id, part, ok := uploadOf(path)
		if !ok {
			return
		}
		want := fmt.Sprintf("%s_%d/%s", id.Name, id.Version, id.Digest)
		if part != "" {
			want += "/" + part
		}
		if path != want || ckm.CheckName(id.Name) != nil || strings.ContainsAny(id.Name, "/\\\x00") {
			t.Errorf("%q is %q", path, want)
		}
	})
}

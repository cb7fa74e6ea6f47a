package client_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/client"
	"prestage/internal/disk"
	"prestage/internal/pack"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// webImage is a package and the image that it was made from.
type webImage struct {
	x          *ckm.Index
	index, ckm []byte
	image      []byte
}

// files are what a folder with the packages holds.
func files(images ...*webImage) map[string][]byte {
	m := map[string][]byte{}
	c := `{"format": 1, "images": [`
	for i, p := range images {
		m[ckm.IndexName(p.x.Name, p.x.Version)] = p.index
		m[ckm.DataName(p.x.Name, p.x.Version)] = p.ckm
		if i > 0 {
			c += ","
		}
		c += fmt.Sprintf(`{"name": %q, "version": %d, "created": "2026-01-01T00:00:00Z", "file_size": %d, "image_size": %d, "package_digest": "%s", "index": %q, "index_size": %d, "ckm": %q}`,
			p.x.Name, p.x.Version, len(p.ckm), len(p.image), p.x.Digest(), ckm.IndexName(p.x.Name, p.x.Version), len(p.index), ckm.DataName(p.x.Name, p.x.Version))
	}
	m[repo.CatalogName] = []byte(c + "]}")
	return m
}

// packWeb packs an image of data bytes that do not compress, and holes of as
// many bytes in between.
func packWeb(name string, version uint32, data int) *webImage {
	image := make([]byte, 2*data)
	for i := 0; i < data; i += mib {
		copy(image[2*i:], testenv.Random(byte(i/mib)+100*byte(version), min(mib, data-i)))
	}
	return packImage(name, version, image)
}

func packImage(name string, version uint32, image []byte) *webImage {
	p := &webImage{image: image}
	dir, err := os.MkdirTemp("", "prestage-web")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "disk.img")
	if err := os.WriteFile(path, p.image, 0o644); err != nil {
		panic(err)
	}
	in, err := disk.Open(path)
	if err != nil {
		panic(err)
	}
	defer in[0].Close()
	var buf bytes.Buffer
	if p.x, err = pack.Write(context.Background(), &buf, in, pack.Options{Meter: progress.Discard}); err != nil {
		panic(err)
	}
	p.x.Name, p.x.Version = name, version
	if p.index, err = p.x.Encode(); err != nil {
		panic(err)
	}
	p.ckm = buf.Bytes()
	return p
}

// The packages that the tests share.
var (
	small = sync.OnceValue(func() *webImage { return packWeb("win", 2, 3*mib) })
	older = sync.OnceValue(func() *webImage { return packWeb("win", 1, 3*mib) })
	large = sync.OnceValue(func() *webImage { return packWeb("win", 3, 36*mib) })
)

// web is the repository at an address, given up soon.
func web(t *testing.T, address string) *repo.Web {
	t.Helper()
	r, err := repo.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	w := r.(*repo.Web)
	w.Stall, w.Retries = 5*time.Second, 2
	return w
}

// site is a web server for the files of packages.
type site struct {
	*httptest.Server
	files map[string][]byte
	sent  atomic.Int64 // bytes of bodies

	mu    sync.Mutex
	asked []string // of each request, method, file and range
}

// newSite starts a server. Fault may answer itself, and reports whether it has.
func newSite(t *testing.T, images []*webImage, fault func(s *site, w http.ResponseWriter, r *http.Request, data []byte) bool) *site {
	s := &site{files: files(images...)}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.URL.Path+" "+r.Header.Get("Range"))
		s.mu.Unlock()
		data, found := s.files[strings.TrimPrefix(r.URL.Path, "/MEDVImages/")]
		if !found {
			http.NotFound(w, r)
			return
		}
		cw := &counting{w, &s.sent}
		if fault == nil || !fault(s, cw, r, data) {
			static(cw, r, data)
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *site) repository(t *testing.T) *repo.Web { return web(t, s.URL+"/MEDVImages") }

// requests returns how many requests there were for files with the extension.
func (s *site) requests(ext string) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.asked {
		if file, _, _ := strings.Cut(a, " "); strings.HasSuffix(file, ext) {
			n++
		}
	}
	return n
}

type counting struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *counting) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

func (c *counting) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func static(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
}

// isData reports whether r is for the CKM's frames, not for its header, which
// tells what the server can.
func isData(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, ckm.DataExt) && r.Header.Get("Range") != "bytes=0-31"
}

// asked returns the range that r asks for.
func asked(r *http.Request, size int) (first, end int) {
	end = size
	if n, _ := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-%d", &first, &end); n == 2 {
		end = min(end+1, size)
	}
	return first, end
}

// part answers with the range that r asks for, and at most n bytes of it.
func part(w http.ResponseWriter, r *http.Request, data []byte, n int) (all bool) {
	first, end := asked(r, len(data))
	w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, end-1, len(data)))
	w.Header().Set("Content-Length", strconv.Itoa(end-first))
	w.WriteHeader(http.StatusPartialContent)
	w.Write(data[first:min(end, first+n)])
	http.NewResponseController(w).Flush()
	return first+n >= end
}

// run installs an image from r into store.
func run(ctx context.Context, store string, version uint32, prestaged, r repo.Repository) (*client.Installed, error) {
	in := &client.Install{Name: "win", Version: version, Store: client.NewStore(store), Prestaged: prestaged, Images: r, Meter: progress.Discard}
	return in.Run(ctx)
}

// mustRun is run that must succeed, with the right bytes.
func mustRun(t *testing.T, store string, prestaged, r repo.Repository, want *webImage) *client.Installed {
	t.Helper()
	done, err := run(t.Context(), store, want.x.Version, prestaged, r)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, done, want)
	return done
}

// checkImage looks at every byte, and at the holes.
func checkImage(t *testing.T, done *client.Installed, want *webImage) {
	t.Helper()
	path := filepath.Join(done.Dir, "disk.img")
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want.image) {
		t.Error("the image is not bit for bit what was packed")
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// Not every system says how many blocks a file has.
	if blocks := reflect.Indirect(reflect.ValueOf(st.Sys())).FieldByName("Blocks"); blocks.IsValid() && blocks.Int()*512 > int64(len(want.image))*5/8 {
		t.Errorf("the image takes %d bytes of the disk, and half of its %d are holes", blocks.Int()*512, len(want.image))
	}
	if index, err := os.ReadFile(done.Dir + ckm.IndexExt); err != nil || !bytes.Equal(index, want.index) {
		t.Errorf("the INDEX in the store is another one: %v", err)
	}
}

// nothing checks that the store shows no image, not even a part of one.
func nothing(t *testing.T, store string) {
	t.Helper()
	if versions, err := client.NewStore(store).Versions("win"); err != nil || len(versions) > 0 {
		t.Errorf("the store shows versions %v: %v", versions, err)
	}
	entries, err := os.ReadDir(filepath.Join(store, "win"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			t.Errorf("the store shows %s", e.Name())
		}
	}
}

// framesAt returns the extents in the CKM of some frames.
func framesAt(p *webImage, frames ...int) (extents []ckm.Extent, total int64) {
	for _, f := range frames {
		fr := p.x.Frame(f)
		extents = append(extents, ckm.Extent{Offset: fr.Offset, Length: uint64(fr.Stored)})
		total += int64(fr.Stored)
	}
	return extents, total
}

// damaged returns data with a byte changed in each extent.
func damaged(data []byte, extents []ckm.Extent) []byte {
	data = slices.Clone(data)
	for _, e := range extents {
		data[e.Offset+e.Length/2] ^= 1
	}
	return data
}

// folder writes files to a folder of the test's.
func folder(t *testing.T, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// nginx is the real one, serving a folder.
type nginx struct {
	url   string
	log   string
	marks atomic.Int32 // requests that lines has made
}

// startNginx starts an nginx with more settings for the server, and for its
// /MEDVImages/.
func startNginx(t *testing.T, images, http, location string) *nginx {
	t.Helper()
	testenv.Need(t, "nginx")
	program, err := testenv.Look("nginx")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	l.Close()
	n := &nginx{url: "http://" + address + "/MEDVImages/", log: filepath.Join(dir, "access.log")}
	temp := ""
	for _, kind := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		temp += fmt.Sprintf("%s_temp_path %s/%s;\n", kind, dir, kind)
	}
	config := fmt.Sprintf(`
daemon off; master_process off; pid %[1]s/pid; error_log %[1]s/error.log;
events { worker_connections 64; }
http {
	default_type application/octet-stream;
	log_format bytes '$status $body_bytes_sent $connection "$http_range" $uri';
	access_log %[1]s/access.log bytes;
	%[2]s
	%[5]s
	server {
		listen %[3]s;
		location /MEDVImages/ { alias %[4]s/; %[6]s }
	}
}`, dir, temp, address, images, http, location)
	path := filepath.Join(dir, "nginx.conf")
	if err := os.WriteFile(path, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "-p", dir, "-c", path, "-e", filepath.Join(dir, "error.log"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-ended })
	for start := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			conn.Close()
			return n
		}
		select {
		case <-ended:
			t.Fatalf("nginx: %s", out.String())
		default:
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("nginx does not listen: %v", err)
		}
	}
}

// line is one of nginx's access log.
type line struct {
	status, bytes, connection int
	ranges, file              string
}

// lines returns nginx's log of what was asked until now. A line is written after
// the last byte was sent; but one thing is done after the other, so that all lines
// are there when that of a request is that came later.
func (n *nginx) lines(t *testing.T) []line {
	t.Helper()
	mark := fmt.Sprintf("mark-%d", n.marks.Add(1))
	resp, err := http.Get(n.url + mark)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	var b []byte
	for end := time.Now().Add(time.Minute); !bytes.Contains(b, []byte(mark+"\n")); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nginx has not logged all:\n%s", b)
		}
		if b, err = os.ReadFile(n.log); err != nil {
			t.Fatal(err)
		}
	}
	var lines []line
	for s := range strings.Lines(string(b)) {
		var l line
		if _, err := fmt.Sscanf(s, "%d %d %d %q %s", &l.status, &l.bytes, &l.connection, &l.ranges, &l.file); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if !strings.Contains(l.file, "/mark-") {
			lines = append(lines, l)
		}
	}
	return lines
}

// totals sums up the lines for files with an extension.
func totals(lines []line, ext string) (requests, sent, connections int) {
	seen := map[int]bool{}
	for _, l := range lines {
		if strings.HasSuffix(l.file, ext) {
			requests++
			sent += l.bytes
			seen[l.connection] = true
		}
	}
	return requests, sent, len(seen)
}

// A plain nginx serves a folder of packages well.
func TestNginx(t *testing.T) {
	dir := folder(t, files(older(), small(), large()))
	n := startNginx(t, dir, "", "")
	r := web(t, n.url)

	t.Run("list", func(t *testing.T) {
		list, err := r.List(t.Context())
		if err != nil || len(list) != 3 || list[0].Version != 1 || list[2].Version != 3 || list[2].FileSize != uint64(len(large().ckm)) {
			t.Errorf("%v: %v", list, err)
		}
	})
	t.Run("latest", func(t *testing.T) {
		before := len(n.lines(t))
		done, err := run(t.Context(), t.TempDir(), 0, nil, r)
		if err != nil {
			t.Fatal(err)
		}
		checkImage(t, done, large())
		size := len(large().ckm)
		requests, _, connections := totals(n.lines(t)[before:], "")
		if most := size/mib/16 + 4; requests > most {
			t.Errorf("%d requests for %d MiB, want at most %d", requests, size/mib, most)
		}
		if connections > 6 {
			t.Errorf("%d connections", connections)
		}
		if _, sent, _ := totals(n.lines(t)[before:], ckm.DataExt); sent > size {
			t.Errorf("%d bytes were sent of a CKM of %d", sent, size)
		}
		if len(done.Sources) != 1 || done.Sources[0].Source != n.url || done.Sources[0].Bytes < int64(size)*99/100 || done.Sources[0].Bytes > int64(size) {
			t.Errorf("sources: %v", done.Sources)
		}
	})
	t.Run("version", func(t *testing.T) {
		before := len(n.lines(t))
		mustRun(t, t.TempDir(), nil, r, older())
		if requests, _, _ := totals(n.lines(t)[before:], repo.CatalogName); requests > 0 {
			t.Error("the catalog is not needed for a certain version")
		}
	})
	t.Run("not there", func(t *testing.T) {
		store := t.TempDir()
		for _, version := range []uint32{4, 0} {
			in := &client.Install{Name: "win", Version: version, Store: client.NewStore(store), Images: r, Meter: progress.Discard}
			if version == 0 {
				in.Name = "wni"
			}
			if _, err := in.Run(t.Context()); !errors.Is(err, repo.ErrNotFound) {
				t.Error(err)
			}
		}
		nothing(t, store)
	})
	t.Run("without a catalog", func(t *testing.T) {
		bare := files(small())
		delete(bare, repo.CatalogName)
		r := web(t, startNginx(t, folder(t, bare), "", "").url)
		mustRun(t, t.TempDir(), nil, r, small())
		if _, err := run(t.Context(), t.TempDir(), 0, nil, r); !errors.Is(err, repo.ErrNotFound) || !strings.Contains(err.Error(), "prestage catalog") {
			t.Errorf("without a version and a catalog: %v", err)
		}
	})
	// What the pre-stage folder has is not fetched again.
	t.Run("repair", func(t *testing.T) {
		p := large()
		bad, size := framesAt(p, 3, 4, p.x.Frames()/2, p.x.Frames()-1)
		staged := files(p)
		staged[ckm.DataName("win", 3)] = damaged(p.ckm, bad)
		before := len(n.lines(t))
		done := mustRun(t, t.TempDir(), repo.NewFolder(folder(t, staged)), r, p)
		requests, sent, _ := totals(n.lines(t)[before:], ckm.DataExt)
		if requests != 1+3 || int64(sent) > size+ckm.HeaderSize {
			t.Errorf("%d bytes by %d requests for four frames of %d bytes in three places", sent, requests, size)
		}
		if len(done.Sources) != 2 || done.Sources[1].Bytes != size {
			t.Errorf("sources: %v", done.Sources)
		}
	})
	// A gap that is smaller than what a request costs is not worth one.
	t.Run("repair of neighbours", func(t *testing.T) {
		p := packImage("win", 5, append(testenv.Text(1, 3*mib), make([]byte, 3*mib)...))
		if between := p.x.Frame(4).Stored; between > 96*kib {
			t.Fatalf("the frame in between has %d bytes", between)
		}
		for name, data := range files(p) {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		bad, size := framesAt(p, 3, 5)
		staged := files(p)
		staged[ckm.DataName("win", 5)] = damaged(p.ckm, bad)
		before := len(n.lines(t))
		mustRun(t, t.TempDir(), repo.NewFolder(folder(t, staged)), r, p)
		if requests, sent, _ := totals(n.lines(t)[before:], ckm.DataExt); requests != 1+1 || int64(sent) > size+96*kib+ckm.HeaderSize {
			t.Errorf("%d bytes by %d requests for two frames of %d bytes", sent, requests, size)
		}
	})
}

// Settings that people give to nginx.
func TestNginxSettings(t *testing.T) {
	p := small()
	passwords := filepath.Join(t.TempDir(), "passwords")
	if err := os.WriteFile(passwords, []byte("user:{PLAIN}secret\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dir := folder(t, files(p))
	for _, c := range []struct {
		name, http, location string
		check                func(t *testing.T, n *nginx)
	}{
		{name: "one connection for each client", http: "limit_conn_zone $server_name zone=one:1m;",
			location: "limit_conn one 1; limit_conn_status 429; limit_rate 6m; limit_rate_after 64k;"},
		{name: "compression", http: "gzip on; gzip_min_length 1; gzip_types *; gzip_proxied any;"},
		{name: "no ranges", location: "max_ranges 0;", check: func(t *testing.T, n *nginx) {
			if requests, _, _ := totals(n.lines(t), ckm.DataExt); requests != 2 {
				t.Errorf("%d requests for the CKM, want one for its header and one for all", requests)
			}
		}},
		{name: "text/html for all", location: "default_type text/html; charset utf-8;"},
		{name: "no caching", location: "add_header Cache-Control no-store; etag off; if_modified_since off;"},
		{name: "no keep-alive", http: "keepalive_timeout 0;"},
		{name: "impatience", http: "send_timeout 1s; keepalive_timeout 1s; reset_timedout_connection on;"},
		{name: "directio and threads off", location: "sendfile off; directio 512; output_buffers 1 4k;"},
		{name: "redirection", location: "if ($arg_x = '') { rewrite ^(.*)$ $1?x=1 redirect; }"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			n := startNginx(t, dir, c.http, c.location)
			want, r := p, web(t, n.url)
			mustRun(t, t.TempDir(), nil, r, want)
			if c.check != nil {
				c.check(t, n)
			}
			for _, l := range n.lines(t) {
				if c.name != "one connection for each client" && c.name != "redirection" && l.status != 200 && l.status != 206 {
					t.Errorf("%+v", l)
				}
			}
		})
	}
	t.Run("password", func(t *testing.T) {
		n := startNginx(t, dir, "", fmt.Sprintf("auth_basic here; auth_basic_user_file %s;", passwords))
		mustRun(t, t.TempDir(), nil, web(t, strings.Replace(n.url, "//", "//user:secret@", 1)), p)
		for _, user := range []string{"", "user:wrong@"} {
			store := t.TempDir()
			_, err := run(t.Context(), store, 0, nil, web(t, strings.Replace(n.url, "//", "//"+user, 1)))
			if err == nil || !strings.Contains(err.Error(), "401 Unauthorized; check user name, password") || strings.Contains(err.Error(), "wrong") {
				t.Error(err)
			}
			nothing(t, store)
		}
	})
}

// A server that lets a client have one connection at a time is slow to it, but
// not gone: others of the client's requests get bytes meanwhile.
func TestOneConnectionOnly(t *testing.T) {
	p := large()
	var busy sync.Mutex
	s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
		if !isData(r) {
			return false
		}
		if !busy.TryLock() {
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}
		defer busy.Unlock()
		first, end := asked(r, len(data))
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, end-1, len(data)))
		w.Header().Set("Content-Length", strconv.Itoa(end-first))
		w.WriteHeader(http.StatusPartialContent)
		for chunk := range slices.Chunk(data[first:end], mib) {
			w.Write(chunk)
			http.NewResponseController(w).Flush()
			time.Sleep(60 * time.Millisecond)
		}
		return true
	})
	r := s.repository(t)
	r.Retries = 1 // 250 ms, while a range takes a second
	mustRun(t, t.TempDir(), nil, r, p)
}

// After a stall, and after each of many cuts, it goes on where it was.
func TestResume(t *testing.T) {
	p := small()
	var stalled atomic.Bool
	for name, fault := range map[string]func(s *site, w http.ResponseWriter, r *http.Request, data []byte) bool{
		"stall": func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			if !isData(r) || stalled.Swap(true) {
				return false
			}
			part(w, r, data, mib)
			<-r.Context().Done()
			return true
		},
		"cuts": func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			if isData(r) && !part(w, r, data, 300*kib) {
				panic(http.ErrAbortHandler)
			}
			return isData(r)
		},
		"resets": func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			if isData(r) && !part(w, r, data, mib) {
				time.Sleep(300 * time.Millisecond) // what was sent would be lost as well
				conn, _, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return true
				}
				conn.(*net.TCPConn).SetLinger(0)
				conn.Close()
			}
			return isData(r)
		},
		"busy now and then": func(s *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			s.mu.Lock()
			n := len(s.asked)
			s.mu.Unlock()
			if n%2 == 1 {
				w.WriteHeader([]int{500, 502, 503, 504, 429, 520}[n/2%6])
				return true
			}
			if isData(r) && !part(w, r, data, mib) {
				panic(http.ErrAbortHandler)
			}
			return isData(r)
		},
		"ranges capped": func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			if !isData(r) {
				return false
			}
			first, end := asked(r, len(data))
			end = min(end, first+700*kib)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, end-1, len(data)))
			w.Header().Set("Content-Length", strconv.Itoa(end-first))
			w.WriteHeader(http.StatusPartialContent)
			w.Write(data[first:end])
			return true
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t, []*webImage{p}, fault)
			r := s.repository(t)
			if name == "stall" {
				r.Stall = 3 * time.Second
			}
			mustRun(t, t.TempDir(), nil, r, p)
			slack := int64(64 * kib)
			if name == "resets" {
				slack = 2 * mib // a reset also takes what was sent and not yet read
			}
			if sent, size := s.sent.Load(), int64(len(p.ckm)+len(p.index)); sent > size+slack {
				t.Errorf("%d bytes were sent of %d: some came twice", sent, size)
			}
		})
	}
}

// A server that goes away for good is an error in bounded time, however much
// is still missing, and what came until then is not fetched again.
func TestServerGone(t *testing.T) {
	p := large()
	for _, how := range []string{"cuts", "stalls", "forbids", "has it no more"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			var sent atomic.Int64
			var back atomic.Bool
			var after atomic.Int32
			s := newSite(t, []*webImage{p}, func(s *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
				if !isData(r) || back.Load() {
					return false
				}
				// Half of the first ranges comes, then nothing ever again.
				if sent.Load() < int64(len(data)/2) {
					first, end := asked(r, len(data))
					sent.Add(int64(end-first) / 2)
					part(w, r, data, (end-first)/2)
				} else if after.Add(1); how == "forbids" || how == "has it no more" {
					w.WriteHeader(map[string]int{"forbids": 403, "has it no more": 404}[how])
					return true
				}
				if how == "stalls" {
					<-r.Context().Done()
					return true
				}
				panic(http.ErrAbortHandler)
			})
			r := s.repository(t)
			r.Retries = 1
			if how == "stalls" {
				r.Stall = 1500 * time.Millisecond
			}
			store := t.TempDir()
			start := time.Now()
			_, err := run(t.Context(), store, p.x.Version, nil, r)
			if !errors.Is(err, client.ErrDamaged) || strings.Contains(err.Error(), "cut short") || !strings.Contains(err.Error(), s.URL) {
				t.Errorf("%v", err)
			}
			want := map[string]string{"cuts": "the connection was cut", "stalls": "the server sent nothing for 1.5s", "forbids": "403", "has it no more": "404"}[how]
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v does not say %q", err, want)
			}
			if took := time.Since(start); took > 30*time.Second {
				t.Errorf("it took %v", took)
			}
			// Four readers, each with its tries, which net/http may double, and no
			// more for what is left.
			if n := after.Load(); n > 16 {
				t.Errorf("the server was asked %d times more", n)
			}
			nothing(t, store)

			back.Store(true)
			s.sent.Store(0)
			mustRun(t, store, nil, r, p)
			if again := s.sent.Load(); again > int64(len(p.ckm))-sent.Load()*3/4 {
				t.Errorf("%d of %d bytes were fetched though about %d had come", again, len(p.ckm), sent.Load())
			}
		})
	}
}

// However many ranges a package has, a server that is gone costs the time of
// one.
func TestGoneIsGone(t *testing.T) {
	p := large()
	// Damage that lies apart needs many ranges.
	var frames []int
	for f := 0; f < p.x.Frames(); f += 4 {
		frames = append(frames, f)
	}
	bad, _ := framesAt(p, frames...)
	staged := files(p)
	staged[ckm.DataName("win", 3)] = damaged(p.ckm, bad)
	s := newSite(t, []*webImage{p}, func(_ *site, _ http.ResponseWriter, r *http.Request, _ []byte) bool {
		if isData(r) {
			panic(http.ErrAbortHandler)
		}
		return false
	})
	r := s.repository(t)
	r.Retries = 1
	store := t.TempDir()
	_, err := run(t.Context(), store, 3, repo.NewFolder(folder(t, staged)), r)
	if !errors.Is(err, client.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("%d of %d frames", len(frames), p.x.Frames())) {
		t.Error(err)
	}
	if n := s.requests(ckm.DataExt); len(frames) < 25 || n > 1+16 {
		t.Errorf("%d requests for %d ranges of a server that is gone", n, len(frames))
	}
	nothing(t, store)
}

// A server that restarts is waited for.
func TestServerRestarts(t *testing.T) {
	p := small()
	handler := func(cutAt int) http.Handler {
		all := files(p)
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			data := all[strings.TrimPrefix(r.URL.Path, "/")]
			if isData(r) && cutAt > 0 {
				part(w, r, data, cutAt)
				<-r.Context().Done()
				return
			}
			static(w, r, data)
		})
	}
	first := httptest.NewServer(handler(mib))
	address := first.Listener.Addr().String()
	second := &http.Server{Handler: handler(0)}
	defer second.Close()
	go func() {
		time.Sleep(500 * time.Millisecond)
		first.CloseClientConnections()
		first.Close()
		time.Sleep(700 * time.Millisecond)
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Error(err)
			return
		}
		second.Serve(l)
	}()
	r := web(t, "http://"+address)
	r.Retries = 4
	mustRun(t, t.TempDir(), nil, r, p)
}

// Wrong bytes are found, named, and never shown as an image; those that were
// right are kept for the next run.
func TestWrongBytes(t *testing.T) {
	p := small()
	bad, badSize := framesAt(p, 2, 5, p.x.Frames()-1)
	wrong := damaged(p.ckm, bad)
	var mended atomic.Bool
	s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
		if isData(r) && !mended.Load() {
			static(w, r, wrong)
			return true
		}
		return false
	})
	store := t.TempDir()
	_, err := run(t.Context(), store, 2, nil, s.repository(t))
	if !errors.Is(err, client.ErrDamaged) || !strings.Contains(err.Error(), fmt.Sprintf("3 of %d frames are missing or damaged", p.x.Frames())) {
		t.Error(err)
	}
	nothing(t, store)
	mended.Store(true)
	s.sent.Store(0)
	mustRun(t, store, nil, s.repository(t), p)
	if sent := s.sent.Load(); sent > badSize+int64(len(p.index))+3*128*kib {
		t.Errorf("%d bytes were sent to mend %d", sent, badSize)
	}
}

// Another package in the place of this one, from the start or from some moment
// on, is an error, and nothing of it is shown.
func TestOtherPackage(t *testing.T) {
	p, other := small(), packWeb("win", 2, 2*mib)
	longer := packWeb("win", 2, 4*mib)
	for name, fault := range map[string]func(n int, w http.ResponseWriter, r *http.Request) bool{
		"in the middle": func(n int, w http.ResponseWriter, r *http.Request) bool {
			if isData(r) {
				if n == 1 {
					part(w, r, p.ckm, mib)
					panic(http.ErrAbortHandler)
				}
				static(w, r, other.ckm)
			}
			return isData(r)
		},
		"shorter": func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, ckm.DataExt) {
				static(w, r, other.ckm)
				return true
			}
			return false
		},
		"longer": func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, ckm.DataExt) {
				static(w, r, longer.ckm)
				return true
			}
			return false
		},
		"the INDEX of another image": func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, ckm.IndexExt) {
				static(w, r, older().index)
				return true
			}
			return false
		},
		"a cut INDEX": func(_ int, w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, ckm.IndexExt) {
				static(w, r, p.index[:len(p.index)*2/3])
				return true
			}
			return false
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var n atomic.Int32
			s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, _ []byte) bool {
				k := 0
				if isData(r) {
					k = int(n.Add(1))
				}
				return fault(k, w, r)
			})
			store := t.TempDir()
			start := time.Now()
			_, err := run(t.Context(), store, 2, nil, s.repository(t))
			if !errors.Is(err, client.ErrDamaged) {
				t.Error(err)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Errorf("it took %v", took)
			}
			nothing(t, store)
		})
	}
}

// A server that knows no ranges, or not even lengths, sends everything once.
func TestNoRanges(t *testing.T) {
	p := large()
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request, data []byte){
		"with a length": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			w.Write(data)
		},
		"in pieces": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			for c := range slices.Chunk(data, 100*kib) {
				w.Write(c)
				http.NewResponseController(w).Flush()
			}
		},
		"HTTP/1.0, up to the end": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			io.WriteString(conn, "HTTP/1.0 200 OK\r\nContent-Type: application/octet-stream\r\n\r\n")
			n, _ := conn.Write(data)
			w.(*counting).sent.Add(int64(n))
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
				answer(w, r, data)
				return true
			})
			store := t.TempDir()
			mustRun(t, store, nil, s.repository(t), p)
			if n := s.requests(ckm.DataExt); n != 2 {
				t.Errorf("%d requests, want one for the header and one for all", n)
			}
			// What is sent to a reader that goes away fills some buffers.
			if sent := s.sent.Load(); sent > int64(len(p.ckm)+len(p.index))+10*mib {
				t.Errorf("%d bytes were sent of %d", sent, len(p.ckm))
			}
		})
	}
	// After a cut such a server must begin anew. It comes to an end all the
	// same: with the image, or with an error when no try gets further.
	t.Run("cut once", func(t *testing.T) {
		var cuts atomic.Int32
		s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			if isData(r) && cuts.Add(1) == 1 {
				w.Write(data[:len(data)/2])
				panic(http.ErrAbortHandler)
			}
			w.Write(data)
			return true
		})
		mustRun(t, t.TempDir(), nil, s.repository(t), p)
	})
	t.Run("cut always", func(t *testing.T) {
		s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)))
			if isData(r) {
				w.Write(data[:len(data)/2])
				panic(http.ErrAbortHandler)
			}
			w.Write(data)
			return true
		})
		store := t.TempDir()
		if _, err := run(t.Context(), store, 3, nil, s.repository(t)); !errors.Is(err, client.ErrDamaged) || !strings.Contains(err.Error(), "the connection was cut") {
			t.Error(err)
		}
		if n := s.requests(ckm.DataExt); n > 5 {
			t.Errorf("%d requests", n)
		}
		nothing(t, store)
	})
}

// An error page instead of a file, with status 200, is shown for what it is.
func TestErrorPages(t *testing.T) {
	p := small()
	for _, ext := range []string{ckm.IndexExt, ckm.DataExt, ".json"} {
		t.Run(ext, func(t *testing.T) {
			s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, _ []byte) bool {
				if !strings.HasSuffix(r.URL.Path, ext) {
					return false
				}
				w.Header().Set("Content-Type", "text/html")
				io.WriteString(w, "<html><title>Guest network</title><body>Please sign in")
				return true
			})
			store := t.TempDir()
			_, err := run(t.Context(), store, 0, nil, s.repository(t))
			if !errors.Is(err, client.ErrDamaged) || !strings.Contains(err.Error(), "begins with \"<html><title>Guest") || !strings.Contains(err.Error(), ext) {
				t.Error(err)
			}
			nothing(t, store)
		})
	}
}

// An interruption is one at once, and the next run goes on.
func TestInterrupted(t *testing.T) {
	p := small()
	var patient atomic.Bool
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var at time.Time
	interrupt := sync.OnceFunc(func() {
		time.Sleep(800 * time.Millisecond) // what was sent is kept by then
		at = time.Now()
		cancel()
	})
	s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
		if !isData(r) || patient.Load() {
			return false
		}
		part(w, r, data, 2*mib)
		go interrupt()
		<-r.Context().Done()
		return true
	})
	store := t.TempDir()
	r := s.repository(t)
	r.Stall = time.Minute
	_, err := run(ctx, store, 2, nil, r)
	if took := time.Since(at); !errors.Is(err, context.Canceled) || took > 20*time.Second {
		t.Errorf("%v after the interruption: %v", took, err)
	}
	nothing(t, store)
	patient.Store(true)
	s.sent.Store(0)
	mustRun(t, store, nil, r, p)
	if sent := s.sent.Load(); sent > int64(len(p.ckm))-mib {
		t.Errorf("%d of %d bytes were sent again", sent, len(p.ckm))
	}
}

// Where each answer takes its time, several are waited for at once.
func TestSeveralAtOnce(t *testing.T) {
	p := large()
	var now, most atomic.Int32
	s := newSite(t, []*webImage{p}, func(_ *site, w http.ResponseWriter, r *http.Request, data []byte) bool {
		if !isData(r) {
			return false
		}
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		time.Sleep(40 * time.Millisecond)
		static(w, r, data)
		return true
	})
	mustRun(t, t.TempDir(), nil, s.repository(t), p)
	if n := most.Load(); n < 2 || n > 4 {
		t.Errorf("at most %d ranges were asked for at once, want 2 to 4", n)
	}
}

// A limit is kept, and whoever keeps to it takes his time: that is no reason
// to give up a server that had to wait.
func TestLimit(t *testing.T) {
	p := packWeb("win", 4, 512*kib)
	s := newSite(t, []*webImage{p}, nil)
	r := s.repository(t)
	r.Stall, r.Retries = time.Second, 0
	const limit, burst = 100 * kib, 128 * kib // a wait is longer than that
	in := &client.Install{Name: "win", Version: 4, Store: client.NewStore(t.TempDir()), Images: r, Meter: progress.Discard,
		Limit: rate.NewLimiter(limit, burst)}
	start := time.Now()
	done, err := in.Run(t.Context())
	took := time.Since(start)
	if err != nil {
		t.Fatal(err)
	}
	checkImage(t, done, p)
	if most := limit*took.Seconds()*1.2 + burst; float64(len(p.ckm)) > most {
		t.Errorf("%d bytes came in %v, the limit is %d bytes a second", len(p.ckm), took, limit)
	}
	if n := s.requests(ckm.DataExt); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
}

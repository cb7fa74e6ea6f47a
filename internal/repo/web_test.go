package repo

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"prestage/ckm"
	"prestage/internal/testenv"
)

// testPackage returns a package's INDEX and CKM, of n frames of bytes that do
// not compress.
func testPackage(t testing.TB, name string, version uint32, n int) (index, data []byte) {
	t.Helper()
	var buf bytes.Buffer
	x := &ckm.Index{Info: ckm.Info{Name: name, Version: version, FrameLimit: 256 << 10,
		Files: []ckm.File{{Path: "disk.img", Size: uint64(n) * 200 << 10, Format: "raw"}}}}
	w, err := ckm.NewWriter(&buf, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(ckm.LevelFast)
	for i := range n {
		raw := testenv.Random(byte(i)+byte(version)<<5, 200<<10)
		raw[0], raw[1] = byte(i>>8), byte(version)
		x.Place(uint32(i), 0, uint64(i)*200<<10)
		if err := w.WriteFrame(c.Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{len(raw)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if index, err = x.Encode(); err != nil {
		t.Fatal(err)
	}
	return index, buf.Bytes()
}

// newWeb is the repository at a test's server, which is given up soon.
func newWeb(t testing.TB, address string) *Web {
	t.Helper()
	r, err := Open(address)
	if err != nil {
		t.Fatal(err)
	}
	w := r.(*Web)
	w.Stall, w.Retries, w.pause = 5*time.Second, 2, 10*time.Millisecond
	t.Cleanup(w.client.CloseIdleConnections)
	return w
}

// serve starts a server with a handler of its own.
func serve(t testing.TB, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return s
}

// static answers like any static web server.
func static(w http.ResponseWriter, r *http.Request, data []byte) {
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", time.Unix(1e9, 0), bytes.NewReader(data))
}

// page answers with an error page as if it were the file.
func page(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/html")
	io.WriteString(w, "<!DOCTYPE html><title>Sign in to the guest network</title>"+strings.Repeat("<p>welcome", 100))
}

// cut ends the connection after what was written.
func cut(w http.ResponseWriter) {
	http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

// rest writes the part of data that r asks for, but no more than n bytes, and
// whether that was all.
func rest(w http.ResponseWriter, r *http.Request, data []byte, n int) bool {
	first, last := 0, len(data)-1
	if s := r.Header.Get("Range"); s != "" {
		if _, err := fmt.Sscanf(s, "bytes=%d-%d", &first, &last); err != nil {
			fmt.Sscanf(s, "bytes=%d-", &first)
		}
		last = min(last, len(data)-1)
		if first > last {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", len(data)))
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			io.WriteString(w, "<html>416</html>") // as nginx does
			return true
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(data)))
	}
	w.Header().Set("Content-Length", fmt.Sprint(last+1-first))
	if r.Header.Get("Range") != "" {
		w.WriteHeader(http.StatusPartialContent)
	}
	w.Write(data[first:min(first+n, last+1)])
	return first+n > last
}

func readRange(d Data, off, n int64) ([]byte, error) {
	r, err := d.ReadRange(context.Background(), off, n)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// Whatever a name holds, the server is asked for the file of that name.
func TestWebFileNames(t *testing.T) {
	var asked atomic.Value
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Store(r.URL.Path)
		if strings.Contains(r.RequestURI, "+") {
			t.Errorf("%s: some servers take + for a space", r.RequestURI)
		}
		http.NotFound(w, r)
	})
	for _, base := range []string{"/MEDVImages", "/MEDVImages/", "", "/with%20space/", "/100%25/", "/a;b@c/"} {
		r := newWeb(t, s.URL+base+"?x=1#y")
		folder, _ := url.PathUnescape(strings.TrimSuffix(base, "/"))
		for _, name := range []string{"win11", "100%", "win%2011", "%2e%2e", "c++", "a#b", "a&b=c;d,e", "größe", "図", "a'b(c)!$@~[x]{y}^`", "a%2Fb"} {
			if _, err := r.Index(context.Background(), name, 7); !errors.Is(err, ErrNotFound) {
				t.Errorf("%q: %v", name, err)
			}
			if want := folder + "/" + name + "_7.index"; asked.Load() != want {
				t.Errorf("%q in %q: the server was asked for %q, want %q", name, base, asked.Load(), want)
			}
			if _, err := r.Data(context.Background(), name, 7); !errors.Is(err, ErrNotFound) || asked.Load() != folder+"/"+name+"_7.ckm" {
				t.Errorf("%q: the server was asked for %q: %v", name, asked.Load(), err)
			}
		}
	}
}

// An escaped / in the address stays one.
func TestWebEscapedBase(t *testing.T) {
	var asked atomic.Value
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { asked.Store(r.RequestURI); http.NotFound(w, r) })
	newWeb(t, s.URL+"/a%2Fb").Index(context.Background(), "x", 1)
	if asked.Load() != "/a%2Fb/x_1.index" {
		t.Errorf("asked for %q", asked.Load())
	}
}

func TestWebAnswers(t *testing.T) {
	index, data := testPackage(t, "win", 1, 4)
	catalog := (&Catalog{Format: 1, Images: []Entry{}}).Encode()
	file := func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, ".index"):
			static(w, r, index)
		case strings.HasSuffix(r.URL.Path, ".ckm"):
			static(w, r, data)
		default:
			static(w, r, catalog)
		}
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	all := "list index data"
	for _, c := range []struct {
		name   string
		answer http.HandlerFunc
		on     string // the acts that fail
		is     error  // with this
		says   string // and with this
		tries  int    // after so many requests
	}{
		{"404", status(404), all, ErrNotFound, "404", 1},
		{"410", status(410), all, ErrNotFound, "410", 1},
		{"401", status(401), all, ErrUnavailable, "check user name, password and rights", 1},
		{"403", status(403), all, ErrUnavailable, "403 Forbidden; check user name", 1},
		{"407", status(407), all, ErrUnavailable, "407 Proxy Authentication", 1},
		{"400", status(400), all, ErrUnavailable, "400", 1},
		{"204", status(204), all, ErrUnavailable, "204", 1},
		{"304", status(304), all, ErrUnavailable, "304", 1},
		{"511 of a captive portal", status(511), all, ErrUnavailable, "511 Network Authentication Required", 1},
		{"500", status(500), all, ErrUnavailable, "tried 3 times): the server answered 500", 3},
		{"503", status(503), all, ErrUnavailable, "503", 3},
		{"429", status(429), all, ErrUnavailable, "429", 3},
		{"522 of a gateway", status(522), all, ErrUnavailable, "522", 3},
		{"an error page", page, all, ckm.ErrFormat, "Sign in", 1},
		{"a short error page", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "Not here") }, all, ckm.ErrFormat, "Not here", 1},
		{"a short error page by ranges", func(w http.ResponseWriter, r *http.Request) { static(w, r, []byte("Not here")) }, all, ckm.ErrFormat, "Not here", 1},
		{"an empty file", func(w http.ResponseWriter, r *http.Request) {}, all, ckm.ErrFormat, `begins with ""`, 1},
		{"redirected to an error page", func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/login" {
				http.Redirect(w, r, "/login", http.StatusFound)
				return
			}
			page(w, r)
		}, all, ckm.ErrFormat, "Sign in", 2},
		{"redirected in a circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, all, nil, "redirects without end", 11},
		{"redirected to another kind", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "ftp://x/y", http.StatusFound) }, all, nil, "not safe", 1},
		{"redirected without a place", status(302), all, nil, "302", 1},
		{"a CKM in every place", func(w http.ResponseWriter, r *http.Request) { static(w, r, data) }, "list index", ckm.ErrFormat, `\x89CKM`, 1},
		{"compressed", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			defer z.Close()
			rec := httptest.NewRecorder()
			file(rec, r)
			z.Write(rec.Body.Bytes())
		}, all, ErrUnavailable, "compressed (Content-Encoding: gzip)", 1},
		{"another range", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Range", "bytes 5-10/1000")
			w.WriteHeader(206)
			w.Write(make([]byte, 6))
		}, all, ErrUnavailable, `the range "bytes 5-10/1000"`, 1},
		{"several ranges", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "multipart/byteranges; boundary=x")
			w.WriteHeader(206)
			io.WriteString(w, "--x\r\nContent-Range: bytes 0-0/9\r\n\r\na\r\n--x--\r\n")
		}, all, ErrUnavailable, `sent the range ""`, 1},
		{"416", status(416), all, ckm.ErrFormat, `begins with ""`, 1},
		{"nothing but a cut", func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, all, ErrUnavailable, "the connection was cut", 3},
		{"a cut after the header", func(w http.ResponseWriter, r *http.Request) { rest(w, r, data, 0); cut(w) }, all, ErrUnavailable, "the connection was cut", 3},
		{"no HTTP", func(w http.ResponseWriter, r *http.Request) {
			conn, _, _ := http.NewResponseController(w).Hijack()
			io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n")
			conn.Close()
		}, all, ErrUnavailable, "malformed", 3},
		{"as it should be", file, "", nil, "", 1},
		{"in pieces, without a length", func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			r.Header.Del("Range")
			file(rec, r)
			for c := range slices.Chunk(rec.Body.Bytes(), 1000) {
				w.Write(c)
				http.NewResponseController(w).Flush()
			}
		}, "", nil, "", 1},
		{"a range with no total", func(w http.ResponseWriter, r *http.Request) {
			rec := httptest.NewRecorder()
			file(rec, r)
			h := w.Header()
			if cr := rec.Header().Get("Content-Range"); cr != "" {
				h.Set("Content-Range", cr[:strings.IndexByte(cr, '/')]+"/*")
			}
			w.WriteHeader(rec.Code)
			w.Write(rec.Body.Bytes())
		}, "", nil, "", 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) { requests.Add(1); c.answer(w, r) })
			r := newWeb(t, s.URL)
			for act, do := range map[string]func() error{
				"list": func() error { _, err := r.List(t.Context()); return err },
				"index": func() error {
					b, err := r.Index(t.Context(), "win", 1)
					if err == nil && !bytes.Equal(b, index) {
						t.Error("other bytes came")
					}
					return err
				},
				"data": func() error {
					d, err := r.Data(t.Context(), "win", 1)
					if err != nil {
						return err
					}
					defer d.Close()
					if size, _ := d.Size(); size != int64(len(data)) && size != -1 {
						t.Errorf("size %d", size)
					}
					b, err := readRange(d, 300, 20000)
					if err == nil && !bytes.Equal(b, data[300:20300]) {
						t.Error("other bytes came")
					}
					return err
				},
			} {
				requests.Store(0)
				start := time.Now()
				err := do()
				if !strings.Contains(c.on, act) {
					if err != nil {
						t.Errorf("%s: %v", act, err)
					}
					continue
				}
				if err == nil || c.is != nil && !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), s.URL) {
					t.Errorf("%s: got %v, want %q with %q", act, err, c.is, c.says)
				}
				if errors.Is(err, ErrNotFound) != (c.is == ErrNotFound) {
					t.Errorf("%s: %v is not found", act, err)
				}
				if n := int(requests.Load()); n != c.tries {
					t.Errorf("%s: %d requests in %v, want %d: %v", act, n, time.Since(start), c.tries, err)
				}
			}
		})
	}
}

// A server that asks for patience gets it.
func TestWebRetryAfter(t *testing.T) {
	index, _ := testPackage(t, "win", 1, 1)
	for name, after := range map[string]func() string{
		"seconds": func() string { return "1" },
		"a time":  func() string { return time.Now().Add(2 * time.Second).UTC().Format(http.TimeFormat) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var first time.Time
			var waited time.Duration
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if first.IsZero() {
					first = time.Now()
					w.Header().Set("Retry-After", after())
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				waited = time.Since(first)
				static(w, r, index)
			})
			b, err := newWeb(t, s.URL).Index(t.Context(), "win", 1)
			if err != nil || !bytes.Equal(b, index) {
				t.Fatal(err)
			}
			if waited < 900*time.Millisecond {
				t.Errorf("asked again after %v", waited)
			}
		})
	}
}

// How long a request is waited for and how often it is made is bounded. Time
// is simulated here.
func TestWebWaits(t *testing.T) {
	for _, c := range []struct {
		name  string
		after string
		most  time.Duration
	}{
		{"no wish", "", 16 * time.Second},
		{"an absurd wish", "999999999", 6*time.Minute + time.Second},
		{"a wish for the past", "-5", 16 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newWeb(t, "http://example.test/")
				r.Retries, r.pause = 6, time.Second/4
				requests := 0
				r.client.Transport = roundTripper(func(req *http.Request) (*http.Response, error) {
					requests++
					return &http.Response{StatusCode: 503, Status: "503 Service Unavailable", Request: req,
						Header: http.Header{"Retry-After": {c.after}}, Body: http.NoBody}, nil
				})
				start := time.Now()
				_, err := r.Index(t.Context(), "win", 1)
				if took := time.Since(start); took > c.most || requests != 7 || !errors.Is(err, ErrUnavailable) {
					t.Errorf("%d requests in %v: %v", requests, took, err)
				}
			})
		})
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// A server that takes a connection and says nothing is given up as soon as one
// that stops in the middle, and the error says so.
func TestWebStall(t *testing.T) {
	_, data := testPackage(t, "win", 1, 4)
	for _, sends := range []int{-1, 0, 1000} {
		t.Run(fmt.Sprint(sends), func(t *testing.T) {
			t.Parallel()
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				if r.Header.Get("Range") == "bytes=0-31" {
					static(w, r, data)
					return
				}
				if sends >= 0 && r.Header.Get("Range") == "bytes=100-9099" {
					rest(w, r, data, sends)
					http.NewResponseController(w).Flush()
				}
				<-r.Context().Done()
			})
			r := newWeb(t, s.URL)
			r.Stall, r.Retries = time.Second, 1
			d, err := r.Data(t.Context(), "win", 1)
			if err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			b, err := readRange(d, 100, 9000)
			want := fmt.Sprintf("from byte %d on (tried 2 times): the server sent nothing for 1s", 100+max(sends, 0))
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), want) || len(b) != max(sends, 0) {
				t.Errorf("%d bytes and %v, want %q", len(b), err, want)
			}
			if took := time.Since(start); took > 20*time.Second {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// Stall is about a server that sends nothing at all. One that drips a byte now
// and then is slow and not given up: nobody but the user can tell whether it
// is too slow for him, and he can interrupt and go on later.
func TestWebDrip(t *testing.T) {
	_, data := testPackage(t, "win", 1, 1)
	var requests atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) == 1 {
			static(w, r, data)
			return
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 100-111/%d", len(data)))
		w.WriteHeader(206)
		for _, b := range data[100:112] {
			w.Write([]byte{b})
			http.NewResponseController(w).Flush()
			time.Sleep(150 * time.Millisecond)
		}
	})
	r := newWeb(t, s.URL)
	r.Stall = 1500 * time.Millisecond
	d, err := r.Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := readRange(d, 100, 12); err != nil || !bytes.Equal(b, data[100:112]) || requests.Load() != 2 {
		t.Errorf("%d bytes by %d requests: %v", len(b), requests.Load(), err)
	}
}

// Whoever takes his time to use what came, as one who keeps to a limit does,
// is not the server's fault: the request goes on.
func TestWebSlowReader(t *testing.T) {
	_, data := testPackage(t, "win", 1, 40)
	var requests atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { requests.Add(1); static(w, r, data) })
	r := newWeb(t, s.URL)
	r.Stall = time.Second
	d, err := r.Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	body, err := d.ReadRange(t.Context(), 0, int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	got := make([]byte, len(data))
	for i := range 3 {
		if i > 0 {
			time.Sleep(r.Stall * 5 / 4)
		}
		if _, err := io.ReadFull(body, got[i*len(data)/3:(i+1)*len(data)/3]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, data) || requests.Load() != 2 {
		t.Errorf("it took %d requests, want 2", requests.Load())
	}
}

// A whole file that is cut again and again comes whole, each byte once, also
// when the last cut is at its very end.
func TestWebCutFile(t *testing.T) {
	index, _ := testPackage(t, "win", 1, 60)
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"with a length": func(w http.ResponseWriter, r *http.Request) bool { return rest(w, r, index, 1500) },
		"cut at the end of a file in pieces": func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") != "" {
				return rest(w, r, index, len(index))
			}
			w.Write(index) // and no last piece
			return false
		},
		"less than asked for": func(w http.ResponseWriter, r *http.Request) bool {
			var first int
			if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &first); err != nil {
				rest(w, r, index, 700)
				return false
			}
			last := min(first+1999, len(index)-1)
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", first, last, len(index)))
			w.WriteHeader(206)
			w.Write(index[first : last+1])
			return true
		},
		"no ranges": func() func(w http.ResponseWriter, r *http.Request) bool {
			n := 0
			return func(w http.ResponseWriter, r *http.Request) bool {
				n += 1500
				w.Header().Set("Content-Length", fmt.Sprint(len(index)))
				w.Write(index[:min(n, len(index))])
				return n >= len(index)
			}
		}(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if !answer(w, r) {
					cut(w)
				}
			})
			b, err := newWeb(t, s.URL).Index(t.Context(), "win", 1)
			if err != nil || !bytes.Equal(b, index) {
				t.Errorf("%d of %d bytes: %v", len(b), len(index), err)
			}
			if n := requests.Load(); n < 2 || n > 4 {
				t.Errorf("%d requests", n)
			}
		})
	}
}

// A connection that ends before an answer began is no empty file.
func TestWebCutIsNoEnd(t *testing.T) {
	index, _ := testPackage(t, "win", 1, 60)
	var requests atomic.Int32
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch requests.Add(1) {
		case 1:
			rest(w, r, index, 1000)
			cut(w)
		case 2:
			panic(http.ErrAbortHandler)
		}
		static(w, r, index)
	})
	if b, err := newWeb(t, s.URL).Index(t.Context(), "win", 1); err != nil || !bytes.Equal(b, index) {
		t.Errorf("%d of %d bytes: %v", len(b), len(index), err)
	}
}

// A catalog that is replaced while it is read is the old one or the new one.
func TestWebCatalogReplaced(t *testing.T) {
	entries := func(version uint32) []byte {
		c := Catalog{Format: 1}
		for i := range 50 {
			name := fmt.Sprintf("image%02d", i)
			c.Images = append(c.Images, Entry{Name: name, Version: version, Index: ckm.IndexName(name, version), CKM: ckm.DataName(name, version), PackageDigest: ckm.Digest{}.String()})
		}
		return c.Encode()
	}
	for _, tag := range []string{"ETag", "Last-Modified"} {
		t.Run(tag, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				n := requests.Add(1)
				if tag == "ETag" {
					w.Header().Set("ETag", fmt.Sprintf(`"%d"`, min(n, 2)))
				} else {
					w.Header().Set("Last-Modified", time.Unix(int64(min(n, 2)), 0).UTC().Format(http.TimeFormat))
				}
				if n == 1 {
					rest(w, r, entries(1), 5000)
					cut(w)
				}
				rest(w, r, entries(2), 1<<20)
			})
			list, err := newWeb(t, s.URL).List(t.Context())
			if err != nil || len(list) != 50 {
				t.Fatalf("%d entries: %v", len(list), err)
			}
			for _, e := range list {
				if e.Version != list[0].Version {
					t.Fatal("half of the catalog is the old one's")
				}
			}
		})
	}
	t.Run("for ever", func(t *testing.T) {
		t.Parallel()
		var requests atomic.Int32
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("ETag", fmt.Sprint(requests.Add(1)))
			rest(w, r, entries(1), 1000)
			cut(w)
		})
		if _, err := newWeb(t, s.URL).List(t.Context()); !errors.Is(err, errChanged) || requests.Load() > 6 {
			t.Errorf("after %d requests: %v", requests.Load(), err)
		}
	})
}

// What never ends is given up: an INDEX that is none at once, anything else at
// its limit, and memory stays in proportion.
func TestWebEndless(t *testing.T) {
	index, _ := testPackage(t, "win", 1, 1)
	var sent atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		begin := []byte("<html>")
		if strings.Contains(r.URL.Path, "win") {
			begin = index
		}
		w.Write(begin)
		buf := bytes.Repeat([]byte("<br>\n"), 10000)
		for {
			n, err := w.Write(buf)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	})
	r := newWeb(t, s.URL)
	const slack = 12 << 20 // what the sockets may hold
	if _, err := r.Index(t.Context(), "other", 1); !errors.Is(err, ckm.ErrFormat) || sent.Load() > slack {
		t.Errorf("%d bytes were sent: %v", sent.Load(), err)
	}
	sent.Store(0)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := r.get(t.Context(), "win_1.index", 1<<20, nil); !errors.Is(err, ckm.ErrFormat) || !strings.Contains(err.Error(), "larger than 1048576 bytes") {
		t.Error(err)
	}
	runtime.ReadMemStats(&after)
	if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 || sent.Load() > slack {
		t.Errorf("%d bytes were sent and %d allocated, the limit is 1 MiB", sent.Load(), n)
	}
	if _, err := r.List(t.Context()); !errors.Is(err, ckm.ErrFormat) || sent.Load() > maxCatalog+2*slack {
		t.Errorf("%d bytes were sent: %v", sent.Load(), err)
	}
}

// The INDEX of a newer version is not called an error page.
func TestWebNewerVersion(t *testing.T) {
	index, data := testPackage(t, "win", 1, 1)
	index[8], data[16] = 2, 2
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".index") {
			static(w, r, index)
		} else {
			static(w, r, data)
		}
	})
	r := newWeb(t, s.URL)
	if _, err := r.Index(t.Context(), "win", 1); !errors.Is(err, ckm.ErrUnsupported) || strings.Contains(err.Error(), "error page") {
		t.Error(err)
	}
	if _, err := r.Data(t.Context(), "win", 1); !errors.Is(err, ckm.ErrUnsupported) || strings.Contains(err.Error(), "error page") {
		t.Error(err)
	}
}

// A CKM that is shorter than it should be ends with io.ErrUnexpectedEOF, as
// Data promises, after a request or two.
func TestWebShortData(t *testing.T) {
	_, data := testPackage(t, "win", 1, 2)
	for name, ranges := range map[string]bool{"by ranges": true, "whole": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var requests atomic.Int32
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				if !ranges {
					r.Header.Del("Range")
				}
				static(w, r, data)
			})
			d, err := newWeb(t, s.URL).Data(t.Context(), "win", 1)
			if err != nil {
				t.Fatal(err)
			}
			if size, err := d.Size(); size != int64(len(data)) || err != nil {
				t.Errorf("size %d: %v", size, err)
			}
			for over, have := range map[int64]int{100: 100, 0: 0, -50: 0} {
				requests.Store(0)
				b, err := readRange(d, int64(len(data))-over, 200)
				if !errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, ErrUnavailable) || len(b) != have || requests.Load() > 1 {
					t.Errorf("%d bytes before its end: %d bytes by %d requests: %v", over, len(b), requests.Load(), err)
				}
			}
		})
	}
}

// A server that has known ranges and then sends whole files would send many
// times too much if nobody minded.
func TestWebRangesForgotten(t *testing.T) {
	big := make([]byte, 150<<20)
	_, small := testPackage(t, "win", 1, 1)
	copy(big, small)
	var sent, requests atomic.Int64
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if requests.Add(1) > 1 {
			r.Header.Del("Range")
		}
		static(&counter{w, &sent}, r, big)
	})
	d, err := newWeb(t, s.URL).Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := readRange(d, 1<<20, 100); err != nil || len(b) != 100 {
		t.Errorf("near the start it must work: %d bytes, %v", len(b), err)
	}
	sent.Store(0)
	if _, err := readRange(d, 140<<20, 100); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "the whole file") || sent.Load() > 60<<20 {
		t.Errorf("%d bytes were sent: %v", sent.Load(), err)
	}
}

// counter counts the bytes of bodies.
type counter struct {
	http.ResponseWriter
	sent *atomic.Int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p)
	c.sent.Add(int64(n))
	return n, err
}

func (c *counter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

// Answers that differ about the file's size do not get into each other's way.
func TestWebSizesAtOnce(t *testing.T) {
	_, data := testPackage(t, "win", 1, 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Range", strings.Replace(r.Header.Get("Range"), "bytes=", "bytes ", 1)+"/0")
		w.WriteHeader(206)
		w.Write(data[:32])
	})
	d, err := newWeb(t, s.URL).Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	for range 4 {
		g.Go(func() {
			if b, err := readRange(d, 0, 32); err != nil || len(b) != 32 {
				t.Errorf("%d bytes: %v", len(b), err)
			}
			d.Size()
			d.Traits()
		})
	}
	g.Wait()
}

func TestWebCredentials(t *testing.T) {
	for _, place := range []string{
		"http://user:secret@images.example/", "http://user:secret@10.0.0.1/x", "http://user:secret@127.0.0.1.example/",
		"http://user@images.example/", "ftp://user:secret@images.example/", "http://user:secret@/x", "https://user:secret@ho st/", "http://user:sec%ret@localhost/",
		"http://user:secret@localhost.evil.example/", "http://user:secret@[fe80::1]/",
	} {
		r, err := Open(place)
		if err == nil || r != nil || strings.Contains(err.Error(), "sec") || strings.Contains(err.Error(), "user:") {
			t.Errorf("%q: %v, %v", place, r, err)
		}
	}
	for _, place := range []string{"https://user:secret@images.example/x", "http://user:secret@127.0.0.1:1/x", "http://user:secret@[::1]:1/x", "http://user:secret@localhost:1/x"} {
		r, err := Open(place)
		if err != nil {
			t.Errorf("%q: %v", place, err)
		} else if s := r.String(); strings.Contains(s, "secret") || strings.Contains(s, "user") || !strings.HasSuffix(s, "/x/") {
			t.Errorf("%q is shown as %q", place, s)
		}
	}

	index, data := testPackage(t, "win", 1, 1)
	ask := func(t *testing.T, h http.HandlerFunc) []error {
		s := serve(t, h)
		r := newWeb(t, strings.Replace(s.URL, "http://", "http://us%20er:s%C3%A9cret@", 1))
		r.Retries = 0
		_, list := r.List(t.Context())
		_, i := r.Index(t.Context(), "win", 1)
		d, err := r.Data(t.Context(), "win", 1)
		if err == nil && strings.Contains(d.String(), "cret") {
			t.Errorf("the password is shown in %q", d)
		}
		for _, err := range []error{list, i, err} {
			if err != nil && (strings.Contains(fmt.Sprintf("%v %+v %#v", err, err, err), "cret") || strings.Contains(err.Error(), "us%20er")) {
				t.Errorf("the password is shown in %v", err)
			}
		}
		return []error{list, i, err}
	}
	t.Run("sent", func(t *testing.T) {
		for _, err := range ask(t, func(w http.ResponseWriter, r *http.Request) {
			switch user, password, ok := r.BasicAuth(); {
			case !ok || user != "us er" || password != "sécret":
				w.WriteHeader(http.StatusUnauthorized)
			case strings.HasSuffix(r.URL.Path, ".index"):
				static(w, r, index)
			case strings.HasSuffix(r.URL.Path, ".ckm"):
				static(w, r, data)
			default:
				static(w, r, []byte(`{"format":1}`))
			}
		}) {
			if err != nil {
				t.Error(err)
			}
		}
	})
	for name, h := range map[string]http.HandlerFunc{
		"401": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(401) },
		"404": http.NotFound, "503": func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, "page": page,
		"cut":      func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"redirect": func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) },
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "ftp://us%20er:s%C3%A9cret@x/", http.StatusFound)
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, err := range ask(t, h) {
				if err == nil {
					t.Error("no error")
				}
			}
		})
	}
	t.Run("no server", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l.Close()
		r := newWeb(t, "http://user:secret@"+l.Addr().String())
		r.Retries = 1
		if _, err := r.List(t.Context()); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "refused") || strings.Contains(err.Error(), "secret") ||
			strings.Count(err.Error(), l.Addr().String()) > 2 {
			t.Error(err)
		}
	})
}

// A redirection to another server does not get the password, nor does
// anything go on without encryption that began with it.
func TestWebRedirect(t *testing.T) {
	index, _ := testPackage(t, "win", 1, 1)
	var got atomic.Value
	target := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization") + r.Header.Get("Range"))
		static(w, r, index)
	})
	elsewhere := strings.Replace(target.URL, "127.0.0.1", "localhost", 1)
	begin := func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere+r.URL.Path, http.StatusTemporaryRedirect)
	}
	t.Run("http to http", func(t *testing.T) {
		s := serve(t, begin)
		b, err := newWeb(t, strings.Replace(s.URL, "http://", "http://user:secret@", 1)).Index(t.Context(), "win", 1)
		if err != nil || !bytes.Equal(b, index) || got.Load() != "" {
			t.Errorf("the other server got %q: %v", got.Load(), err)
		}
	})
	got.Store("nothing")
	t.Run("https to http", func(t *testing.T) {
		s := httptest.NewTLSServer(http.HandlerFunc(begin))
		defer s.Close()
		r := trusting(t, s)
		if _, err := r.Index(t.Context(), "win", 1); err == nil || !strings.Contains(err.Error(), "not safe") || got.Load() != "nothing" {
			t.Errorf("the other server got %q: %v", got.Load(), err)
		}
	})
	t.Run("ranges go along", func(t *testing.T) {
		s := serve(t, begin)
		f := newWeb(t, s.URL).file("win_1.index")
		b, err := readRange(f, 5, 10)
		if err != nil || !bytes.Equal(b, index[5:15]) || got.Load() != "bytes=5-14" {
			t.Errorf("%q: %v", got.Load(), err)
		}
	})
}

// trusting is the repository at s, whose certificate it knows.
func trusting(t *testing.T, s *httptest.Server) *Web {
	r := newWeb(t, s.URL)
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	r.trust(t, roots)
	return r
}

func (r *Web) trust(t *testing.T, roots *x509.CertPool) {
	t.Helper()
	transport := r.client.Transport.(*tickets).Transport
	transport.TLSClientConfig = transport.TLSClientConfig.Clone()
	if transport.TLSClientConfig == nil {
		t.Fatal("no TLS settings")
	}
	transport.TLSClientConfig.RootCAs = roots
}

// Over HTTP/2 it is the same.
func TestWebHTTP2(t *testing.T) {
	index, data := testPackage(t, "win", 1, 30)
	var cuts atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("%s", r.Proto)
		}
		if strings.HasSuffix(r.URL.Path, ".index") {
			static(w, r, index)
			return
		}
		if !rest(w, r, data, 1<<20) {
			cuts.Add(1)
			cut(w) // one stream, not the connection
		}
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	r := trusting(t, s)
	if b, err := r.Index(t.Context(), "win", 1); err != nil || !bytes.Equal(b, index) {
		t.Error(err)
	}
	d, err := r.Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	var g sync.WaitGroup
	half := int64(len(data) / 2)
	for _, at := range []int64{0, half} {
		g.Go(func() {
			if b, err := readRange(d, at, half); err != nil || !bytes.Equal(b, data[at:at+half]) {
				t.Error(err)
			}
		})
	}
	g.Wait()
	if cuts.Load() == 0 {
		t.Error("nothing was cut")
	}
}

// What no patience mends is said at once.
func TestWebHopeless(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(page))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	plain := serve(t, page)
	authority := testenv.NewAuthority(t)
	cert, key := authority.Issue(t, "127.0.0.1", -time.Hour)
	old, err := tls.LoadX509KeyPair(cert, key)
	must(t, err)
	expired := httptest.NewUnstartedServer(http.HandlerFunc(page))
	expired.Config.ErrorLog = s.Config.ErrorLog
	expired.TLS = &tls.Config{Certificates: []tls.Certificate{old}}
	expired.StartTLS()
	defer expired.Close()
	for name, c := range map[string]struct{ address, says string }{
		"an unknown certificate": {s.URL, "certificate"},
		"an expired certificate": {expired.URL, "has expired or is not yet valid: current time "},
		"what to do about it":    {expired.URL, "renew the server's certificate, unless this machine's clock is wrong"},
		"no https":               {strings.Replace(plain.URL, "http:", "https:", 1), "HTTP response to HTTPS client"},
		"no http":                {strings.Replace(s.URL, "https:", "http:", 1), "400"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newWeb(t, c.address)
			if c.address == expired.URL { // systems differ in what they say first of one that is unknown, too
				r.trust(t, authority.Pool())
			}
			r.Retries = 1000
			start := time.Now()
			_, err := r.List(t.Context())
			if err == nil || !strings.Contains(err.Error(), c.says) || !errors.Is(err, ErrUnavailable) || time.Since(start) > 5*time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		})
	}
}

// An end of the work is an end at once, whatever is being waited for.
func TestWebCancel(t *testing.T) {
	_, data := testPackage(t, "win", 1, 1)
	for name, h := range map[string]http.HandlerFunc{
		"for an answer":  func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() },
		"for more bytes": func(w http.ResponseWriter, r *http.Request) { rest(w, r, data, 10); cutLater(w, r) },
		"to ask again": func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Retry-After", "100")
			w.WriteHeader(503)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newWeb(t, serve(t, h).URL)
			r.Stall = time.Minute
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			start := time.Now()
			_, err := r.Data(ctx, "win", 1)
			if !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, ErrUnavailable) || time.Since(start) > 20*time.Second {
				t.Errorf("after %v: %v", time.Since(start), err)
			}
		})
	}
}

func cutLater(w http.ResponseWriter, r *http.Request) {
	http.NewResponseController(w).Flush()
	<-r.Context().Done()
}

// A reader is one of io.Reader's kind, whatever the sizes of the buffers.
func TestWebReaderManners(t *testing.T) {
	_, data := testPackage(t, "win", 1, 1)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { static(w, r, data) })
	d, err := newWeb(t, s.URL).Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	body, err := d.ReadRange(t.Context(), 50, 1000)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := body.Read(nil); n != 0 || err != nil {
		t.Errorf("reading nothing: %d, %v", n, err)
	}
	b, err := io.ReadAll(iotestOneByte{body})
	if err != nil || !bytes.Equal(b, data[50:1050]) {
		t.Error(err)
	}
	if n, err := body.Read(make([]byte, 10)); n != 0 || err != io.EOF {
		t.Errorf("reading on: %d, %v", n, err)
	}
	body.Close()
	body.Close()
}

type iotestOneByte struct{ r io.Reader }

func (o iotestOneByte) Read(p []byte) (int, error) { return o.r.Read(p[:1]) }

// Connections are used again.
func TestWebConnections(t *testing.T) {
	index, data := testPackage(t, "win", 1, 10)
	var connections atomic.Int32
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".index") {
			static(w, r, index)
		} else {
			static(w, r, data)
		}
	}))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	s.Start()
	defer s.Close()
	r := newWeb(t, s.URL)
	if _, err := r.Index(t.Context(), "win", 1); err != nil {
		t.Fatal(err)
	}
	d, err := r.Data(t.Context(), "win", 1)
	if err != nil {
		t.Fatal(err)
	}
	for i := range int64(30) {
		body, err := d.ReadRange(t.Context(), i*1000, 500)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 500)); err != nil {
			t.Fatal(err)
		}
		body.Close()
	}
	if n := connections.Load(); n > 2 {
		t.Errorf("%d connections for one thing after the other", n)
	}
}

package server

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// hasty waits for nobody for long.
func hasty(s *Server) {
	s.patience = patience{header: 300 * time.Millisecond, idle: 300 * time.Millisecond, stall: 300 * time.Millisecond}
}

// dial opens a connection, from an address of loopback.
func (s *testServer) dial(from string) net.Conn {
	s.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: time.Minute}
	c, err := d.Dial("tcp", s.addr)
	must(s.t, err)
	s.t.Cleanup(func() { c.Close() })
	must(s.t, c.SetDeadline(time.Now().Add(time.Minute)))
	return c
}

func send(t testing.TB, c net.Conn, text string) {
	t.Helper()
	_, err := io.WriteString(c, text)
	must(t, err)
}

// rest returns what comes until the server ends the connection.
func rest(t testing.TB, c net.Conn) string {
	t.Helper()
	b, err := io.ReadAll(c)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		t.Fatal("the server does not end the connection")
	}
	return string(b)
}

// Who takes for ever to ask is not waited for.
func TestSlowRequests(t *testing.T) {
	s := start(t, Config{}, hasty)
	for name, text := range map[string]string{
		"nothing": "", "half a line": "GET /MEDV", "half a header": "GET / HTTP/1.1\r\nHost: x\r\nX-A: b\r\n",
		"a body that does not come": "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
		"one without end":           "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
		"one more request":          "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\n\r\n",
		"posted":                    "POST /MEDVImages/ HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nabc",
	} {
		c := s.dial("127.0.0.1")
		send(t, c, text)
		got := rest(t, c)
		if wants := map[string]string{"a body that does not come": " 413 ", "one without end": " 413 ", "one more request": " 200 ", "posted": " 405 "}[name]; !strings.Contains(got, wants) {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestOversizedRequests(t *testing.T) {
	s := start(t, Config{})
	long := strings.Repeat("x", 2*headerBytes)
	for name, text := range map[string]string{
		"a path":             "GET /MEDVImages/" + long + " HTTP/1.1\r\nHost: x\r\n\r\n",
		"a field":            "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\nX-A: " + long + "\r\n\r\n",
		"fields":             "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\n" + strings.Repeat("X-A: b\r\n", headerBytes/4) + "\r\n",
		"no host":            "GET /MEDVImages/ HTTP/1.1\r\n\r\n",
		"nonsense":           "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"a smuggled request": "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /x HTTP/1.1\r\nHost: x\r\n\r\n",
	} {
		c := s.dial("127.0.0.1")
		go io.WriteString(c, text) // it may not take all of it
		if got := rest(t, c); !strings.HasPrefix(got, "HTTP/1.1 4") && got != "" || strings.Count(got, "HTTP/1.1") > 1 {
			t.Errorf("%s: %.300q", name, got)
		}
	}
}

// Who takes nothing of an answer is cut, and does not keep the file open.
func TestSlowReaders(t *testing.T) {
	s := start(t, Config{Limits: Limits{MinRate: 1 << 20}}, hasty)
	add(t, s.folder, "win11", 100)
	c := s.dial("127.0.0.1")
	must(t, c.(*net.TCPConn).SetReadBuffer(4096))
	send(t, c, "GET "+Prefix+"win11_1.ckm HTTP/1.1\r\nHost: x\r\n\r\n")
	_, err := io.ReadFull(c, make([]byte, 12))
	must(t, err)
	s.closesFiles()
	if got := len(rest(t, c)); got >= 100*200<<10 {
		t.Errorf("all %d bytes have come", got)
	}
}

// closesFiles waits until no CKM is open.
func (s *testServer) closesFiles() {
	s.t.Helper()
	eventually(s.t, "no file is open", func() bool { return s.files() == 0 })
}

// files counts the CKMs that this process has open.
func (s *testServer) files() (n int) {
	fds, _ := os.ReadDir("/proc/self/fd")
	for _, fd := range fds {
		if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, s.folder.String()) {
			n++
		}
	}
	return n
}

// The same over HTTP/2, where a client can have us wait by its window.
func TestSlowStreams(t *testing.T) {
	a := testenv.NewAuthority(t)
	cert, key := a.Issue(t, "server", time.Hour)
	s := start(t, Config{TLS: TLS{Cert: cert, Key: key}, Limits: Limits{MinRate: 1 << 20}}, hasty)
	add(t, s.folder, "win11", 100)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: a.Pool()}, ForceAttemptHTTP2: true}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	slow, err := client.Get("https://" + s.addr + Prefix + "win11_1.ckm")
	must(t, err)
	defer slow.Body.Close()
	s.closesFiles()
	if n, err := io.Copy(io.Discard, slow.Body); err == nil {
		t.Errorf("all %d bytes have come", n)
	}
	// Others on the same connection are not the worse for it.
	other, err := client.Get("https://" + s.addr + Prefix + "catalog.json")
	must(t, err)
	defer other.Body.Close()
	if other.StatusCode != 200 || other.ProtoMajor != 2 {
		t.Errorf("%s, %s", other.Status, other.Proto)
	}
}

// Over the limit of connections, clients are told to come again.
func TestConnections(t *testing.T) {
	s := start(t, Config{Limits: Limits{Connections: 3, EachHas: 2}})
	const ask = "GET /MEDVImages/ HTTP/1.1\r\nHost: x\r\n\r\n"
	first := func(c net.Conn) string {
		t.Helper()
		send(t, c, ask)
		b := make([]byte, 12)
		_, err := io.ReadFull(c, b)
		must(t, err)
		return string(b[9:])
	}
	one, two := s.dial("127.0.0.1"), s.dial("127.0.0.1")
	if a, b := first(one), first(two); a != "200" || b != "200" {
		t.Fatalf("%s, %s", a, b)
	}
	over := s.dial("127.0.0.1")
	send(t, over, ask+ask)
	if got := rest(t, over); !strings.HasPrefix(got, "HTTP/1.1 429 ") || !strings.Contains(got, "Retry-After: 15") || strings.Count(got, "HTTP/1.1") != 1 {
		t.Errorf("one too many: %q", got)
	}
	if got := first(s.dial("127.0.0.2")); got != "200" {
		t.Errorf("another client: %s", got)
	}
	full := s.dial("127.0.0.3")
	send(t, full, ask)
	if got := rest(t, full); !strings.HasPrefix(got, "HTTP/1.1 503 ") || !strings.Contains(got, "Retry-After: 15") {
		t.Errorf("when all are taken: %q", got)
	}
	one.Close()
	two.Close()
	eventually(t, "places are given back", func() bool { return first(s.dial("127.0.0.1")) == "200" })
}

func TestClientOf(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.7:80": "10.0.0.7", "[::ffff:10.0.0.7]:80": "10.0.0.7", "[2001:db8:1:2:3::4]:80": "2001:db8:1:2::/64", "[fe80::1%eth0]:80": "fe80::/64", "pipe": "pipe",
	} {
		if got := clientOf(addr); got != want {
			t.Errorf("%s: %s, want %s", addr, got, want)
		}
	}
}

// What comes at a pace is the same.
func TestPaced(t *testing.T) {
	s := start(t, Config{Limits: Limits{Total: 8 << 20, Each: 6 << 20}})
	data := add(t, s.folder, "win11", 10)
	if a := s.get("win11_1.ckm"); !bytes.Equal(a.body, data) {
		t.Error("other bytes")
	}
	if a := s.get("win11_1.ckm", "Range: bytes=1000-99999"); !bytes.Equal(a.body, data[1000:100000]) {
		t.Error("another range")
	}
	if a := s.get("win11_1.ckm", "Range: bytes=1-2,5-6"); a.StatusCode != 206 {
		t.Error(a.Status)
	}
}

// begin asks for a CKM and reads some of it.
func (s *testServer) begin(n int) (c net.Conn, got []byte) {
	s.t.Helper()
	c = s.dial("127.0.0.1")
	must(s.t, c.(*net.TCPConn).SetReadBuffer(64<<10))
	send(s.t, c, "GET "+Prefix+"win11_1.ckm HTTP/1.0\r\n\r\n")
	got = make([]byte, n)
	_, err := io.ReadFull(c, got)
	must(s.t, err)
	return c, got
}

// A file that is replaced or removed while it is sent is sent to its end; one that
// is cut short ends the connection, so that nobody takes it for the whole.
func TestFilesChangeMeanwhile(t *testing.T) {
	for name, c := range map[string]struct {
		change func(path string) error
		whole  bool
	}{
		"replaced": {func(path string) error {
			must(t, os.WriteFile(path+"~", []byte("other"), 0o644))
			return os.Rename(path+"~", path)
		}, true},
		"removed":   {os.Remove, true},
		"cut short": {func(path string) error { return os.Truncate(path, 1000) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t, Config{})
			data := add(t, s.folder, "win11", 100)
			conn, got := s.begin(100_000)
			must(t, c.change(s.folder.Path("win11_1.ckm")))
			all := append(got, rest(t, conn)...)
			head, body, _ := bytes.Cut(all, []byte("\r\n\r\n"))
			if !bytes.Contains(head, fmt.Appendf(nil, "Content-Length: %d", len(data))) {
				t.Errorf("%s", head)
			}
			if c.whole != bytes.Equal(body, data) || !c.whole && len(body) >= len(data) {
				t.Errorf("%d bytes of %d have come", len(body), len(data))
			}
		})
	}
}

// A server that is to end says so, finishes what it is at, and ends.
func TestDrain(t *testing.T) {
	s := start(t, Config{Limits: Limits{DrainMax: time.Minute, DrainNotice: 3 * time.Second}})
	data := add(t, s.folder, "win11", 100)
	if a := s.ask("GET", "/readyz"); a.StatusCode != 200 || s.ask("GET", "/healthz").StatusCode != 200 {
		t.Errorf("at first: %s", a.Status)
	}
	conn, got := s.begin(100_000)
	ended := make(chan error, 1)
	go func() { ended <- s.stop() }()
	for s.ready.Load() {
		time.Sleep(time.Millisecond)
	}
	if a := s.ask("GET", "/readyz"); a.StatusCode != 503 || s.ask("GET", "/healthz").StatusCode != 200 {
		t.Errorf("when it is about to end: %s", a.Status)
	}
	eventually(t, "it does not listen", func() bool {
		c, err := net.Dial("tcp", s.addr)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	_, body, _ := bytes.Cut(append(got, rest(t, conn)...), []byte("\r\n\r\n"))
	if !bytes.Equal(body, data) {
		t.Errorf("%d bytes of %d have come", len(body), len(data))
	}
	must(t, <-ended)

	// Nobody is waited for without end.
	s = start(t, Config{Folder: s.folder, Limits: Limits{DrainMax: time.Millisecond}})
	s.begin(100_000)
	must(t, s.stop())
	if !strings.Contains(s.log.String(), "they will ask again") {
		t.Errorf("nothing was said of it:\n%s", s.log)
	}
}

// A proxy that is trusted has as many connections as there are.
func TestConnectionsOfProxies(t *testing.T) {
	s := start(t, Config{Limits: Limits{Connections: 5, EachHas: 1}, Proxies: proxies(t, "127.0.0.2")})
	ask := func(from string) string {
		t.Helper()
		c := s.dial(from)
		send(t, c, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
		b := make([]byte, 12)
		_, err := io.ReadFull(c, b)
		must(t, err)
		return string(b[9:])
	}
	for i, c := range []struct{ from, want string }{
		{"127.0.0.2", "200"}, {"127.0.0.2", "200"}, {"127.0.0.2", "200"}, {"127.0.0.1", "200"}, {"127.0.0.1", "429"}, {"127.0.0.2", "200"}, {"127.0.0.2", "503"},
	} {
		if got := ask(c.from); got != c.want {
			t.Errorf("%d, from %s: %s, want %s", i, c.from, got, c.want)
		}
	}
}

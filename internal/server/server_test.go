package server

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// must fails the test.
func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something is so.
func eventually(t testing.TB, what string, so func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// add packs the next version of an image, of n frames of 200 KiB that do not
// compress, and returns its CKM.
func add(t testing.TB, folder *repo.Folder, name string, n int) []byte {
	t.Helper()
	x, _, err := folder.Add(t.Context(), name, func(to io.Writer) (*ckm.Index, error) {
		x := &ckm.Index{Info: ckm.Info{FrameLimit: 256 << 10, Created: 1_780_000_000,
			Files: []ckm.File{{Path: "disk.img", Size: uint64(n) * 200 << 10, Format: "raw"}}}}
		w, err := ckm.NewWriter(to, x)
		if err != nil {
			return nil, err
		}
		c := ckm.NewCompressor(ckm.LevelFast)
		for i := range n {
			raw := testenv.Random(byte(i)+byte(len(name)), 200<<10)
			raw[0] = byte(i >> 8)
			x.Place(uint32(i), 0, uint64(i)*200<<10)
			if err := w.WriteFrame(c.Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{len(raw)}); err != nil {
				return nil, err
			}
		}
		return x, w.Finish()
	})
	must(t, err)
	b, err := os.ReadFile(folder.Path(ckm.DataName(name, x.Version)))
	must(t, err)
	return b
}

// diary keeps what a server says.
type diary struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (d *diary) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.b.Write(p)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.b.String()
}

// testServer is a server on loopback.
type testServer struct {
	*Server
	t      testing.TB
	folder *repo.Folder
	addr   string // host:port
	url    string // of the packages
	log    *diary
	stop   func() error // ends it and returns what Serve did
}

// start starts a server of a new folder, or of the one in c, after some changes. It
// ends with the test, or when stop is called.
func start(t testing.TB, c Config, change ...func(s *Server)) *testServer {
	t.Helper()
	if c.Folder == nil {
		c.Folder = repo.NewFolder(t.TempDir())
	}
	s := &testServer{t: t, folder: c.Folder, log: &diary{}}
	c.Log = slog.New(slog.NewTextHandler(s.log, nil))
	var err error
	s.Server, err = New(c)
	must(t, err)
	for _, do := range change {
		do(s.Server)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = l.Addr().String()
	s.url = "http://" + s.addr + Prefix
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	ready := make(chan struct{})
	go func() { ended <- s.Serve(ctx, l, func() { close(ready) }) }()
	s.stop = sync.OnceValue(func() error { cancel(); return <-ended })
	t.Cleanup(func() {
		if err := s.stop(); err != nil {
			t.Errorf("the server ended with: %v", err)
		}
	})
	<-ready
	return s
}

// reply is what a server answered.
type reply struct {
	*http.Response
	body []byte
}

// ask makes a request, with header fields as "Name: value".
func (s *testServer) ask(method, path string, header ...string) reply {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.addr, nil)
	must(s.t, err)
	req.URL.Opaque = path // as it is
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Add(name, value)
	}
	client := &http.Client{
		Transport:     &http.Transport{DisableKeepAlives: true, DisableCompression: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	resp, err := client.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return reply{resp, b}
}

func (s *testServer) get(file string, header ...string) reply {
	s.t.Helper()
	return s.ask("GET", Prefix+file, header...)
}

// raw sends bytes on a connection of its own and returns the answer's first line.
func (s *testServer) raw(text string) string {
	s.t.Helper()
	c, err := net.Dial("tcp", s.addr)
	must(s.t, err)
	defer c.Close()
	must(s.t, c.SetDeadline(time.Now().Add(30*time.Second)))
	_, err = io.WriteString(c, text)
	must(s.t, err)
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

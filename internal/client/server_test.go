package client_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"prestage/internal/repo"
	"prestage/internal/server"
	"prestage/internal/server/access"
)

// requests keeps a server's record of requests.
type requests struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (r *requests) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

// of counts those for a file.
func (r *requests) of(file string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return strings.Count(r.b.String(), "/"+file+`"`)
}

// startServer starts our own server of a folder, and returns its address.
func startServer(t *testing.T, dir string, readers access.Config) (string, *requests) {
	t.Helper()
	seen := &requests{}
	s, err := server.New(server.Config{Folder: repo.NewFolder(dir), Log: slog.New(slog.DiscardHandler),
		Requests: slog.New(slog.NewJSONHandler(seen, nil)), Access: readers})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l, func() {}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String(), seen
}

// nginx, as a cache before our server, asks it for each file once, whatever the
// number of clients; what not everybody may read it does not keep.
func TestCacheBeforeServer(t *testing.T) {
	p := small()
	dir := folder(t, files(p))
	cache := "proxy_cache_path " + filepath.Join(t.TempDir(), "cache") + " keys_zone=c:1m;"
	start := func(readers access.Config, location string) (*nginx, *requests) {
		origin, seen := startServer(t, dir, readers)
		return startNginx(t, t.TempDir(), cache, "proxy_pass http://"+origin+"; proxy_cache c; proxy_cache_lock on; "+location), seen
	}
	n, seen := start(access.Config{}, "")
	for range 3 {
		mustRun(t, t.TempDir(), nil, web(t, n.url), p)
	}
	for _, file := range []string{"win_2.ckm", "win_2.index"} {
		if got := seen.of(file); got != 1 {
			t.Errorf("%s was asked for %d times", file, got)
		}
	}

	rights := filepath.Join(t.TempDir(), "rights.toml")
	tokens := filepath.Join(t.TempDir(), "tokens")
	token, line, err := access.NewToken(nil, "cache")
	if err != nil {
		t.Fatal(err)
	}
	for path, text := range map[string]string{rights: "[[allow]]\nimages = ['win']\nreaders = ['token:*']\n", tokens: line} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cache = strings.Replace(cache, "/cache", "/private", 1)
	n, seen = start(access.Config{Tokens: tokens, Rights: rights}, "proxy_set_header Authorization $http_authorization;")
	if _, err := run(t.Context(), t.TempDir(), 2, nil, web(t, n.url)); err == nil {
		t.Error("without a token")
	}
	t.Setenv(repo.TokenVar, token)
	mustRun(t, t.TempDir(), nil, web(t, n.url), p)
	before := seen.of("win_2.ckm")
	t.Setenv(repo.TokenVar, "")
	if _, err := run(t.Context(), t.TempDir(), 2, nil, web(t, n.url)); err == nil {
		t.Error("the cache gives away what a token was needed for")
	}
	if before == 0 {
		t.Error("the server was not asked")
	}
}

// Our client fetches from our server as from any other: what is missing only.
func TestOwnServer(t *testing.T) {
	addr, _ := startServer(t, folder(t, files(older(), small())), access.Config{})
	r := web(t, "http://"+addr+"/MEDVImages/")
	d, err := r.Data(t.Context(), "win", 2)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	body, err := d.ReadRange(t.Context(), 1000, 2000)
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	if b, err := io.ReadAll(body); err != nil || !bytes.Equal(b, small().ckm[1000:3000]) {
		t.Errorf("another range: %v", err)
	}
	if size, err := d.Size(); err != nil || size != int64(len(small().ckm)) || d.Traits().Readers < 2 {
		t.Errorf("%d bytes, %+v, %v", size, d.Traits(), err)
	}
}

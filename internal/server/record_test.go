package server

import (
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"

	"prestage/internal/server/access"
)

// Each request leaves a record, which nobody can forge a second one in.
func TestRequestsAreRecorded(t *testing.T) {
	log := &diary{}
	s := start(t, Config{Requests: slog.New(slog.NewJSONHandler(log, nil)), Access: access.Config{Users: users(t)}})
	data := add(t, s.folder, "win11", 1)
	for i, ask := range []func(){
		func() { s.get("win11_1.ckm", asAlice) },
		func() { s.get("win11_1.ckm", asAlice, "Range: bytes=5-14") },
		func() { s.ask("HEAD", Prefix+"win11_1.ckm", asAlice) },
		func() { s.get("win11_1.ckm", asEve) },
		func() { s.get("x%0a%7b%22a%22:1%7d%0d%1b", asAlice) },
	} {
		ask()
		// The record comes after the answer.
		eventually(t, "it is recorded", func() bool { return strings.Count(log.String(), "\n") > i })
	}
	type line struct {
		Time, Msg, Remote, Reader, Method, Path, Protocol, Range, Problem string
		Status                                                            int
		Bytes                                                             int64
		Seconds                                                           float64
	}
	var lines []line
	for text := range strings.Lines(log.String()) {
		var l line
		must(t, json.Unmarshal([]byte(text), &l))
		if l.Time == "" || !strings.HasPrefix(l.Remote, "127.0.0.1:") || l.Seconds <= 0 || l.Protocol != "HTTP/1.1" || l.Msg != "answered" {
			t.Errorf("%+v", l)
		}
		l.Time, l.Remote, l.Seconds = "", "", 0
		lines = append(lines, l)
	}
	const file, alice = Prefix + "win11_1.ckm", "user:alice"
	want := []line{
		{Reader: alice, Method: "GET", Path: file, Status: 200, Bytes: int64(len(data))},
		{Reader: alice, Method: "GET", Path: file, Status: 206, Bytes: 10, Range: "bytes=5-14"},
		{Reader: alice, Method: "HEAD", Path: file, Status: 200},
		{Method: "GET", Path: file, Status: 401, Problem: `unknown reader: wrong password, or no user "eve"`, Bytes: 17},
		{Reader: alice, Method: "GET", Path: Prefix + "x\n{\"a\":1}\r\x1b", Status: 404, Bytes: 14},
	}
	if len(lines) != len(want) {
		t.Fatalf("%d lines:\n%s", len(lines), log)
	}
	for i, w := range want {
		w.Msg, w.Protocol = "answered", "HTTP/1.1"
		if lines[i] != w {
			t.Errorf("%+v\nwant %+v", lines[i], w)
		}
	}
	if strings.Contains(log.String(), "secret") || strings.Contains(log.String(), "Basic") {
		t.Error("the record holds a password")
	}
}

func TestMetrics(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s := start(t, Config{}, func(s *Server) { s.WatchedAt(l) })
	add(t, s.folder, "win11", 1)
	s.get("win11_1.ckm", "Range: bytes=0-999")
	s.get("win11_2.ckm")
	s.get("catalog.json")
	page := func(path string) (int, string) {
		t.Helper()
		resp, err := http.Get("http://" + l.Addr().String() + path)
		must(t, err)
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		must(t, err)
		return resp.StatusCode, string(b)
	}
	// A request is counted when it is over, which is after its answer.
	has := func(want string) bool { _, text := page("/metrics"); return strings.Contains(text, want) }
	for _, want := range []string{
		`prestage_server_requests_total{code="206",for="package"} 1`, `prestage_server_requests_total{code="404",for="package"} 1`,
		`prestage_server_requests_total{code="200",for="catalog"} 1`, `prestage_server_sent_bytes_total{for="package"} 1014`,
		"prestage_server_packages 1", "prestage_server_requests_running 0", `prestage_server_request_seconds_count{for="package"} 2`,
		"prestage_server_connections 0", "prestage_server_connections_excess 0", "go_goroutines",
	} {
		eventually(t, want, func() bool { return has(want) })
	}
	for path, want := range map[string]int{"/healthz": 200, "/readyz": 200, "/": 404, Prefix: 404} {
		if code, _ := page(path); code != want {
			t.Errorf("%s: %d", path, code)
		}
	}
	if a := s.ask("GET", "/metrics"); a.StatusCode != 404 {
		t.Errorf("readers get metrics: %s", a.Status)
	}
}

package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"

	"prestage/internal/event"
	"prestage/internal/repo"
	"prestage/internal/server/access"
)

const eventsPath = Prefix + event.Path

// book keeps reports in memory.
type book struct {
	mu   sync.Mutex
	got  []string // reader, machine and numbers
	fail error
	wait chan struct{} // nil: nobody waits
}

func (b *book) Take(ctx context.Context, reader string, _ time.Time, r *event.Report) (a event.Ack, err error) {
	if b.wait != nil {
		select {
		case <-b.wait:
		case <-ctx.Done():
			return a, ctx.Err()
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return a, b.fail
	}
	for _, e := range r.Events {
		a.Number = e.Number
	}
	b.got = append(b.got, fmt.Sprintf("%s %s %d", reader, r.Machine, a.Number))
	return a, nil
}

func (b *book) all() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.got, "\n")
}

// told is a report with n events.
func told(n int) *event.Report {
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := &event.Report{Machine: "m", Host: "h", Client: "1", System: "linux/amd64", Time: now}
	for i := range n {
		r.Events = append(r.Events, event.Event{Number: uint64(i + 1), Time: now, Kind: 1, Severity: event.Information, Category: "c", Description: "d"})
	}
	return r
}

func encoded(t testing.TB, r *event.Report) []byte {
	t.Helper()
	b, err := json.Marshal(r)
	must(t, err)
	return b
}

// post sends a body to path, with header fields as "Name: value".
func (s *testServer) post(path string, body io.Reader, header ...string) reply {
	s.t.Helper()
	req, err := http.NewRequest("POST", "http://"+s.addr+path, body)
	must(s.t, err)
	req.Header.Set("Content-Type", "application/json")
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Do(req)
	must(s.t, err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	must(s.t, err)
	return reply{resp, b}
}

func TestReports(t *testing.T) {
	b := &book{}
	s := start(t, Config{Events: b})
	good := encoded(t, told(3))
	long := append(bytes.Clone(good), bytes.Repeat([]byte(" "), event.MaxReport)...)
	for _, c := range []struct {
		name   string
		body   []byte
		header []string
		code   int
		says   string
	}{
		{"good", good, nil, 200, `{"number":3}`},
		{"again", good, nil, 200, `{"number":3}`},
		{"without events", encoded(t, told(0)), []string{"Content-Type: application/json; charset=utf-8"}, 200, `{"number":0}`},
		{"as long as it may be", long[:event.MaxReport], nil, 200, `{"number":3}`},
		{"too long", long[:event.MaxReport+1], nil, 413, "413"},
		{"nothing", nil, nil, 400, "not a valid report"},
		{"no JSON", []byte("<html>"), nil, 400, "not a valid report"},
		{"tampered", bytes.Replace(good, []byte(`"number":2`), []byte(`"number":9`), 1), nil, 400, "event 3 follows event 9"},
		{"cut", good[:len(good)-2], nil, 400, "not a valid report"},
		{"twice", append(bytes.Clone(good), good...), nil, 400, "something follows"},
		{"another type", good, []string{"Content-Type: text/plain"}, 415, "application/json"},
		{"no type", good, []string{"Content-Type: "}, 415, "application/json"},
		{"a form", good, []string{"Content-Type: application/x-www-form-urlencoded"}, 415, "application/json"},
		{"compressed", good, []string{"Content-Encoding: gzip"}, 415, "application/json"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := s.post(eventsPath, bytes.NewReader(c.body), c.header...)
			if a.StatusCode != c.code || !strings.Contains(string(a.body), c.says) {
				t.Errorf("%s %q", a.Status, a.body)
			}
			if a.Header.Get("Cache-Control") != "no-store" || a.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%v", a.Header)
			}
			// It does not matter whether the client knows how long it is.
			a = s.post(eventsPath, struct{ io.Reader }{bytes.NewReader(c.body)}, c.header...)
			if a.StatusCode != c.code {
				t.Errorf("in chunks: %s %q", a.Status, a.body)
			}
		})
	}
	if line := s.raw("POST " + eventsPath + " HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99999999999\r\n\r\n"); !strings.Contains(line, " 413 ") {
		t.Errorf("announced as much too long: %q", line)
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "DELETE", "OPTIONS"} {
		if a := s.ask(method, eventsPath); a.StatusCode != 405 || a.Header.Get("Allow") != "POST" {
			t.Errorf("%s: %s, Allow %q", method, a.Status, a.Header.Get("Allow"))
		}
	}
	for _, path := range []string{eventsPath + "/", eventsPath + ".json", "/events", Prefix + "Events"} {
		if a := s.post(path, bytes.NewReader(good)); a.StatusCode == 200 {
			t.Errorf("%s: %s", path, a.Status)
		}
	}
	if got, want := strings.Count(b.all(), "\n")+1, 8; got != want {
		t.Errorf("%d reports were taken, want %d", got, want)
	}
	if n := s.reports.room.Load(); n != 0 {
		t.Errorf("%d bytes are still in memory", n)
	}
}

func TestNoEvents(t *testing.T) {
	s := start(t, Config{})
	if a := s.post(eventsPath, bytes.NewReader(encoded(t, told(1)))); a.StatusCode != 404 {
		t.Error(a.Status)
	}
}

// Who reports is who the server knows; nobody can report as another.
func TestWhoReports(t *testing.T) {
	dir := t.TempDir()
	users, tokens, rights := filepath.Join(dir, "users"), filepath.Join(dir, "tokens"), filepath.Join(dir, "rights")
	hash, err := bcrypt.GenerateFromPassword([]byte("pw"), bcrypt.MinCost)
	must(t, err)
	must(t, os.WriteFile(users, fmt.Appendf(nil, "alice:%s\n", hash), 0o600))
	token, line, err := access.NewToken(nil, "floor2")
	must(t, err)
	must(t, os.WriteFile(tokens, []byte(line), 0o600))
	must(t, os.WriteFile(rights, []byte("[[allow]]\nimages = [\"*\"]\nreaders = [\"anyone\"]\n"), 0o600))
	b := &book{}
	s := start(t, Config{Events: b, Access: access.Config{Users: users, Tokens: tokens, Rights: rights}})
	good := encoded(t, told(1))
	basic := func(user, password string) string {
		r, _ := http.NewRequest("GET", "/", nil)
		r.SetBasicAuth(user, password)
		return "Authorization: " + r.Header.Get("Authorization")
	}
	for _, c := range []struct {
		name, header string
		code         int
	}{
		{"nobody, who may read all", "X-Nothing: 1", 401},
		{"a user", basic("alice", "pw"), 200},
		{"a user with another password", basic("alice", "wp"), 401},
		{"a user that is not", basic("bob", "pw"), 401},
		{"a token", "Authorization: Bearer " + token, 200},
		{"another token", "Authorization: Bearer " + token[1:], 401},
		{"another way", "Authorization: Digest x", 401},
	} {
		if a := s.post(eventsPath, bytes.NewReader(good), c.header); a.StatusCode != c.code {
			t.Errorf("%s: %s", c.name, a.Status)
		}
	}
	if got, want := b.all(), "user:alice m 1\ntoken:floor2 m 1"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	// Where only rights are set and nobody is known, nobody reports.
	closed := start(t, Config{Events: b, Access: access.Config{Rights: rights}})
	if a := closed.post(eventsPath, bytes.NewReader(good)); a.StatusCode != 403 {
		t.Error(a.Status)
	}
}

// What cannot be kept is not acknowledged.
func TestReportsThatFail(t *testing.T) {
	b := &book{fail: errors.New("no room, says /secret/place")}
	s := start(t, Config{Events: b})
	a := s.post(eventsPath, bytes.NewReader(encoded(t, told(1))))
	if a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || bytes.Contains(a.body, []byte("number")) || bytes.Contains(a.body, []byte("secret")) {
		t.Errorf("%s %v %q", a.Status, a.Header, a.body)
	}
	if a := s.get(repo.CatalogName); a.StatusCode != 200 {
		t.Errorf("packages: %s", a.Status)
	}
	b.mu.Lock()
	b.fail = nil
	b.mu.Unlock()
	if a := s.post(eventsPath, bytes.NewReader(encoded(t, told(1)))); a.StatusCode != 200 {
		t.Error(a.Status)
	}
	for _, want := range []string{"prestage_server_reports_total 1\n", "prestage_server_reports_failed_total 1\n", "prestage_server_events_total 1\n", `requests_total{code="503",for="events"} 1`} {
		// A request is counted when it is over, which may be after its answer.
		eventually(t, want, func() bool { return strings.Contains(metricsOf(t, s), want) })
	}
}

// metricsOf returns what the server tells those who watch over it.
func metricsOf(t *testing.T, s *testServer) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer s.serveMetrics(l)()
	resp, err := http.Get("http://" + l.Addr().String() + "/metrics")
	must(t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	must(t, err)
	return string(text)
}

// A client that sends slowly, or stops, is cut.
func TestSlowReports(t *testing.T) {
	b := &book{}
	s := start(t, Config{Events: b}, func(s *Server) { s.patience.stall, s.patience.header = 300*time.Millisecond, 300*time.Millisecond })
	good := encoded(t, told(1))
	for _, part := range []int{0, 1, len(good) - 1} {
		line := s.raw(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", eventsPath, len(good), good[:part]))
		if !strings.Contains(line, " 408 ") {
			t.Errorf("%d bytes: %q", part, line)
		}
	}
	// A byte now and then is not enough.
	c, err := net.Dial("tcp", s.addr)
	must(t, err)
	defer c.Close()
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n", eventsPath)
	eventually(t, "it is cut", func() bool { _, err := c.Write([]byte(" ")); return err != nil })
	if b.all() != "" {
		t.Errorf("taken: %s", b.all())
	}
	if n := s.reports.room.Load(); n != 0 {
		t.Errorf("%d bytes are still in memory", n)
	}
	// Who is quick waits for the database as long as that takes.
	b.wait = make(chan struct{})
	time.AfterFunc(time.Second, func() { close(b.wait) })
	if a := s.post(eventsPath, bytes.NewReader(good)); a.StatusCode != 200 {
		t.Errorf("%s %s", a.Status, a.body)
	}
}

// However many clients send however much, it has its bound; who came first is served.
func TestReportsHaveRoom(t *testing.T) {
	b := &book{wait: make(chan struct{})}
	s := start(t, Config{Events: b})
	body := encoded(t, told(1))
	body = append(body, bytes.Repeat([]byte(" "), event.MaxReport-len(body))...)
	codes := make(chan int)
	const n = 40
	for range n {
		go func() {
			resp, err := http.Post(s.url+event.Path, "application/json", bytes.NewReader(body))
			if err != nil {
				codes <- 503 // the connection ended before it had sent all
				return
			}
			resp.Body.Close()
			codes <- resp.StatusCode
		}()
	}
	count := map[int]int{}
	for range n - reportRoom/event.MaxReport {
		count[<-codes]++
	}
	if most := s.reports.room.Load(); most > reportRoom {
		t.Errorf("%d bytes are in memory", most)
	}
	close(b.wait)
	for range reportRoom / event.MaxReport {
		count[<-codes]++
	}
	if count[200]+count[503] != n || count[200] == 0 || count[503] < n-reportRoom/event.MaxReport {
		t.Errorf("%v", count)
	}
	if n := s.reports.room.Load(); n != 0 {
		t.Errorf("%d bytes are still in memory", n)
	}
}

// A connection is used for more than one report.
func TestReportsOnAConnection(t *testing.T) {
	b := &book{}
	s := start(t, Config{Events: b})
	r, err := repo.Open(s.url)
	must(t, err)
	web := r.(*repo.Web)
	for i := range 5 {
		ack, err := web.Report(t.Context(), told(i))
		must(t, err)
		if ack.Number != uint64(i) {
			t.Errorf("acknowledged %d, want %d", ack.Number, i)
		}
	}
	s.metrics.running.Set(0)
	if n := strings.Count(b.all(), "m"); n != 5 {
		t.Errorf("%d reports", n)
	}
}

package server

import (
	"log/slog"
	"strings"
	"testing"
	"time"

	"prestage/internal/event"
	"prestage/internal/server/access"
)

// Who guesses a password is told to come again later, and nobody else is.
func TestGuesses(t *testing.T) {
	record := &diary{}
	s := start(t, Config{Access: access.Config{Users: users(t)}, Requests: slog.New(slog.NewJSONHandler(record, nil))})
	const wrong = "Authorization: Basic YWxpY2U6d3Jvbmc=" // alice:wrong
	ask := func(from, method, path, as string) string {
		t.Helper()
		c := s.dial(from)
		send(t, c, method+" "+path+" HTTP/1.0\r\n"+as+"\r\n\r\n")
		return rest(t, c)
	}
	const catalog = Prefix + "catalog.json"
	begun := time.Now()
	for range 5 {
		if got := ask("127.0.0.1", "GET", catalog, wrong); !strings.Contains(got, " 401 ") {
			t.Fatal(got)
		}
	}
	slowed := func(as string) bool {
		t.Helper()
		got := ask("127.0.0.1", "GET", catalog, as)
		first := time.Since(begun) < time.Second // the pause is not over
		if !first && !strings.Contains(got, " 429 ") {
			return false
		}
		if !strings.Contains(got, " 429 ") || first && !strings.Contains(got, "\r\nRetry-After: 1\r\n") ||
			!strings.Contains(got, "too many wrong passwords; try again in") || strings.Contains(got, "WWW-Authenticate") {
			t.Errorf("%s: %s", as, got)
		}
		return true
	}
	// On a slow machine the pause may be over by then; each further wrong one makes a
	// longer one.
	eventually(t, "who guesses is slowed, also with the right password", func() bool { return slowed(wrong) && slowed(asAlice) })
	if got := ask("127.0.0.2", "GET", catalog, asAlice); !strings.Contains(got, " 200 ") {
		t.Errorf("from elsewhere: %s", got)
	}
	if got := ask("127.0.0.1", "GET", catalog, ""); !strings.Contains(got, " 401 ") {
		t.Errorf("without a password: %s", got)
	}
	eventually(t, "the right password counts again", func() bool {
		return strings.Contains(ask("127.0.0.1", "GET", catalog, asAlice), " 200 ")
	})
	if time.Since(begun) < time.Second {
		t.Error("there was no pause")
	}
	if !strings.Contains(record.String(), `"status":429`) || !strings.Contains(record.String(), `"problem":"too many wrong passwords`) {
		t.Errorf("it is not on record:\n%s", record)
	}
}

// Nor are reports a way to guess.
func TestGuessesByReports(t *testing.T) {
	s := start(t, Config{Access: access.Config{Users: users(t)}, Events: &book{}})
	report := func() int {
		return s.ask("POST", Prefix+event.Path, "Authorization: Basic YWxpY2U6d3Jvbmc=", "Content-Type: application/json").StatusCode
	}
	for range 5 {
		if code := report(); code != 401 {
			t.Error(code)
		}
	}
	eventually(t, "it is slowed", func() bool { return report() == 429 })
}

package reload

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestValue(t *testing.T) {
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var log bytes.Buffer
	parsed := 0
	parse := func(contents [][]byte) (string, error) {
		parsed++
		s := string(bytes.Join(contents, []byte("+")))
		if strings.Contains(s, "bad") {
			return "", errors.New("that is bad")
		}
		return s, nil
	}
	open := func() (*Value[string], error) { return New(slog.New(slog.NewTextHandler(&log, nil)), parse, a, b) }
	if _, err := open(); err == nil {
		t.Error("there are no files, and no error")
	}
	write(a, "1")
	write(b, "bad")
	if _, err := open(); err == nil || !strings.Contains(err.Error(), b) {
		t.Errorf("a file that makes no sense: %v", err)
	}
	write(b, "2")
	v, err := open()
	if err != nil {
		t.Fatal(err)
	}
	is := func(what, want string) {
		t.Helper()
		if got := v.Get(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	is("at first", "1+2")
	write(b, "3") // at once, and of the same length
	is("changed", "1+3")
	old := time.Now().Add(-time.Hour)
	for _, p := range []string{a, b} {
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	is("with an older time", "1+3")
	before := parsed
	is("the same", "1+3")
	is("the same", "1+3")
	if parsed != before {
		t.Error("what had not changed was parsed again")
	}
	write(b, "bad")
	is("damaged", "1+3")
	is("damaged", "1+3")
	if n := strings.Count(log.String(), "that is bad"); n != 1 {
		t.Errorf("it was told %d times:\n%s", n, &log)
	}
	if err := os.Remove(b); err != nil {
		t.Fatal(err)
	}
	is("removed", "1+3")
	write(b, "4")
	is("mended", "1+4")
	if err := os.Remove(a); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(a, 0o700); err != nil {
		t.Fatal(err)
	}
	is("a folder", "1+4")
}

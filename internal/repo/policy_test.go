package repo

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What is asked for again and again is sent only when it has changed.
func TestPolicyIsAskedForAgain(t *testing.T) {
	content := []byte(`{"policy":{}}`)
	sent, asked := 0, 0
	tagged := true
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasSuffix(r.URL.Path, "/"+PolicyName) {
			http.NotFound(w, r)
			return
		}
		asked++
		if tagged {
			w.Header().Set("ETag", `"`+string(content[2:5])+`"`)
		}
		counted := &countingWriter{ResponseWriter: w, n: &sent}
		http.ServeContent(counted, r, "", time.Time{}, bytes.NewReader(content))
	})
	web := newWeb(t, s.URL)
	get := func(want string) {
		t.Helper()
		b, err := Policy(t.Context(), web)
		if err != nil || string(b) != want {
			t.Fatalf("%q, %v", b, err)
		}
	}
	get(`{"policy":{}}`)
	get(`{"policy":{}}`)
	if sent != 1 || asked != 2 {
		t.Errorf("sent %d times of %d", sent, asked)
	}
	content = []byte(`{"another":1}`)
	get(`{"another":1}`)
	tagged = false
	content = []byte(`{"untagged":1}`)
	get(`{"untagged":1}`)
	content = []byte(`{"again":1}`)
	get(`{"again":1}`)
	if sent != 4 {
		t.Errorf("sent %d times", sent)
	}
}

type countingWriter struct {
	http.ResponseWriter
	n *int
}

func (w *countingWriter) WriteHeader(code int) {
	if code == http.StatusOK {
		*w.n++
	}
	w.ResponseWriter.WriteHeader(code)
}

func TestNoPolicy(t *testing.T) {
	s := serve(t, http.NotFound)
	for _, r := range []Repository{newWeb(t, s.URL), NewFolder(t.TempDir())} {
		if b, err := Policy(context.Background(), r); b != nil || err != nil {
			t.Errorf("%s: %q, %v", r, b, err)
		}
	}
}

func TestEditPolicy(t *testing.T) {
	r := NewFolder(t.TempDir())
	for _, text := range []string{"one", "two", "two"} {
		if err := r.EditPolicy(t.Context(), func([]byte) ([]byte, error) { return []byte(text), nil }); err != nil {
			t.Fatal(err)
		}
		if b, err := Policy(t.Context(), r); err != nil || string(b) != text {
			t.Errorf("%q, %v", b, err)
		}
	}
	if err := r.EditPolicy(t.Context(), func([]byte) ([]byte, error) { return nil, os.ErrInvalid }); err == nil {
		t.Error("no error")
	}
	if entries, problems, err := r.Scan(t.Context()); len(entries)+len(problems) > 0 || err != nil {
		t.Errorf("the policy passes for a package: %v, %v, %v", entries, problems, err)
	}
}

package repo

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/durable"
)

// iis answers as Internet Information Services does: names are the same in any case, what
// has an extension that is not in its list, or in web.config, is not there, nor
// is what is escaped twice, and errors are pages.
func iis(t *testing.T, dir string) http.HandlerFunc {
	type config struct {
		Maps []struct {
			Extension string `xml:"fileExtension,attr"`
		} `xml:"system.webServer>staticContent>mimeMap"`
		Filter struct {
			DoubleEscaping bool `xml:"allowDoubleEscaping,attr"`
		} `xml:"system.webServer>security>requestFiltering"`
	}
	missing := func(w http.ResponseWriter, why string) {
		w.Header().Set("Content-Type", "text/html")
		w.WriteHeader(http.StatusNotFound)
		io.WriteString(w, "<!DOCTYPE html><title>IIS 10.0 Detailed Error - "+why+"</title>")
	}
	return func(w http.ResponseWriter, r *http.Request) {
		var c config
		if b, err := os.ReadFile(filepath.Join(dir, WebConfigName)); err == nil {
			must(t, xml.Unmarshal(b, &c))
		}
		known := map[string]bool{".json": true}
		for _, m := range c.Maps {
			known[m.Extension] = true
		}
		switch {
		case !c.Filter.DoubleEscaping && strings.Contains(strings.ToLower(r.RequestURI), "%2b"):
			missing(w, "404.11")
			return
		case !known[strings.ToLower(filepath.Ext(r.URL.Path))]:
			missing(w, "404.3")
			return
		}
		entries, err := os.ReadDir(dir)
		must(t, err)
		for _, e := range entries {
			if rest, ok := strings.CutPrefix(strings.ToLower(r.URL.Path), "/medvimages/"); ok && strings.EqualFold(e.Name(), rest) {
				w.Header().Set("ETag", `"4f2be1d3b5c1d91:0"`)
				w.Header().Set("Content-Type", "application/octet-stream")
				http.ServeFile(w, r, filepath.Join(dir, e.Name()))
				return
			}
		}
		missing(w, "404.0")
	}
}

func TestWebOfIIS(t *testing.T) {
	folder := NewFolder(t.TempDir())
	const name = "Win-C++"
	index, data := testPackage(t, name, 1, 4)
	// Copied by a program that knows capitals only.
	must(t, durable.WriteFile(folder.Path(strings.ToUpper(ckm.IndexName(name, 1))), index, 0o644))
	must(t, durable.WriteFile(folder.Path(strings.ToUpper(ckm.DataName(name, 1))), data, 0o644))
	c := Catalog{Format: 1, Images: []Entry{}}
	must(t, durable.WriteFile(folder.Path("CATALOG.JSON"), c.Encode(), 0o644))
	s := serve(t, iis(t, folder.String()))
	r := newWeb(t, s.URL+"/medvimages")
	if _, err := r.List(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := r.Index(t.Context(), name, 1); !errors.Is(err, ErrNotFound) {
		t.Errorf("without web.config: %v", err)
	}
	for range 2 {
		must(t, folder.WriteWebConfig())
	}
	if b, err := r.Index(t.Context(), name, 1); err != nil || !bytes.Equal(b, index) {
		t.Error(err)
	}
	d, err := r.Data(t.Context(), name, 1)
	must(t, err)
	if b, err := readRange(d, 3, int64(len(data)-3)); err != nil || !bytes.Equal(b, data[3:]) {
		t.Error(err)
	}
	if _, err := r.Index(t.Context(), name, 2); !errors.Is(err, ErrNotFound) {
		t.Errorf("a version that is not there: %v", err)
	}
}

// Somebody else's web.config stays; one of ours, of another version, does not.
func TestWebConfigThatIsThere(t *testing.T) {
	folder := NewFolder(t.TempDir())
	others, old := []byte("<configuration></configuration>"), append(bytes.Clone(webConfig), "<!-- old -->"...)
	for _, c := range []struct {
		have, want []byte
		says       string
	}{{others, others, "move it away"}, {old, webConfig, "<nil>"}} {
		must(t, os.WriteFile(folder.Path(WebConfigName), c.have, 0o644))
		if err := folder.WriteWebConfig(); !strings.Contains(fmt.Sprint(err), c.says) {
			t.Error(err)
		}
		if b, _ := os.ReadFile(folder.Path(WebConfigName)); !bytes.Equal(b, c.want) {
			t.Errorf("%s", b)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

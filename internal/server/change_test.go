package server

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
)

// TestWhatChanges has an INDEX that is signed anew and a patch that is made anew: a
// cache must ask for both again, and must not for the CKM.
func TestWhatChanges(t *testing.T) {
	folder := repo.NewFolder(t.TempDir())
	add(t, folder, "win11", 1)
	add(t, folder, "win11", 2)
	s := start(t, Config{Folder: folder})
	index := func(version uint32) *ckm.Index {
		x, err := repo.ReadIndex(t.Context(), folder, "win11", version)
		must(t, err)
		return x
	}
	x, old := index(2), index(1)
	tags := map[string]string{}
	// changed reports whether the file is another one to a cache than last time.
	changed := func(file string) bool {
		t.Helper()
		a := s.get(file, "If-None-Match: "+tags[file])
		want, err := os.ReadFile(folder.Path(file))
		must(t, err)
		if a.StatusCode != 304 && (a.StatusCode != 200 || !bytes.Equal(a.body, want)) {
			t.Fatalf("%s: %s, %d bytes", file, a.Status, len(a.body))
		}
		if forever := strings.Contains(a.Header.Get("Cache-Control"), "immutable"); forever != strings.HasSuffix(file, ckm.DataExt) {
			t.Errorf("%s: %q", file, a.Header.Get("Cache-Control"))
		}
		tags[file] = a.Header.Get("ETag")
		return a.StatusCode == 200
	}
	files := []string{"win11_2.ckm", "win11_2.index", "win11_2.patch"}
	patch := func(parts ...ckm.PatchPart) {
		must(t, folder.AddPatch(t.Context(), "win11", 2, func(w io.Writer, _ *os.File) error {
			p := &ckm.Patch{Package: x.Digest(), Base: old.Digest(), BaseVersion: 1, Parts: parts}
			head, err := p.EncodeHead(x, old)
			if err == nil {
				_, err = w.Write(append(head, make([]byte, 7*len(parts))...))
			}
			return err
		}))
	}
	if a := s.get(files[2]); a.StatusCode != 404 {
		t.Errorf("a patch that is not there: %s", a.Status)
	}
	patch()
	for _, f := range files {
		if !changed(f) || changed(f) {
			t.Errorf("%s is not what it was", f)
		}
	}
	x.Signatures = append([]byte{0xff, 0xff, 4, 0}, "sign"...)
	b, err := x.Encode()
	must(t, err)
	must(t, durable.WriteFile(folder.Path(files[1]), b, 0o644))
	patch(ckm.PatchPart{First: 0, Count: 1, Base: []ckm.ChunkRun{{First: 0, Count: 1}}, Stored: 7})
	if changed(files[0]) || !changed(files[1]) || !changed(files[2]) {
		t.Errorf("what changed is not seen: %v", tags)
	}
	must(t, os.Remove(folder.Path(files[2])))
	if a := s.get(files[2]); a.StatusCode != 404 {
		t.Errorf("a patch that was removed: %s", a.Status)
	}
	if a := s.get("win11_3.patch"); a.StatusCode != 404 {
		t.Errorf("a patch of no package: %s", a.Status)
	}
}

package repo

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"prestage/ckm"
)

// TestPatch adds patches, and reads them from the folder and from a web server.
func TestPatch(t *testing.T) {
	f := NewFolder(t.TempDir())
	ctx := t.Context()
	add := func() *ckm.Index {
		x, _, err := f.Add(ctx, "image", func(w io.Writer) (*ckm.Index, error) {
			x := &ckm.Index{Info: ckm.Info{ChunkMin: 1, ChunkAvg: 1, ChunkMax: 1, FrameLimit: 1, Files: []ckm.File{{Path: "disk", Format: "raw"}}}}
			c, err := ckm.NewWriter(w, x)
			if err != nil {
				return nil, err
			}
			return x, c.Finish()
		})
		if err != nil {
			t.Fatal(err)
		}
		return x
	}
	old, x := add(), add()
	head, err := (&ckm.Patch{Package: x.Digest(), Base: old.Digest(), BaseVersion: 1}).EncodeHead(x, old)
	if err != nil {
		t.Fatal(err)
	}
	write := func(w io.Writer, scratch *os.File) error {
		if _, err := scratch.WriteString("put aside"); err != nil {
			return err
		}
		_, err := w.Write(head)
		return err
	}
	server := httptest.NewServer(http.FileServer(http.Dir(f.String())))
	defer server.Close()
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	web, err := NewWeb(u)
	if err != nil {
		t.Fatal(err)
	}
	check := func(r Repository, want []byte) {
		t.Helper()
		d, err := r.Patch(ctx, "image", 2)
		if want == nil {
			if !errors.Is(err, ErrNotFound) {
				t.Errorf("%s: %v", r, err)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		b, err := d.ReadRange(ctx, 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		defer b.Close()
		got, err := io.ReadAll(b)
		size, sizeErr := d.Size()
		if err != nil || !bytes.Equal(got, want[16:48]) || size != int64(len(want)) || sizeErr != nil {
			t.Errorf("%s: %x of %d, %v, %v", r, got, size, err, sizeErr)
		}
	}
	both := func(want []byte) {
		t.Helper()
		check(f, want)
		check(web, want)
	}
	both(nil)
	failed := errors.New("failed")
	if err := f.AddPatch(ctx, "image", 2, func(w io.Writer, _ *os.File) error { w.Write(head); return failed }); !errors.Is(err, failed) {
		t.Error(err)
	}
	both(nil)
	for range 2 { // there may be one already
		if err := f.AddPatch(ctx, "image", 2, write); err != nil {
			t.Fatal(err)
		}
		both(head)
	}
	if err := f.Remove(ctx, "image", 2); err != nil {
		t.Fatal(err)
	}
	both(nil)
	if err := f.AddPatch(ctx, "image", 2, write); !errors.Is(err, ErrNotFound) {
		t.Errorf("of a package that was removed: %v", err)
	}
	both(nil)
	if left, err := filepath.Glob(f.Path(".prestage-*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %q, %v", left, err)
	}
	// What is no patch is not read as one.
	if err := os.WriteFile(f.Path("image_2.patch"), []byte("<html>"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := web.Patch(ctx, "image", 2); !errors.Is(err, ckm.ErrFormat) {
		t.Error(err)
	}
}

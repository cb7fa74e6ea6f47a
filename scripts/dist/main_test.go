package main

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// The archives must not depend on when their files were made, nor on who made them.
func TestArchivesAreReproducible(t *testing.T) {
	modified := time.Unix(1_700_000_000, 0).UTC()
	pack := func(write func(io.Writer, []file, time.Time) error, sourceTime time.Time, mode os.FileMode) []byte {
		t.Helper()
		dir := t.TempDir()
		source := filepath.Join(dir, "source")
		if err := os.WriteFile(source, []byte("content"), mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(source, sourceTime, sourceTime); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := write(&b, []file{{"p/b", source, 0o755}, {"p/a", source, 0o644}}, modified); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	for name, write := range map[string]func(io.Writer, []file, time.Time) error{
		"tar.gz": writeTarGz, "zip": writeZip,
	} {
		a := pack(write, time.Unix(1, 0), 0o600)
		b := pack(write, time.Unix(2_000_000_000, 0), 0o644)
		if !bytes.Equal(a, b) {
			t.Errorf("%s: two archives of the same content differ", name)
		}
	}

	zr, err := gzip.NewReader(bytes.NewReader(pack(writeTarGz, time.Unix(1, 0), 0o600)))
	if err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(zr)
	for _, want := range []struct {
		name string
		mode int64
	}{{"p/b", 0o755}, {"p/a", 0o644}} {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		if h.Name != want.name || h.Mode != want.mode || !h.ModTime.Equal(modified) || string(body) != "content" {
			t.Errorf("tar.gz: got %s, mode %o, time %v, %q", h.Name, h.Mode, h.ModTime, body)
		}
	}

	z := pack(writeZip, time.Unix(1, 0), 0o600)
	r, err := zip.NewReader(bytes.NewReader(z), int64(len(z)))
	if err != nil {
		t.Fatal(err)
	}
	if len(r.File) != 2 || r.File[0].Name != "p/b" || r.File[0].Mode() != 0o755 || !r.File[0].Modified.Equal(modified) {
		t.Errorf("zip: got %d files, first %s, mode %v, time %v",
			len(r.File), r.File[0].Name, r.File[0].Mode(), r.File[0].Modified)
	}
}

func TestSumsNameEveryFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "x"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"b", "x/c", "a"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := writeSums(dir); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	if err != nil {
		t.Fatal(err)
	}
	const empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	if want := empty + "  a\n" + empty + "  b\n" + empty + "  x/c\n"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRunRefusesFolderInUse(t *testing.T) {
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	out := t.TempDir()
	kept := filepath.Join(out, "kept")
	if err := os.WriteFile(kept, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := run("1.0.0", out, []string{"linux/amd64"}); err == nil {
		t.Error("a folder with files in it was accepted")
	}
	if _, err := os.Stat(kept); err != nil {
		t.Error(err)
	}
}

func TestRunRefusesVersionThatIsNoFileName(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for _, version := range []string{"", "../1", "1 -X main.x=y", "-1"} {
		if err := run(version, out, []string{"linux/amd64"}); err == nil {
			t.Errorf("version %q was accepted", version)
		}
	}
}

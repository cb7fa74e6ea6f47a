package deflate

import (
	"archive/zip"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// Files as they are in what systems are installed from, next to each other.
func TestFind(t *testing.T) {
	testenv.Need(t, "gzip", "zip")
	dir := t.TempDir()
	text := [][]byte{testenv.Text(1, 90_000), testenv.Text(2, 20_000), testenv.Text(3, 200_000), testenv.Text(4, 5000)}
	for i, p := range text {
		if err := os.WriteFile(filepath.Join(dir, string(rune('a'+i))), p, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parts := [][]byte{
		testenv.Random(1, 5000),
		run(t, dir, nil, "gzip", "-9nc", "a"),
		run(t, dir, nil, "gzip", "-c", "b"), // with a name
		run(t, dir, nil, "zip", "-q", "-", "c", "d"),
		[]byte("PK\x03\x04"), []byte("\x1f\x8b\x08"),
	}
	p := bytes.Join(parts, nil)
	var f Inflater
	var e Encoder
	found := all(&f, p, 1<<20)
	if len(found) != len(text) {
		t.Fatalf("%d members, should be %d", len(found), len(text))
	}
	for i, want := range []Maker{Gzip | 9, Gzip | 6, Gzip | 6, Gzip | 6} {
		if !bytes.Equal(found[i].Inflated, text[i]) {
			t.Errorf("member %d has other content", i)
		}
		m, ok := e.Maker(p, found[i])
		if !ok || m != want && i < 3 {
			t.Errorf("member %d: %#x, %v", i, m, ok)
		}
	}

	// What is not whole, stored, encrypted, or too much.
	if found := all(&f, p[:len(parts[0])+len(parts[1])-30], 1<<20); len(found) != 0 {
		t.Errorf("cut: %d", len(found))
	}
	if found := all(&f, p, 100_000); len(found) != len(text)-1 {
		t.Errorf("with little room: %d", len(found))
	}
	var stored bytes.Buffer
	z := zip.NewWriter(&stored)
	w, err := z.CreateHeader(&zip.FileHeader{Name: "x", Method: zip.Store})
	if err == nil {
		_, err = w.Write(text[1])
	}
	if err := errors.Join(err, z.Close()); err != nil {
		t.Fatal(err)
	}
	if found := all(&f, stored.Bytes(), 1<<20); len(found) != 0 {
		t.Errorf("stored: %d", len(found))
	}
	secret := bytes.Clone(parts[3])
	secret[6] |= 1
	if found := all(&f, secret, 1<<20); len(found) != 1 {
		t.Errorf("one of two encrypted: %d", len(found))
	}

	// An encoder of another kind.
	other := bytes.Clone(p)
	s := found[0]
	other = append(other[:s.Offset], e.made(nil, text[0], Zlib|4)...)
	found = all(&f, other, 1<<20)
	if len(found) != 1 {
		t.Fatalf("%d members", len(found))
	}
	if m, ok := e.Maker(other, found[0]); ok {
		t.Errorf("seen as made by %#x", m)
	}
}

// all returns what Find finds.
func all(f *Inflater, p []byte, most int) (found []Member) {
	for m := range f.Find(p, most) {
		m.Inflated = bytes.Clone(m.Inflated)
		found = append(found, m)
	}
	return found
}

func TestInflate(t *testing.T) {
	var e Encoder
	var f Inflater
	in := testenv.Text(1, 10_000)
	member := e.made(nil, in, Zlib|6)
	for _, c := range []struct {
		p    []byte
		most int
		ok   bool
	}{
		{member, len(in), true}, {member, len(in) - 1, false}, {member[:len(member)-1], len(in), false}, {nil, 10, false},
		{append(bytes.Clone(member), member...), 2 * len(in), true}, {[]byte("no member"), 100, false},
	} {
		out, n, err := f.Append([]byte("x"), c.p, c.most)
		if c.ok && (err != nil || n != len(member) || !bytes.Equal(out[1:], in)) {
			t.Errorf("%d bytes, at most %d: %d from %d, %v", len(c.p), c.most, len(out), n, err)
		}
		if !c.ok && !errors.Is(err, ErrMember) {
			t.Errorf("%d bytes, at most %d: %v", len(c.p), c.most, err)
		}
	}
}

// Headers in headers, before what decompresses to very much: each would be tried.
func TestFindInVain(t *testing.T) {
	var p []byte
	for range 20_000 {
		p = append(p, 0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 0, 10, 0, 0xf5, 0xff)
	}
	p = append(p, new(Encoder).made(nil, make([]byte, 20<<20), Zlib|9)...)
	var f Inflater
	began := time.Now()
	if found := all(&f, p, 16<<20); len(found) > 0 {
		t.Errorf("%d were found", len(found))
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}

package bundle

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"prestage/ckm"
)

// sample returns a good manifest with two images.
func sample(t testing.TB) *Manifest {
	t.Helper()
	s, err := NewSettings(DefaultVMSFolder, "https://images.example")
	if err != nil {
		t.Fatal(err)
	}
	m := &Manifest{Format: 1, Created: time.Unix(1780000000, 0).UTC(), Creator: "prestage test", Settings: s, Images: []string{"other:1", "win11:2"}}
	for _, path := range []string{"Client.MSI", "MEDVImages/other_1.ckm", "MEDVImages/other_1.index", "MEDVImages/win11_2.ckm",
		"MEDVImages/win11_2.index", "README.txt", "prestage.exe", "start.cmd"} {
		m.Files = append(m.Files, File{path, 1000, noDigest, noDigest})
	}
	return m
}

func encoded(t testing.TB, m *Manifest) []byte {
	t.Helper()
	b, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestParseManifest(t *testing.T) {
	b := encoded(t, sample(t))
	m, err := ParseManifest(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(encoded(t, m), b) {
		t.Error("what was read is not what was written")
	}
	n, err := m.contents()
	if err != nil || n != 8000+int64(len(b)) {
		t.Errorf("the bundle has %d bytes, %v", n, err)
	}
}

// A manifest that could lead anywhere but to the bundle's own files, or that
// can be read in two ways, is refused.
func TestParseManifestRefuses(t *testing.T) {
	good := string(encoded(t, sample(t)))
	for name, change := range map[string][2]string{
		"a path upwards":      {`"Client.MSI"`, `"../Client.MSI"`},
		"an absolute path":    {`"Client.MSI"`, `"/Client.MSI"`},
		"a drive":             {`"Client.MSI"`, `"C:Client.MSI"`},
		"a backslash":         {`"MEDVImages/win11_2.ckm"`, `"MEDVImages\\win11_2.ckm"`},
		"a device":            {`"README.txt"`, `"NUL"`},
		"another file":        {`"README.txt"`, `"READTHIS.txt"`},
		"a file twice":        {`"start.cmd"`, `"prestage.exe"`},
		"an image twice":      {`"win11:2"`, `"other:1"`},
		"images out of order": {`"other:1"`, `"zzz:1"`},
		"an image's version":  {`"win11:2"`, `"win11"`},
		"an image's file":     {`"win11:2"`, `"win11:3"`},
		"an image's name":     {`other`, `%TEMP%`},
		"a negative size":     {`"size": 1000`, `"size": -1`},
		"sizes without bound": {`"size": 1000`, `"size": 4611686018427387904`},
		"a size beyond all":   {`"size": 1000`, `"size": 99999999999999999999`},
		"a short digest":      {noDigest, noDigest[2:]},
		"a loud digest":       {noDigest, "AA" + noDigest[2:]},
		"a key twice":         {`"format": 1,`, `"format": 1,` + "\n" + `  "format": 1,`},
		"a key in capitals":   {`"creator"`, `"Creator"`},
		"an unknown key":      {`"format": 1,`, `"format": 1,` + "\n" + `  "also": 1,`},
		"another time zone":   {`Z"`, `+02:00"`},
		"a relative store":    {`C:\\MED-V Images`, `MED-V Images`},
		"another store":       {`C:\\MED-V Images`, `C:\\Images`},
		"a store for cmd":     {`C:\\MED-V Images`, `C:\\%A%\\MED-V Images`},
		"another server":      {`/MEDVImages/"`, `/else/"`},
		"a server's spelling": {`/MEDVImages/"`, `"`},
		"more at the end":     {"]\n}\n", "]\n}\n{}\n"},
		"an older format":     {`"format": 1`, `"format": 0`},
	} {
		bad := strings.Replace(good, change[0], change[1], 1)
		if name == "an image's name" {
			bad = strings.ReplaceAll(good, change[0], change[1])
		}
		if bad == good {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := ParseManifest([]byte(bad)); !errors.Is(err, ckm.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, b := range map[string][]byte{"nothing": nil, "too much": make([]byte, maxManifest+1), "a cut": []byte(good)[:len(good)/2]} {
		if _, err := ParseManifest(b); !errors.Is(err, ckm.ErrFormat) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseManifest([]byte(`{"format": 2, "more": true}`)); !errors.Is(err, ckm.ErrUnsupported) {
		t.Errorf("a newer format: %v", err)
	}
}

// The case of letters must not matter for two images of one bundle.
func TestImagesThatDifferInCaseAlone(t *testing.T) {
	m := sample(t)
	m.Images = []string{"WIN11:2", "win11:2"}
	for i, path := range []string{"Client.MSI", "MEDVImages/WIN11_2.ckm", "MEDVImages/WIN11_2.index"} {
		m.Files[i].Path = path
	}
	if err := m.check(); err == nil || !strings.Contains(err.Error(), "in case alone") {
		t.Errorf("two images that one file system cannot hold: %v", err)
	}
}

// FuzzParseManifest: what is accepted says the same when it is written again,
// and leads to no file but the bundle's own.
func FuzzParseManifest(f *testing.F) {
	good := encoded(f, sample(f))
	f.Add(good)
	f.Add(bytes.Replace(good, []byte("Client.MSI"), []byte("../../etc/passwd"), 1))
	f.Add([]byte(`{"format": 2}`))
	f.Fuzz(func(t *testing.T, p []byte) {
		m, err := ParseManifest(p)
		if err != nil {
			if !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrUnsupported) {
				t.Fatalf("an error without a kind: %v", err)
			}
			return
		}
		if !bytes.Equal(encoded(t, m), p) {
			t.Fatal("what was accepted is written differently")
		}
		for _, file := range m.Files {
			if strings.Contains(file.Path, "..") && !strings.HasPrefix(file.Path, ImagesFolder+"/") || strings.Count(file.Path, "/") > 1 || strings.ContainsAny(file.Path, `\:`) {
				t.Fatalf("the path %q was accepted", file.Path)
			}
		}
		start, readme, err := m.render()
		if err != nil {
			t.Fatal(err)
		}
		lines := bytes.Count(start, []byte("\r\n"))
		if lines != bytes.Count(start, []byte("\n")) || lines != bytes.Count(start, []byte("\r")) || !isASCII(start) || len(readme) == 0 {
			t.Fatalf("start.cmd has lines of its own:\n%s", start)
		}
	})
}

func isASCII(b []byte) bool {
	return !bytes.ContainsFunc(b, func(r rune) bool { return r > 0x7e || r < ' ' && r != '\r' && r != '\n' })
}

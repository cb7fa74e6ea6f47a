package sign

import (
	"bytes"
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"prestage/ckm"
)

// newKey makes a key; public is its line.
func newKey(t testing.TB) (k Key, public string) {
	t.Helper()
	k, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return k, k.PublicLine()
}

// newIndex returns the index of an image without data.
func newIndex(t testing.TB, version uint32) *ckm.Index {
	t.Helper()
	x := &ckm.Index{Info: ckm.Info{Name: "win11", Version: version, FrameLimit: 1, CKMLength: ckm.HeaderSize + ckm.TrailerSize,
		Content: ckm.Sum(nil), Files: []ckm.File{{Path: "a.img"}}}}
	if _, err := x.Encode(); err != nil {
		t.Fatal(err)
	}
	return x
}

func trust(t testing.TB, lines ...string) Trust {
	t.Helper()
	tr, err := ParseTrust(lines)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func TestTrust(t *testing.T) {
	one, oneLine := newKey(t)
	two, twoLine := newKey(t)
	signed := func(version uint32, keys ...Key) *ckm.Index {
		x := newIndex(t, version)
		for _, k := range keys {
			if err := k.Sign(x, time.Unix(1780000000, 0)); err != nil {
				t.Fatal(err)
			}
		}
		return x
	}
	moved := signed(1)
	moved.Signatures = signed(2, one).Signatures
	same := two // a key that names the ID of another one
	text, err := two.SecretFile("")
	if err == nil {
		same, err = ParseKey(withID(t, text, one), nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		trust Trust
		x     *ckm.Index
		want  string // of the error
	}{
		"nothing asked for":        {trust(t), signed(1), ""},
		"unsigned":                 {trust(t, oneLine), signed(1), "win11:1 is not signed by a trusted key: it has no signature"},
		"signed":                   {trust(t, oneLine), signed(1, one), ""},
		"the other key":            {trust(t, oneLine), signed(1, two), "it is signed by " + two.ID().String()},
		"signed twice, the first":  {trust(t, oneLine), signed(1, one, two), ""},
		"signed twice, the second": {trust(t, twoLine), signed(1, one, two), ""},
		"either key":               {trust(t, oneLine, twoLine), signed(1, two), ""},
		"another version's":        {trust(t, oneLine), moved, "the signature that names the key " + one.ID().String() + " is wrong"},
		"an ID that is not its":    {trust(t, oneLine), signed(1, same), "is wrong"},
		"one wrong, one right":     {trust(t, oneLine, twoLine), signed(1, same, two), ""},
	} {
		err := c.trust.Check(c.x)
		if c.want == "" && err != nil || c.want != "" && (!errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		encoded, encodeErr := c.x.Encode()
		if encodeErr != nil {
			t.Fatal(encodeErr)
		}
		h, headErr := ckm.DecodeHead(encoded)
		if headErr != nil {
			t.Fatal(headErr)
		}
		if again := c.trust.CheckHead(h, c.x.Signatures); (again == nil) != (err == nil) {
			t.Errorf("%s: by its head: %v", name, again)
		}
	}
	x := signed(1, one, two)
	got := trust(t, oneLine).Signers(x)
	if len(got) != 2 || got[0].Verdict == got[1].Verdict || got[0].Comment != "timestamp:1780000000\tfile:win11_1.statement\thashed" {
		t.Errorf("signers %+v", got)
	}
	if err := trust(t, oneLine).CheckHead(new(ckm.Head), []byte{1}); !errors.Is(err, ckm.ErrFormat) {
		t.Errorf("a block that is none: %v", err)
	}
}

// withID returns the text of a secret key with the ID of another one.
func withID(t testing.TB, text []byte, id Key) []byte {
	t.Helper()
	other, err := id.SecretFile("")
	if err != nil {
		t.Fatal(err)
	}
	a, b := decodeSecret(t, text), decodeSecret(t, other)
	copy(a[54:62], b[54:62])
	return encodeSecret(a)
}

func decodeSecret(t testing.TB, text []byte) []byte {
	t.Helper()
	_, line, _ := strings.Cut(string(text), "\n")
	b, err := base64.StdEncoding.DecodeString(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func encodeSecret(b []byte) []byte {
	return []byte("untrusted comment: x\n" + base64.StdEncoding.EncodeToString(b) + "\n")
}

// A key that is damaged signs nothing: what it would sign could tell of its secret.
func TestParseKey(t *testing.T) {
	k, line := newKey(t)
	open, err := k.SecretFile("")
	if err != nil {
		t.Fatal(err)
	}
	never := func() (string, error) { t.Error("a password was asked for"); return "", nil }
	again, err := ParseKey(open, never)
	if err != nil || again.PublicLine() != line {
		t.Errorf("read again: %v", err)
	}
	for at := 62; at < 62+64; at += 9 { // in both halves
		b := decodeSecret(t, open)
		b[at] ^= 1
		if _, err := ParseKey(encodeSecret(b), never); !errors.Is(err, ErrPassword) {
			t.Errorf("byte %d changed: %v", at, err)
		}
	}
	for _, text := range []string{"", "x", line, "untrusted comment: x\n", string(open[:len(open)/2])} {
		if _, err := ParseKey([]byte(text), never); err == nil {
			t.Errorf("%q was taken for a key", text)
		}
	}
	public, err := k.PublicFile()
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{line, " " + line + "\r\n", string(public)} {
		if _, err := ParsePublicKey(text); err != nil {
			t.Errorf("%q: %v", text, err)
		}
	}
	for _, text := range []string{"", "RW", line[1:], line + "A", string(open)} {
		if _, err := ParseTrust([]string{line, text}); err == nil {
			t.Errorf("%q was taken for a public key", text)
		}
	}
}

// cheapKey is a key that is encrypted as minisign does it, but at a cost that
// tests can pay: 1 MiB of memory. Its password is "open sesame".
const cheapKey = "untrusted comment: minisign encrypted secret key\n" +
	"RWRTY0IyYSBzYWx0IG9mIDMyIGJ5dGVzLCBmb3IgYSBmaXh0dXIAgAAAAAAAAAAAAAEAAAAAajFG3rePby+q6ZbyyhKLVizMpuiuQ5r8uwaNDUDNf0ECsRg+PLx+mgrFHHtJWmCnt81XoGNgCdKiYzF2hJ6AC+/8Zt5eF8Ihx4LBi1nwaEjG5IMXxRiE90gPTVAPxtjoE6o3uHR9bLw=\n"

func TestEncryptedKey(t *testing.T) {
	for password, want := range map[string]error{"open sesame": nil, "open barley": ErrPassword, "": ErrPassword} {
		k, err := ParseKey([]byte(cheapKey), func() (string, error) { return password, nil })
		if !errors.Is(err, want) || err == nil && k.ID().String() != "5D3DC0B5AA815A3D" {
			t.Errorf("%q: %v", password, err)
		}
	}
	cause := errors.New("nobody there")
	if _, err := ParseKey([]byte(cheapKey), func() (string, error) { return "", cause }); !errors.Is(err, cause) {
		t.Error(err)
	}
}

// FuzzParse checks that whatever is read as a key or a signature can be written
// and read again. Encrypted keys take too long.
func FuzzParse(f *testing.F) {
	k, line := newKey(f)
	x := newIndex(f, 1)
	secret, _ := k.SecretFile("")
	public, _ := k.PublicFile()
	f.Add([]byte(line))
	f.Add(public)
	f.Add(secret)
	f.Add(minisig(k.statement(x.Statement(x.Digest()), "a comment")))
	f.Fuzz(func(t *testing.T, text []byte) {
		if p, err := ParsePublicKey(string(text)); err == nil {
			if again, err := ParsePublicKey(p.String()); err != nil || !again.Equal(p) {
				t.Fatal(err)
			}
		}
		if s, err := parseMinisig(text); err == nil {
			if again, err := parseMinisig(minisig(s)); err != nil || again != s {
				t.Fatalf("%+v became %+v, %v", s, again, err)
			}
			if add(x, s) == nil && trust(t, line).Check(x) == nil && s.Key != k.ID() {
				t.Fatal("somebody else's signature counts")
			}
			x.Signatures = nil
		}
		k, err := ParseKey(text, func() (string, error) { return "", errors.New("encrypted") })
		if err == nil {
			b, err := k.SecretFile("")
			if again, err2 := ParseKey(b, nil); err != nil || err2 != nil || again.PublicLine() != k.PublicLine() {
				t.Fatal(err, err2)
			}
			if !bytes.Contains(b, []byte("untrusted comment: ")) {
				t.Fatal("no comment")
			}
		}
	})
}

package settings

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"unicode/utf16"
)

// memory is a registry in memory; the real one is tried where there is one.
type memory struct {
	values map[string]value // by key\name
	is32   bool
	locked bool
}

func newMemory() *memory { return &memory{values: map[string]value{}} }

func (m *memory) Get(key, name string) (uint32, []byte, error) {
	v, ok := m.values[key+`\`+name]
	if !ok {
		return 0, nil, fs.ErrNotExist
	}
	return v.kind, v.data, nil
}

func (m *memory) put(key, name string, kind uint32, data []byte) error {
	if m.locked {
		return fmt.Errorf("access is denied: %w", fs.ErrPermission)
	}
	m.values[key+`\`+name] = value{kind: kind, data: data}
	return nil
}

func (m *memory) SetText(key, name, v string) error { return m.put(key, name, regSZ, utf16z(v)) }

func (m *memory) SetTexts(key, name string, v []string) error {
	return m.put(key, name, regMultiSZ, utf16z(strings.Join(v, "\x00")+"\x00"))
}

func (m *memory) SetNumber(key, name string, v uint32) error {
	return m.put(key, name, regDWord, binary.LittleEndian.AppendUint32(nil, v))
}

func (m *memory) Expand(s string) (string, error) {
	return strings.ReplaceAll(s, "%SystemDrive%", "C:"), nil
}

func (m *memory) Is64Bit() bool { return !m.is32 }

func utf16z(s string) (b []byte) {
	for _, u := range utf16.Encode([]rune(s + "\x00")) {
		b = binary.LittleEndian.AppendUint16(b, u)
	}
	return b
}

func (m *memory) text(key, name string) string {
	v := m.values[key+`\`+name]
	s, _ := decode(v.data)
	return strings.TrimRight(s, "\x00")
}

func load(t *testing.T, m *memory) Settings {
	t.Helper()
	s, err := Registry(m).Load()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

const staged = `D:\data\MED-V Images\PrestagedImages`

// Row S9: the canonical value first, then the literal one; what is written goes
// to the canonical one, and to the literal one where it exists.
func TestS9Location(t *testing.T) {
	m := newMemory()
	if s := load(t, m); !reflect.DeepEqual(s, Settings{}) {
		t.Errorf("an empty registry gives %+v", s)
	}
	m.SetText(literalKey, pathName, `E:\MED-V Images\PrestagedImages`)
	if got := load(t, m).PrestagedImagesPath; got != `E:\MED-V Images\PrestagedImages` {
		t.Errorf("the literal value gives %q", got)
	}
	if err := Registry(m).Save(Settings{PrestagedImagesPath: staged}); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{canonicalKey, literalKey} {
		if got := m.text(key, pathName); got != staged {
			t.Errorf("%s holds %q", key, got)
		}
	}
	m.SetText(literalKey, pathName, `F:\MED-V Images\PrestagedImages`)
	if got := load(t, m).PrestagedImagesPath; got != staged {
		t.Errorf("beside a literal one, the canonical value gives %q", got)
	}

	m = newMemory()
	if err := Registry(m).Save(Settings{PrestagedImagesPath: staged}); err != nil {
		t.Fatal(err)
	}
	if len(m.values) != 1 {
		t.Errorf("where there was no literal value, there is one now: %v", m.values)
	}

	// On 32-bit Windows there is one place alone.
	m = newMemory()
	m.is32 = true
	m.SetText(literalKey, pathName, staged)
	if got := load(t, m).PrestagedImagesPath; got != "" {
		t.Errorf("32-bit Windows: SOFTWARE itself was read: %q", got)
	}
	if got := Registry(m).String(); got != `HKLM\SOFTWARE\Kidaro` {
		t.Errorf("32-bit Windows: %s", got)
	}
	if got := Registry(newMemory()).String(); got != `HKLM\SOFTWARE\WOW6432Node\Kidaro` {
		t.Errorf("64-bit Windows: %s", got)
	}
}

func TestPolicyWins(t *testing.T) {
	m := newMemory()
	m.SetText(canonicalKey, pathName, staged)
	m.SetText(policyKey, pathName, `P:\MED-V Images\PrestagedImages`)
	if got := load(t, m).PrestagedImagesPath; got != `P:\MED-V Images\PrestagedImages` {
		t.Errorf("the path is %q", got)
	}
	err := Registry(m).Save(Settings{PrestagedImagesPath: staged})
	if err == nil || !strings.Contains(err.Error(), `group policy sets HKLM\SOFTWARE\Policies\Kidaro\PrestagedImagesPath`) {
		t.Errorf("saving against a policy: %v", err)
	}
}

// Group policy says which keys count, also that none do; what is no list of keys
// is an error there too.
func TestPolicyOfTrustedKeys(t *testing.T) {
	m := newMemory()
	m.SetTexts(canonicalKey, trustName, []string{publicKey})
	if s := load(t, m); len(s.TrustedKeys) != 1 {
		t.Errorf("without a policy: %v", s.TrustedKeys)
	}
	m.SetTexts(policyKey, trustName, []string{publicKey, publicKey})
	if s := load(t, m); len(s.TrustedKeys) != 2 {
		t.Errorf("with a policy: %v", s.TrustedKeys)
	}
	if err := Registry(m).Save(Settings{TrustedKeys: []string{publicKey}}); err == nil || !strings.Contains(err.Error(), `group policy sets HKLM\SOFTWARE\Policies\Kidaro\TrustedKeys`) {
		t.Errorf("saving against a policy: %v", err)
	}
	m.SetText(policyKey, trustName, "")
	if s := load(t, m); len(s.TrustedKeys) != 0 {
		t.Errorf("with an empty policy: %v", s.TrustedKeys)
	}
	m.SetText(policyKey, trustName, "RW")
	if _, err := Registry(m).Load(); !OnlyBad(err, "TrustedKeys") {
		t.Errorf("with a bad policy: %v", err)
	}
}

func TestRegistryKeepsAll(t *testing.T) {
	for _, server := range []string{"http://medv01/MEDVImages/", "https://medv01:8443/MEDVImages/", "https://[2001:db8::1]/MEDVImages/",
		"https://images.example/other/place?x=1", `\\server\share\MEDVImages`} {
		m := newMemory()
		want := Settings{PrestagedImagesPath: staged, VMSFolder: `C:\MED-V Images`, Server: server,
			Images: []string{"win11", "büro"}, ACLProfile: Strict, TrustedKeys: []string{publicKey, publicKey}}
		if err := Registry(m).Save(want); err != nil {
			t.Fatal(err)
		}
		if got := load(t, m); !reflect.DeepEqual(got, want) {
			t.Errorf("loaded %+v, want %+v", got, want)
		}
	}
}

func TestServerValues(t *testing.T) {
	for _, c := range []struct {
		address, port, ssl string
		want               string
	}{
		{"medv01", "", "", "http://medv01/MEDVImages/"},
		{"medv01", "8080", "0", "http://medv01:8080/MEDVImages/"},
		{"medv01", "443", "1", "https://medv01/MEDVImages/"},
		{"2001:db8::1", "80", "1", "https://[2001:db8::1]:80/MEDVImages/"},
		{"https://x.example/y", "8080", "1", "https://x.example/y"},
		{"", "8080", "1", ""},
	} {
		m := newMemory()
		for name, v := range map[string]string{addressName: c.address, portName: c.port, sslName: c.ssl} {
			if v != "" {
				m.SetText(canonicalKey, name, v)
			}
		}
		if got := load(t, m).Server; got != c.want {
			t.Errorf("%+v gives %q", c, got)
		}
	}
}

// Values that cannot be meant are named with their place; what is right beside
// them is still known.
func TestBadRegistryValues(t *testing.T) {
	odd := utf16z("C:\\x")[:5]
	for name, c := range map[string]struct {
		value string
		kind  uint32
		data  []byte
		want  string
	}{
		"a number":        {pathName, regDWord, []byte{1, 0, 0, 0}, `HKLM\SOFTWARE\WOW6432Node\Kidaro\PrestagedImagesPath is of type REG_DWORD and must be a REG_SZ`},
		"a list":          {pathName, regMultiSZ, utf16z("C:\\x\x00"), "REG_MULTI_SZ"},
		"relative":        {pathName, regSZ, utf16z(`MED-V Images\PrestagedImages`), "must be an absolute path"},
		"no drive":        {pathName, regSZ, utf16z(`\MED-V Images\PrestagedImages`), "has no drive"},
		"drive-relative":  {pathName, regSZ, utf16z(`C:MED-V Images`), `no \ after the drive`},
		"quotes":          {pathName, regSZ, utf16z(`"C:\MED-V Images\PrestagedImages"`), "quotation marks"},
		"a variable":      {pathName, regSZ, utf16z(`%SystemDrive%\MED-V Images`), "REG_EXPAND_SZ"},
		"unknown":         {pathName, regExpandSZ, utf16z(`%NoSuch%\MED-V Images`), "no environment variable NoSuch"},
		"dots":            {pathName, regSZ, utf16z(`C:\a\..\b`), ".."},
		"odd bytes":       {pathName, regSZ, odd, "UTF-16"},
		"two texts":       {pathName, regSZ, utf16z("C:\\a\x00C:\\b"), "several texts"},
		"a stream":        {pathName, regSZ, utf16z(`C:\a:b`), "no path has"},
		"a server alone":  {pathName, regSZ, utf16z(`\\server`), "a server and a share"},
		"store":           {storeName, regSZ, utf16z("x"), "absolute"},
		"port":            {portName, regDWord, []byte{0, 0, 1, 0}, "must be a port"},
		"port in words":   {portName, regSZ, utf16z("http"), "must be a number"},
		"ssl":             {sslName, regDWord, []byte{2, 0, 0, 0}, "1 (https) or 0 (http)"},
		"server":          {addressName, regSZ, utf16z("medv 01"), "name or address of a server"},
		"server and port": {addressName, regSZ, utf16z("medv01:80"), "without a port"},
		"no key":          {trustName, regMultiSZ, utf16z(publicKey + "\x00RWx\x00"), `Kidaro\TrustedKeys holds what is no list of public keys: "RWx" is no public key`},
		"keys as numbers": {trustName, regDWord, []byte{1, 0, 0, 0}, "REG_DWORD"},
		"profile":         {profileName, regSZ, utf16z("lax"), `"recommended" or "strict"`},
	} {
		m := newMemory()
		m.SetTexts(canonicalKey, imagesName, []string{"win11"})
		m.put(canonicalKey, c.value, c.kind, c.data)
		s, err := Registry(m).Load()
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
		if len(s.Images) != 1 {
			t.Errorf("%s: other values were lost", name)
		}
		if OnlyBad(err, "PrestagedImagesPath") != (c.value == pathName) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Two bad values: the path is not the only one.
	m := newMemory()
	m.SetText(canonicalKey, pathName, "x")
	m.SetText(canonicalKey, storeName, "x")
	if _, err := Registry(m).Load(); OnlyBad(err, "PrestagedImagesPath") {
		t.Errorf("error %v", err)
	}
}

func TestSpellingsOfPaths(t *testing.T) {
	for s, want := range map[string]string{
		`C:\MED-V Images\PrestagedImages\`:       `C:\MED-V Images\PrestagedImages`,
		`c:/MED-V Images//PrestagedImages/.`:     `c:\MED-V Images\PrestagedImages`,
		`C:\`:                                    `C:\`,
		`\\server\share\MED-V Images\`:           `\\server\share\MED-V Images`,
		`//server/share`:                         `\\server\share`,
		`\\?\C:\MED-V Images`:                    `C:\MED-V Images`,
		`\\?\UNC\server\share\MED-V Images`:      `\\server\share\MED-V Images`,
		`\\?\unc\server\share\MED-V Images`:      `\\server\share\MED-V Images`,
		`D:\100% sure`:                           `D:\100% sure`,
		`C:\` + strings.Repeat(`long name\`, 40): `C:\` + strings.TrimSuffix(strings.Repeat(`long name\`, 40), `\`),
	} {
		if got, err := cleanPath(s, regSZ); err != nil || got != want {
			t.Errorf("%s became %s, %v", s, got, err)
		}
	}
	m := newMemory()
	m.put(canonicalKey, pathName, regExpandSZ, utf16z(`%SystemDrive%\MED-V Images\PrestagedImages`))
	if got := load(t, m).PrestagedImagesPath; got != `C:\MED-V Images\PrestagedImages` {
		t.Errorf("a REG_EXPAND_SZ gives %q", got)
	}
	// As some programs write them: no zero at the end.
	m.put(canonicalKey, pathName, regSZ, utf16z(staged)[:2*len(staged)])
	if got := load(t, m).PrestagedImagesPath; got != staged {
		t.Errorf("without a zero at the end: %q", got)
	}
}

func TestSavingNeedsAnAdministrator(t *testing.T) {
	m := newMemory()
	m.locked = true
	err := Registry(m).Save(Settings{VMSFolder: `C:\x`})
	if !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), "only an administrator of the machine") {
		t.Errorf("error %v", err)
	}
}

func FuzzRegistry(f *testing.F) {
	f.Add(uint32(regSZ), utf16z(staged))
	f.Add(uint32(regExpandSZ), utf16z(`%SystemDrive%\x`))
	f.Add(uint32(regMultiSZ), utf16z("a\x00b\x00"))
	f.Add(uint32(regDWord), []byte{80, 0, 0, 0})
	f.Fuzz(func(t *testing.T, kind uint32, data []byte) {
		m := newMemory()
		for _, name := range []string{pathName, addressName, portName, imagesName} {
			m.put(canonicalKey, name, kind, data)
		}
		s, _ := Registry(m).Load()
		if p := s.PrestagedImagesPath; p != "" {
			if again, err := cleanPath(p, regExpandSZ); err != nil || again != p {
				t.Errorf("%q is not clean: %q, %v", p, again, err)
			}
		}
	})
}

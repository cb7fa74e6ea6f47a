package ckm_test

import (
	"strings"
	"testing"
	"unicode"

	"prestage/ckm"
)

func TestCheckName(t *testing.T) {
	good := []string{
		"a", "win11", "Windows-11_24H2", "a.b", "x_1", "_", "_.ckm", "9", "größe", "映像", "a'b", "a(b)[c]{d}!#$%&+,;=@^`~",
		"CO", "COM", "COM10", "COMx", "LPT", "xCON", "CON1", "NULL", "CONIN", "AUXILIARY", "PrestagedImages2", "x.con",
		strings.Repeat("n", 100), strings.Repeat("é", 50),
	}
	for _, name := range good {
		if err := ckm.CheckName(name); err != nil {
			t.Errorf("CheckName(%q): %v", name, err)
		}
	}
	bad := []struct{ name, why string }{
		{"", "empty"},
		{strings.Repeat("n", 101), "longer"},
		{strings.Repeat("é", 50) + "x", "longer"},
		{"a\xff", "UTF-8"},
		{"a\xed\xa0\x80", "UTF-8"}, // half a surrogate pair
		{"a\xc0\xafb", "UTF-8"},    // an overlong /
		// The characters that MED-V forbids, and the space.
		{`a"b`, "not allowed"}, {"a<b", "not allowed"}, {"a>b", "not allowed"}, {"a|b", "not allowed"}, {`a\b`, "not allowed"},
		{"a/b", "not allowed"}, {"a:b", "not allowed"}, {"a*b", "not allowed"}, {"a?b", "not allowed"},
		{"a b", `use for instance "a-b"`}, {" a", "space"}, {"a ", "space"}, {"a\tb", "space"}, {"a\nb", "space"},
		{"a\u00a0b", "space"}, {"a\u3000b", "space"}, {"a\u2028b", "space"},
		{" ", "space"},
		{"a\x00", "control"}, {"a\x07", "control"}, {"a\x7f", "control"}, {"a\u0080", "control"}, {"a\u009f", "control"},
		{"a\u202eb", "control"}, {"a\u2066b", "control"}, {"a\u200eb", "control"}, // they turn text around
		{"a\u0085b", "space"}, // a control character as well
		{".", "begin"}, {"..", "begin"}, {".hidden", "begin"}, {"-rf", "begin"}, {"a.", "begin"}, {"a..", "begin"},
		{"CON", "reserved"}, {"con", "reserved"}, {"Con.x", "reserved"}, {"prn", "reserved"}, {"AUX", "reserved"}, {"nul", "reserved"},
		{"NUL.tar.gz", "reserved"}, {"conin$", "reserved"}, {"CONOUT$", "reserved"}, {"CONOUT$.x", "reserved"},
		{"COM0", "reserved"}, {"com9", "reserved"}, {"lpt0", "reserved"}, {"LPT9.img", "reserved"}, {"Com1.a.b", "reserved"},
		{"COM¹", "reserved"}, {"lpt²", "reserved"}, {"COM³.x", "reserved"}, // Windows takes these digits, too
		{"PrestagedImages", "reserved"}, {"prestagedimages", "reserved"}, {"PRESTAGEDIMAGES", "reserved"},
	}
	for _, c := range bad {
		refuse(t, ckm.CheckName(c.name), nil, c.why)
	}
}

// The format names a version of Unicode. A newer Go may bring a newer one, by
// which packages that were good would be refused: then the tables that names.go
// uses must be kept, not this test changed.
func TestUnicodeVersion(t *testing.T) {
	if unicode.Version != "15.0.0" {
		t.Errorf("Go's tables are of Unicode %s, the format asks for 15.0", unicode.Version)
	}
}

func TestParseFileName(t *testing.T) {
	good := []struct {
		file, name string
		version    uint32
		ext        string
	}{
		{"win11_3.ckm", "win11", 3, ".ckm"},
		{"win11_3.index", "win11", 3, ".index"},
		{"a_b_10.ckm", "a_b", 10, ".ckm"},
		{"a_1_2.index", "a_1", 2, ".index"},
		{"__1.ckm", "_", 1, ".ckm"},
		{"x.ckm_7.ckm", "x.ckm", 7, ".ckm"},
		{"x_1.ckm_7.index", "x_1.ckm", 7, ".index"},
		{"größe_2147483647.ckm", "größe", 1<<31 - 1, ".ckm"},
		{strings.Repeat("n", 100) + "_1.ckm", strings.Repeat("n", 100), 1, ".ckm"},
	}
	for _, c := range good {
		name, version, ext, ok := ckm.ParseFileName(c.file)
		if !ok || name != c.name || version != c.version || ext != c.ext {
			t.Errorf("ParseFileName(%q) = %q, %d, %q, %v", c.file, name, version, ext, ok)
		}
		if made := map[string]string{".ckm": ckm.DataName(name, version), ".index": ckm.IndexName(name, version)}[ext]; made != c.file {
			t.Errorf("%q does not come back: %q", c.file, made)
		}
	}
	for _, file := range []string{
		"", ".ckm", "_.ckm", "_1.ckm", "win11.ckm", "win11_.ckm", "win11_0.ckm", "win11_01.ckm", "win11_+1.ckm", "win11_-1.ckm",
		"win11_1_.ckm", "win11_ 1.ckm", "win11_1 .ckm", "win11_1.CKM", "win11_1.ckm ", "win11_1.ckm.tmp", "win11_1.index.ckm.", "win11_1",
		"win11_1x.ckm", "win11_0x1.ckm", "win11_1e1.ckm", "win11_١.ckm", "win11_2147483648.ckm", "win11_99999999999999999999.ckm",
		"win 11_1.ckm", "a/win11_1.ckm", `a\win11_1.ckm`, "../win11_1.ckm", "c:win11_1.ckm", ".win11_1.ckm", "-win11_1.ckm",
		"con_1.ckm\x00", "CON_1.ckm", "nul.x_1.index", "prestagedimages_1.ckm", "win11\xff_1.ckm", strings.Repeat("n", 101) + "_1.ckm",
	} {
		if name, version, ext, ok := ckm.ParseFileName(file); ok || name != "" || version != 0 || ext != "" {
			t.Errorf("ParseFileName(%q) = %q, %d, %q, %v, want nothing", file, name, version, ext, ok)
		}
	}
}

func TestCheckPath(t *testing.T) {
	element := strings.Repeat("e", 255)
	for _, p := range []string{
		"a", "a.img", "a/b/c", ".hidden", "..a", "a/..b/c", "with space", " leading", "-x", "größe/映像.vhdx", "console", "a/com10",
		element, strings.Repeat("a/", 31) + "a", strings.Join([]string{element, element, element, element}, "/"), element + strings.Repeat("/"+element, 2) + "/" + element[1:] + "/a", "$MFT", "~",
	} {
		if err := ckm.CheckPath(p); err != nil {
			t.Errorf("CheckPath(%q): %v", p, err)
		}
	}
	bad := []struct{ path, why string }{
		{"", "empty"}, {"/", "empty"}, {"/etc/passwd", "empty"}, {"a//b", "empty"}, {"a/", "empty"}, {"//server/share", "empty"},
		{".", "dot or a space"}, {"..", "dot or a space"}, {"../a", "dot or a space"}, {"a/../../b", "dot or a space"}, {"a/./b", "dot or a space"},
		{"a/..", "dot or a space"}, {"...", "dot or a space"}, {"a.", "dot or a space"}, {"a./b", "dot or a space"}, {"a ", "dot or a space"}, {"a /b", "dot or a space"}, {" ", "dot or a space"},
		{".. /a", "dot or a space"},
		{`a\b`, "not allowed"}, {`..\a`, "not allowed"}, {`\\?\C:\a`, "not allowed"}, {"c:", "not allowed"}, {"C:/a", "not allowed"}, {"a:stream", "not allowed"},
		{"a\x00b", "not allowed"}, {"a\x00", "not allowed"}, {"a\nb", "not allowed"}, {"a\x7f", "not allowed"}, {"a\u0085", "not allowed"}, {"a*", "not allowed"}, {"a?/b", "not allowed"}, {`"a"`, "not allowed"}, {"a|b", "not allowed"}, {"a<b>", "not allowed"},
		{"a\xff", "UTF-8"}, {"a/\xc0\xae\xc0\xae/b", "UTF-8"},
		{"con", "device"}, {"a/NUL", "device"}, {"a/nul.txt", "device"}, {"Aux/b", "device"}, {"com1", "device"}, {"LPT9.x/y", "device"}, {"con .txt", "device"}, {"COM².txt", "device"}, {"conin$", "device"},
		{element + "e", "overlong"},
		{strings.Repeat("a/", 32) + "a", "deep"},
		{strings.Repeat("a/", 10000) + "a", "longer"},
		{strings.Repeat("../", 10000), "longer"},
		{strings.Repeat("a", 1025), "longer"},
	}
	for _, c := range bad {
		refuse(t, ckm.CheckPath(c.path), nil, c.why)
	}
}

// TestPathsTogether checks the rules between the paths of one package.
func TestPathsTogether(t *testing.T) {
	decode := func(paths ...string) error {
		m := &model{info: small().info}
		m.info.Files = nil
		for _, p := range paths {
			m.info.Files = append(m.info.Files, ckm.File{Path: p})
		}
		_, err := ckm.Decode(m.build())
		return err
	}
	for _, paths := range [][]string{
		{"a", "b"}, {"d/a", "d/b", "d/e/a"}, {"D/a", "d/b"}, {"a/b", "ab"}, {"a", "a.b", "a b"}, {"s", "ss", "ß"},
	} {
		if err := decode(paths...); err != nil {
			t.Errorf("%q: %v", paths, err)
		}
	}
	for _, paths := range [][]string{
		{"a", "a"}, {"disk.vhdx", "b", "Disk.VHDX"}, {"é", "É"}, {"d/a", "D/A"}, {"Ⅷ", "ⅷ"},
		{"k", "\u212a"},             // the Kelvin sign is a capital k
		{"ſ", "S"},                  // so is the long s, to some
		{"σ", "ς"}, {"µ", "\u03bc"}, // equal in capitals, though both are small
	} {
		refuse(t, decode(paths...), ckm.ErrFormat, "is there twice")
	}
	for _, paths := range [][]string{
		{"a", "a/b"}, {"a", "A/b"}, {"a/b", "x", "a/b/c/d"}, {"σ", "ς/x"},
	} {
		refuse(t, decode(paths...), ckm.ErrFormat, "inside another file")
		last := len(paths) - 1
		paths[0], paths[last] = paths[last], paths[0]
		refuse(t, decode(paths...), ckm.ErrFormat, "is a folder of another")
	}
}

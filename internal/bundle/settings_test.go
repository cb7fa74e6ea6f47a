package bundle

import (
	"math"
	"strings"
	"testing"
)

func TestNewSettings(t *testing.T) {
	for _, c := range [][3]string{ // path or URL, what it becomes, or what its refusal says
		{`C:\MED-V Images`, `C:\MED-V Images`, ""},
		{`c:\MED-V Images\`, `c:\MED-V Images`, ""},
		{`D:\Program Files (x86)\it's; a=b, c\MED-V Images`, `D:\Program Files (x86)\it's; a=b, c\MED-V Images`, ""},
		{`C:/MED-V Images`, "", `use "C:\\MED-V Images"`},
		{`D:\data\MedV_images`, "", `use "D:\\data\\MED-V Images"`},
		{`D:\`, "", `use "D:\\MED-V Images"`},
		{`D:`, "", `use "D:\\MED-V Images"`},
		{``, "", `use "C:\\MED-V Images"`},
		{`\\server\share\MED-V Images`, "", `on a drive of the client`},
		{`data\MED-V Images`, "", `use "C:\\data\\MED-V Images"`},
		{`D:MED-V Images`, "", `use "D:\\MED-V Images"`},
		{`D:\a\..\MED-V Images`, "", `be a path that Windows can have`},
		{`D:\NUL\MED-V Images`, "", `be a path that Windows can have`},
		{`D:\a\\MED-V Images`, "", `use "D:\\a\\MED-V Images"`},
		{`D:\a*\MED-V Images`, "", `be a path that Windows can have`},
		{`D:\%TEMP%\MED-V Images`, "", `holds '%'`},
		{`D:\"\MED-V Images`, "", `holds '"'`},
		{`D:\a&b\MED-V Images`, "", `holds '&'`},
		{`D:\a!b\MED-V Images`, "", `holds '!'`},
		{"D:\\a\r\ncalc\\MED-V Images", "", "control character"},
		{`D:\Bücher\MED-V Images`, "", "ASCII"},
		{`D:\` + strings.Repeat(`a-long-name\`, 20) + `MED-V Images`, "", "200"},

		{"https://images.example", "https://images.example/MEDVImages/", ""},
		{"HTTP://10.1.2.3:8080/", "http://10.1.2.3:8080/MEDVImages/", ""},
		{"https://[fd00::1]:8443/MEDVImages", "https://[fd00::1]:8443/MEDVImages/", ""},
		{"https://images.example:/MEDVImages/", "https://images.example/MEDVImages/", ""},
		{"images.example", "", "is not an http"},
		{"ftp://images.example/", "", "is not an http"},
		{"https:///MEDVImages/", "", "is not an http"},
		{"https://u:p@images.example/", "", "names a user"},
		{"https://images.example/?a=b", "", "more than a path"},
		{"https://images.example/#", "", "more than a path"},
		{"https://images.example/pool/MEDVImages/", "", "another folder"},
		{"https://images.example:0/", "", "no port from 1"},
		{"https://images.example:70000/", "", "no port from 1"},
		{"https://-images.example/", "", "begins with -"},
		{"https://images$x.example/", "", "no name that a host can have"},
		{"https://images.example/%2e", "", "holds '%'"},
		{"https://a b/", "", "not a URL"},
		{`\\server\share`, "", "is not an http"},
	} {
		path, server := c[0], ""
		get := func(s Settings) string { return s.VMSFolder }
		if strings.Contains(c[0], "//") || strings.Contains(c[0], ".example") || c[0] == `\\server\share` {
			path, server = DefaultVMSFolder, c[0]
			get = func(s Settings) string { return s.Server }
		}
		s, err := NewSettings(path, server)
		switch {
		case c[2] == "" && (err != nil || get(s) != c[1]):
			t.Errorf("%q became %q, %v; want %q", c[0], get(s), err, c[1])
		case c[2] != "" && (err == nil || !strings.Contains(err.Error(), c[2])):
			t.Errorf("%q: the error is %v and should say %s", c[0], err, c[2])
		case err == nil && s.check() != nil:
			t.Errorf("%q: its own form %v is refused: %v", c[0], s, s.check())
		}
	}
}

// Three quarters to the byte, however large.
func TestFits(t *testing.T) {
	for _, c := range []struct {
		contents, medium int64
		want             bool
	}{
		{0, 0, true},
		{1, 0, false},
		{1, 1, false},
		{2, 3, true}, // 2.25
		{3, 4, true},
		{3, 5, true}, // 3.75
		{4, 5, false},
		{12e9, 16e9, true},
		{12e9 + 1, 16e9, false},
		{6 << 30, 8 << 30, true},
		{6<<30 + 1, 8 << 30, false},
		{math.MaxInt64/4*3 + 2, math.MaxInt64, true}, // MaxInt64 is 4·k+3, three quarters of it 3·k+2.25
		{math.MaxInt64/4*3 + 3, math.MaxInt64, false},
		{math.MaxInt64, math.MaxInt64, false},
	} {
		if got := fits(c.contents, c.medium); got != c.want {
			t.Errorf("%d bytes on a medium of %d: %v", c.contents, c.medium, got)
		}
		if (checkMedium(c.contents, c.medium) == nil) != c.want {
			t.Errorf("%d bytes on a medium of %d are refused, or not, in error", c.contents, c.medium)
		}
	}
	if blocks(1<<40, 4096) != 1<<52 || blocks(1<<63, 2) != math.MaxInt64 || blocks(math.MaxUint64, 1) != math.MaxInt64 {
		t.Error("blocks of a file system are multiplied wrongly")
	}
	if n, err := mediumSize(t.TempDir()); err != nil || n <= 0 {
		t.Errorf("the file system of a folder has %d bytes, %v", n, err)
	}
}

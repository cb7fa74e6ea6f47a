//go:build linux

package winetest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMain(m *testing.M) { Main(m) }

// Nothing of what goes in or comes out may be lost or changed on the way:
// other tests rely on it.
func TestRun(t *testing.T) {
	p := New(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "is here"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	r := p.Run(t, Command{Dir: dir, Args: []string{"cmd", "/c", "dir /b & echo %LONG%& echo wrong 1>&2& exit -1073741510"}, Env: []string{"LONG=one  two"}})
	if r.Code != 3221225786 || strings.TrimSpace(r.Stderr) != "wrong" || r.Stdout != "is here\r\none  two\r\n" {
		t.Errorf("%d %q %q", r.Code, r.Stdout, r.Stderr)
	}
}

func TestPaths(t *testing.T) {
	p := New(t)
	for windows, unix := range map[string]string{
		`C:\MED-V Images\x`: p.dir + "/prefix/drive_c/MED-V Images/x",
		`Z:\srv\x y`:        "/srv/x y",
	} {
		if got := p.Unix(windows); got != unix {
			t.Errorf("Unix(%q) = %q", windows, got)
		}
		if got := p.Windows(unix); got != windows {
			t.Errorf("Windows(%q) = %q", unix, got)
		}
	}
	dir := t.TempDir()
	p.Drive(t, 'D', dir)
	r := p.Run(t, Command{Args: []string{"cmd", "/c", "echo x>D:\\new.txt"}})
	if _, err := os.Stat(filepath.Join(dir, "new.txt")); err != nil || r.Code != 0 {
		t.Errorf("%v: %v", r, err)
	}
}

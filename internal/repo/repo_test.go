package repo

import "testing"

func TestParseImage(t *testing.T) {
	for s, want := range map[string]struct {
		name    string
		version uint32
	}{
		"win": {"win", 0}, "win:1": {"win", 1}, "win_foo:2": {"win_foo", 2}, "win_7": {"win_7", 0}, "win_7:2147483647": {"win_7", 1<<31 - 1},
	} {
		if name, version, err := ParseImage(s); err != nil || name != want.name || version != want.version {
			t.Errorf("%q: %q, %d, %v", s, name, version, err)
		}
	}
	for _, s := range []string{"", ":1", "win:", "win:0", "win:01", "win:+1", "win:-1", "win: 1", "win:1:2", "win:foo_2", "win:_2", "win:2_2",
		"win:x", "win:latest", "win:2147483648", "win/x:1"} {
		if name, version, err := ParseImage(s); err == nil {
			t.Errorf("%q is taken for version %d of %q", s, version, name)
		}
	}
}

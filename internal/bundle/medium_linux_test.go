package bundle

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/testenv"
)

// Where no size is named, that of the medium itself counts; the medium is not a
// folder that can be replaced.
func TestMountedMedium(t *testing.T) {
	testenv.NeedRoot(t)
	o := options(t)
	medium := filepath.Join(t.TempDir(), "medium")
	must(t, os.Mkdir(medium, 0o755))
	must(t, unix.Mount("tmpfs", medium, "tmpfs", 0, "size=8m"))
	t.Cleanup(func() { must(t, unix.Unmount(medium, 0)) })
	if n, err := mediumSize(medium); err != nil || n != 8<<20 {
		t.Errorf("a medium of 8 MiB has %d bytes, %v", n, err)
	}
	for _, c := range []struct {
		out    string
		medium int64
		says   string
	}{
		{medium, 0, "root of a file system"},
		{filepath.Join(medium, "medv"), AskMedium, "three quarters"}, // about 7 MiB
		{filepath.Join(medium, "medv"), 0, ""},
		{filepath.Join(medium, "again"), 0, "not enough space"},
	} {
		o.Out, o.Medium = c.out, c.medium
		_, err := Write(t.Context(), o)
		if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s, --medium %d: %v; it should say %q", c.out, c.medium, err, c.says)
		}
	}
	if entries, err := os.ReadDir(medium); err != nil || len(entries) != 1 {
		t.Errorf("the medium holds %v, %v", entries, err)
	}
}

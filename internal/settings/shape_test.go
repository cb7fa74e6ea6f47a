package settings

import (
	"errors"
	"path"
	"reflect"
	"strings"
	"testing"
	"time"
)

// What a decoder would be busy with for hours is refused at once, wherever it
// hides.
func TestShape(t *testing.T) {
	deep := strings.Repeat("[", 200)
	for name, text := range map[string]string{
		"dotted name":           strings.Repeat("a.", 40_000) + "b = 1",
		"table":                 "[" + strings.Repeat("a.", 100_000) + "b]",
		"arrays":                "a = " + strings.Repeat("[", 100_000),
		"inline tables":         "a = " + strings.Repeat("{a = ", 40_000),
		"spaced name":           strings.Repeat("a . ", 30_000) + "b = 1",
		"long":                  strings.Repeat("# nothing\n", 30_000),
		"after a string":        `a = ["x\"", 'y', ` + deep,
		"after a long string":   `a = ["""x"""", """""", '''y'''', ` + deep,
		"after a comment":       "# \"\"\" '''\na = " + deep,
		"after an unfinished":   "a = \"x\nb = " + deep,
		"in names with strings": strings.Repeat(`"a".`, 1000) + "b = 1",
	} {
		begun := time.Now()
		if _, err := ParseFile(text, "file", path.IsAbs); !errors.Is(err, errShape) || !strings.Contains(err.Error(), "file") {
			t.Errorf("%s: error %v", name, err)
		}
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("%s took %v", name, took)
		}
	}
	for _, text := range []string{
		`vms_folder = "/a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v/[[[[[[[[[[[[[[[[[[[[[[[[[[["`,
		"vms_folder = '/x' # ....................................... [[[[[[[[[[[[[[[[[[[[[[[[[[",
		"vms_folder = '''/x.................................[[[[[[[[[[[[[[[[[[[[[[[[[[[[[['''''",
		"vms_folder = \"/x\"\n[a.b]\nc = [1.5, 2.5, [3.5]]\n",
	} {
		if s, err := ParseFile(text, "file", path.IsAbs); err != nil || !strings.HasPrefix(s.VMSFolder, "/") {
			t.Errorf("%s: %+v, %v", text, s, err)
		}
	}
}

// FuzzParseFile: a settings file of any machine is read soon; what is changed in
// it is what was meant, and the rest stays.
func FuzzParseFile(f *testing.F) {
	f.Add("vms_folder = \"/x\" # here\nprestaged_images_path = '/y'\nimages = [\"a\", \"b\"]\n[other]\nx.y = 1\n", "/new")
	f.Add("acl_profile = \"strict\"\nserver = \"\"\"x\"\"\"\"", "/a \"b\"\\c")
	f.Add("a = [[[[", "/")
	f.Fuzz(func(t *testing.T, text, folder string) {
		begun := time.Now()
		before, err := ParseFile(text, "file", path.IsAbs)
		if took := time.Since(begun); took > 20*time.Second {
			t.Errorf("it took %v", took)
		}
		if err != nil || !path.IsAbs(folder) {
			return
		}
		change := Settings{VMSFolder: folder, ACLProfile: Strict}
		edited, err := EditFile(text, "file", path.IsAbs, change)
		if err != nil {
			return
		}
		after, err := ParseFile(edited, "file", path.IsAbs)
		if want := merge(before, change); err != nil || !reflect.DeepEqual(after, want) {
			t.Errorf("%q became %q: %+v, %v; want %+v", text, edited, after, err, want)
		}
	})
}

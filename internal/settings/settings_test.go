package settings

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSaveKeepsWhatIsThere(t *testing.T) {
	for name, c := range map[string]struct{ before, want string }{
		"no file":       {"", "prestaged_images_path = \"/a b/ü\"\n"},
		"other keys":    {"# why\nserver = \"x\" # here\n", "# why\nserver = \"x\" # here\nprestaged_images_path = \"/a b/ü\"\n"},
		"replaced":      {"server=\"x\"\n  prestaged_images_path='/old'\n[t]\nk=1\n", "server=\"x\"\nprestaged_images_path = \"/a b/ü\"\n[t]\nk=1\n"},
		"before tables": {"[t]\nprestaged_images_path=\"/not/this\"\n", "prestaged_images_path = \"/a b/ü\"\n[t]\nprestaged_images_path=\"/not/this\"\n"},
		"no last line":  {"server = \"x\"", "server = \"x\"\nprestaged_images_path = \"/a b/ü\"\n"},
	} {
		path := filepath.Join(t.TempDir(), "sub", "c.toml")
		if name != "no file" {
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(path, []byte(c.before), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if err := Save(path, Settings{PrestagedImagesPath: "/a b/ü"}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: file holds %q, want %q (%v)", name, got, c.want, err)
		}
		s, err := Load(path)
		if err != nil || s.PrestagedImagesPath != "/a b/ü" {
			t.Errorf("%s: loaded %+v, %v", name, s, err)
		}
	}
}

// A form that cannot be changed line by line is left alone and reported.
func TestSaveRefusesWhatItCannotKeep(t *testing.T) {
	for _, before := range []string{
		"x = [\n1,\n]\nprestaged_images_path = \"\"\"\n/old\"\"\"\n",
		"broken =\n",
		"prestaged_images_path = 7\n\"prestaged_images_path\" = 8\n",
	} {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(before), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := Save(path, Settings{PrestagedImagesPath: "/new"}); err == nil {
			t.Errorf("%q was changed", before)
		}
		if got, _ := os.ReadFile(path); string(got) != before {
			t.Errorf("%q became %q", before, got)
		}
	}
}

func TestBadValuesAreReported(t *testing.T) {
	for text, want := range map[string]string{
		`prestaged_images_path = "relative"`: "absolute",
		`vms_folder = "./x"`:                 "absolute",
		`server = 7`:                         "server",
		`server = `:                          "settings file",
	} {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %q", text, err, want)
		}
	}
	if s, err := Load(filepath.Join(t.TempDir(), "absent")); err != nil || s != (Settings{}) {
		t.Errorf("no file: %+v, %v", s, err)
	}
}

package settings

import (
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
)

func TestSaveKeepsWhatIsThere(t *testing.T) {
	for name, c := range map[string]struct{ before, want string }{
		"no file":       {"", "prestaged_images_path = \"/a b/ü\"\n"},
		"other keys":    {"# why\nserver = \"x\" # here\n", "# why\nserver = \"x\" # here\nprestaged_images_path = \"/a b/ü\"\n"},
		"replaced":      {"server=\"x\"\n  prestaged_images_path='/old'\n[t]\nk=1\n", "server=\"x\"\nprestaged_images_path = \"/a b/ü\"\n[t]\nk=1\n"},
		"a comment":     {"prestaged_images_path = \"/o#l\\\"d\"\t # why \"x\"\nvms_folder='/v'\n", "prestaged_images_path = \"/a b/ü\"\t # why \"x\"\nvms_folder='/v'\n"},
		"a literal":     {"prestaged_images_path='/o#ld'# why\n", "prestaged_images_path = \"/a b/ü\"# why\n"},
		"no comment":    {"prestaged_images_path = \"/old # x\"\n", "prestaged_images_path = \"/a b/ü\"\n"},
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
		if err := File(path).Save(Settings{PrestagedImagesPath: "/a b/ü"}); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got, err := os.ReadFile(path)
		if err != nil || string(got) != c.want {
			t.Errorf("%s: file holds %q, want %q (%v)", name, got, c.want, err)
		}
		s, err := File(path).Load()
		if err != nil || s.PrestagedImagesPath != "/a b/ü" {
			t.Errorf("%s: loaded %+v, %v", name, s, err)
		}
	}
}

// A private file stays private, and a link a link.
func TestSaveKeepsModeAndLink(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "real", "c.toml"), filepath.Join(dir, "c.toml")
	save := func(path string, s Settings, want os.FileMode) {
		t.Helper()
		if err := File(path).Save(s); err != nil {
			t.Fatal(err)
		}
		if got, err := File(file).Load(); err != nil || got.Server != s.Server {
			t.Errorf("loaded %+v, %v", got, err)
		}
		if st, err := os.Lstat(file); err != nil || runtime.GOOS != "windows" && st.Mode() != want {
			t.Errorf("mode %v, want %v (%v)", st.Mode(), want, err)
		}
	}
	save(file, Settings{Server: "a"}, 0o644)
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	save(file, Settings{Server: "b"}, 0o600)
	if err := os.Symlink(filepath.Join("real", "c.toml"), link); err != nil {
		t.Fatal(err)
	}
	save(link, Settings{Server: "c"}, 0o600)
	if to, err := os.Readlink(link); err != nil {
		t.Errorf("the link is gone: %q, %v", to, err)
	}
	// A link to nothing is reported, and not replaced.
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := File(link).Save(Settings{Server: "d"}); err == nil {
		t.Error("a link to nothing was written to")
	}
	if _, err := os.Readlink(link); err != nil {
		t.Error(err)
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
		if err := File(path).Save(Settings{PrestagedImagesPath: "/new"}); err == nil {
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
		`images = "win11"`:                   "images",
		`acl_profile = "lax"`:                "\"recommended\" or \"strict\"",
		`server = `:                          "settings file",
	} {
		path := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := File(path).Load(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want one about %q", text, err, want)
		}
	}
	if s, err := File(filepath.Join(t.TempDir(), "absent")).Load(); err != nil || !reflect.DeepEqual(s, Settings{}) {
		t.Errorf("no file: %+v, %v", s, err)
	}
}

func TestImagesAndProfile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(path, []byte("images = [ 'a' ] # why\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	want := Settings{Images: []string{"win11", "office"}, ACLProfile: Strict}
	if err := File(path).Save(want); err != nil {
		t.Fatal(err)
	}
	if got, err := File(path).Load(); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("loaded %+v, %v", got, err)
	}
	if b, _ := os.ReadFile(path); string(b) != "images = [\"win11\", \"office\"] # why\nacl_profile = \"strict\"\n" {
		t.Errorf("the file holds %q", b)
	}
}

// publicKey is one, as minisign prints it.
const publicKey = "RWQUasNvaZ/qecLXN/CqEzQKevZ6L/dS0Gh2fR+4Nez7SFY4w2GBUyVD"

func TestTrustedKeysInFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.toml")
	if err := File(path).Save(Settings{Server: "x", Images: []string{"win11"}, TrustedKeys: []string{publicKey}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if want := "server = \"x\"\nimages = [\"win11\"]\ntrusted_keys = [\"" + publicKey + "\"]\n"; err != nil || string(b) != want {
		t.Errorf("the file holds %q (%v), want %q", b, err, want)
	}
	s, err := File(path).Load()
	if err != nil || !reflect.DeepEqual(s.TrustedKeys, []string{publicKey}) {
		t.Errorf("loaded %+v, %v", s, err)
	}
	// A list that is not one of keys must not pass for none.
	s, err = ParseFile(`trusted_keys = ["`+publicKey+`", "RW"]`, "x.toml", filepath.IsAbs)
	if !OnlyBad(err, "TrustedKeys") || !strings.Contains(err.Error(), `settings file x.toml: trusted_keys "RW" is no public key`) {
		t.Errorf("loaded %+v, %v", s, err)
	}
	if err := File(path).Save(Settings{TrustedKeys: []string{"RW"}}); err == nil {
		t.Error("what is no key was saved")
	}
}

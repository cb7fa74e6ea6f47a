package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// tree writes files, given as path and body, into a new folder.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, body := range files {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(body), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadTakesTextsFromPackageUpToModule(t *testing.T) {
	root := tree(t, map[string]string{
		"LICENSE.txt":               "\r\nthe module's\r\n",
		"NOTICE":                    "notice",
		"license.go":                "package m",
		"zstd/copied/LICENSE":       "copied",
		"zstd/zstd.go":              "package zstd",
		"zstd/copied/deep/a.go":     "package deep",
		"unused/COPYING":            "of a package that is not linked",
		"zstd/licenses/of-nobody.c": "",
	})
	c, err := read("m", "v1", root, map[string]bool{
		filepath.Join(root, "zstd"):                   true,
		filepath.Join(root, "zstd", "copied", "deep"): true,
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []text{
		{"LICENSE.txt", "the module's\n"},
		{"NOTICE", "notice\n"},
		{"zstd/copied/LICENSE", "copied\n"},
	}
	if len(c.texts) != len(want) {
		t.Fatalf("got %v, want %v", c.texts, want)
	}
	for i := range want {
		if c.texts[i] != want[i] {
			t.Errorf("text %d: got %q, want %q", i, c.texts[i], want[i])
		}
	}
}

func TestReadRefusesModuleWithoutLicence(t *testing.T) {
	root := tree(t, map[string]string{"a.go": "package a"})
	if _, err := read("m", "v1", root, map[string]bool{root: true}); err == nil {
		t.Error("a module without a licence file was accepted")
	}
}

func TestRenderPrintsSharedTextOnce(t *testing.T) {
	got := string(render([]component{
		{"a", "v1", []text{{"LICENSE", "shared ``` text\n"}}},
		{"b", "v2", []text{{"COPYING", "shared ``` text\n"}}},
	}))
	if n := strings.Count(got, "shared ``` text"); n != 1 {
		t.Errorf("the text is printed %d times", n)
	}
	for _, want := range []string{
		"| a | v1 | `LICENSE` |\n",
		"````text\nshared ``` text\n````\n",
		"The same text as `LICENSE` of a v1.\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("missing %q in:\n%s", want, got)
		}
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/ptytest"
	"prestage/internal/testenv"
)

// The password of a key is asked for on the terminal, which does not show it, and
// Ctrl-C at the question leaves a terminal that can be used.
func TestKeyPasswordAsked(t *testing.T) {
	testenv.NeedTime(t) // it builds the program
	dir := t.TempDir()
	exe := filepath.Join(dir, "prestage")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	ask := func(args []string, answers ...string) (*exec.Cmd, *ptytest.Terminal) {
		t.Helper()
		cmd := exec.Command(exe, args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PRESTAGE_KEY_PASSWORD=", "PRESTAGE_CONFIG="+filepath.Join(dir, "none.toml"), "TERM=xterm")
		p := ptytest.Start(t, cmd, 100, 12)
		for i, a := range answers {
			p.Await(t, "question", func(text string) bool { return strings.Count(text, ":") > i && !p.Echo(t) })
			if _, err := p.Keyboard.Write([]byte(a)); err != nil {
				t.Fatal(err)
			}
		}
		return cmd, p
	}
	newKey := []string{"key", "new", "k.key"}
	cmd, p := ask(newKey, "sesame\n", "barley\n")
	if text := ends(t, cmd, p, 1); !strings.Contains(text, "the two passwords differ") || strings.Contains(text, "sesame") {
		t.Error(text)
	}
	cmd, p = ask(newKey, "\n")
	if text := ends(t, cmd, p, 1); !strings.Contains(text, "--no-password") {
		t.Error(text)
	}
	cmd, p = ask(newKey, "\x03")
	if text := ends(t, cmd, p, 1); !strings.Contains(text, "interrupted") {
		t.Error(text)
	}
	if exists(filepath.Join(dir, "k.key")) || exists(filepath.Join(dir, "k.pub")) {
		t.Error("a key was made all the same")
	}
}

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// desk is an administrator's folder, with the program, for machines on loopback.
type desk struct{ dir, exe string }

func newDesk(t *testing.T) *desk {
	t.Helper()
	dir := t.TempDir()
	d := &desk{dir, filepath.Join(dir, "prestage")}
	if out, err := exec.Command("go", "build", "-o", d.exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
	return d
}

// write writes a file.
func (d *desk) write(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(d.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// command is a run of the program with nothing of whoever runs the tests.
func (d *desk) command(env []string, args ...string) *exec.Cmd {
	cmd := exec.Command(d.exe, append(args, "--progress", "plain")...)
	cmd.Dir = d.dir
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PRESTAGE_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(append(cmd.Env, "PRESTAGE_CONFIG="+filepath.Join(d.dir, "none.toml")), env...)
	return cmd
}

// run runs the program and wants it to end with a code.
func (d *desk) run(t *testing.T, wantCode int, env []string, args ...string) (out string) {
	t.Helper()
	cmd := d.command(env, args...)
	b, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Fatalf("prestage %s: exit code %d, want %d (%v)\n%s", strings.Join(args, " "), code, wantCode, err, b)
	}
	return string(b)
}

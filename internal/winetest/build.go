//go:build linux

package winetest

import (
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// Build builds cmd/prestage for windows/amd64, once per test binary and set of
// tags, and returns where the program lies on this machine.
func Build(t testing.TB, tags ...string) string {
	t.Helper()
	exe, err := build("prestage/cmd/prestage", tags...)
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

// build builds a program of this module for windows/amd64.
func build(pkg string, tags ...string) (string, error) {
	bench.Lock()
	defer bench.Unlock()
	dir, err := workDir()
	if err != nil {
		return "", err
	}
	key := pkg + " " + strings.Join(tags, ",")
	if exe := bench.built[key]; exe != "" {
		return exe, nil
	}
	exe := filepath.Join(dir, fmt.Sprint("build", len(bench.built)), path.Base(pkg)+".exe")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", strings.Join(tags, ","), "-o", exe, pkg)
	cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building %s for Windows: %w\n%s", pkg, err, out)
	}
	bench.built[key] = exe
	return exe, nil
}

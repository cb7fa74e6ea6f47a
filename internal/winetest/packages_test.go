//go:build linux

package winetest

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// tested are the packages whose tests run as Windows programs.
var tested = []struct {
	name string
	// without are tests that are not run, all about what is not so on Windows or
	// in Wine; skip is what the tests that skip themselves lack there.
	without, skip string
}{
	{name: "ckm", skip: "the program zstd is not installed"},
	{name: "internal/acl"},
	// The first two are about POSIX paths. Wine makes symbolic links that it does not show.
	{name: "internal/settings", without: "TestSaveKeepsWhatIsThere|TestSaveKeepsModeAndLink"},
	{name: "internal/durable"},
	{name: "internal/disk"},
	// It opens files again that it has not closed, as after a kill.
	{name: "internal/event", without: "TestQueueLosesNothing"},
	// Windows moves no file that is open; the others take long in Wine.
	{name: "internal/ledger", without: "TestKeeperOfAFileThat.*|TestManyAtOnce|TestTooMuch|TestPrune", skip: "the program initdb is not installed"},
	{name: "internal/repo"},
	{name: "internal/assemble"},
	{name: "internal/verify"},
	// Its own web server, in Wine, hangs when a client goes away in the midst of
	// an answer of many megabytes.
	{name: "internal/client", without: "TestNoRanges", skip: "the program nginx is not installed"},
	{name: "internal/prestage", without: "TestLocate"}, // about POSIX paths
	{name: "internal/localhost"},
	{name: "internal/service"},
}

// overlay returns a file for go test's -overlay that mends one thing of the
// standard library: to delete what is in a folder it asks Windows for a delete
// that Wine 8 does not know, and does not notice. Its own other way is made the
// only one. Without it no test can clean up after itself.
func overlay(t *testing.T) string {
	t.Helper()
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(strings.TrimSpace(string(root)), "src/internal/syscall/windows/at_windows.go")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const line = "var TestDeleteatFallback bool\n"
	mended := strings.Replace(string(text), line, "var TestDeleteatFallback = true\n", 1)
	if mended == string(text) {
		t.Fatalf("%s has no line %q any more: find out how this Go deletes what is in a folder, and make it do so without FILE_DISPOSITION_POSIX_SEMANTICS", file, line)
	}
	dir := t.TempDir()
	at, list := filepath.Join(dir, "at_windows.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(at, []byte(mended), 0o644); err != nil {
		t.Fatal(err)
	}
	replace, err := json.Marshal(map[string]any{"Replace": map[string]string{file: at}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(list, replace, 0o644); err != nil {
		t.Fatal(err)
	}
	return list
}

// TestPackages runs the packages' own tests as Windows programs.
func TestPackages(t *testing.T) {
	p := New(t)
	mended, dir := overlay(t), t.TempDir()
	for _, pkg := range tested {
		t.Run(pkg.name, func(t *testing.T) {
			exe := filepath.Join(dir, filepath.Base(pkg.name)+".test.exe")
			cmd := exec.Command("go", "test", "-c", "-vet=off", "-tags", "winedacl", "-overlay", mended, "-o", exe, "prestage/"+pkg.name)
			cmd.Env = append(os.Environ(), "GOOS=windows", "GOARCH=amd64", "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("building the tests: %v\n%s", err, out)
			}
			folder, err := filepath.Abs(filepath.Join("../..", pkg.name))
			if err != nil {
				t.Fatal(err)
			}
			args := []string{exe, "-test.short", "-test.v"}
			if pkg.without != "" {
				args = append(args, "-test.skip", "^("+pkg.without+")$")
			}
			r := p.Run(t, Command{Dir: folder, Args: args})
			// Quoted: whoever reads the output of go test takes these lines for
			// tests of this package otherwise.
			quoted := "| " + strings.ReplaceAll(r.Stdout, "\n", "\n| ") + r.Stderr
			if r.Code != 0 || !strings.HasSuffix(r.Stdout, "\nPASS\n") || !strings.Contains(r.Stdout, "--- PASS: ") {
				t.Errorf("exit code %d\n%s", r.Code, quoted)
			}
			skipped := strings.Count(r.Stdout, "--- SKIP: ")
			if pkg.skip == "" && skipped > 0 || pkg.skip != "" && strings.Count(r.Stdout, pkg.skip) != skipped {
				t.Errorf("%d tests were skipped, for another reason than %q\n%s", skipped, pkg.skip, quoted)
			}
		})
	}
}

//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/testenv"
)

// Both servers answer, all of it very small: that there are numbers is the point.
func TestServe(t *testing.T) {
	testenv.NeedTime(t)
	testenv.Need(t, "nginx")
	dir := t.TempDir()
	o := options{
		image: os.DevNull, work: filepath.Join(dir, "work"), rounds: 1, only: partServe, doc: filepath.Join(dir, "doc.md"), template: "performance.md",
		prestage: filepath.Join(dir, "prestage"), scale: scale{served: 20 * mib, load: 16 * mib, slow: 300}, out: t.Output(), log: t.Output(),
	}
	if out, err := exec.Command("go", "build", "-o", o.prestage, "../cmd/prestage").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := os.Mkdir(o.work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(o.doc)
	if err != nil {
		t.Fatal(err)
	}
	doc := strings.Join(strings.Fields(string(raw)), " ")
	for _, want := range []string{"serve, ranges of 64 KiB | nginx | ≤ 1.11 | ", "serve, ranges of 16 MiB | nginx | ≤ 1.11 | ", "serve, 300 slow clients, peak memory | 256 MiB | ≤ 1.00 | "} {
		if !strings.Contains(doc, want) {
			t.Errorf("the document lacks %q:\n%s", want, raw)
		}
	}
}

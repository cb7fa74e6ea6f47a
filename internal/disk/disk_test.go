package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/ckm"
)

// A folder of too many files is refused before all of them are opened.
func TestTooManyFiles(t *testing.T) {
	dir := t.TempDir()
	for i := range ckm.MaxFiles {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("%06d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := Open(dir)
	if err != nil || len(files) != ckm.MaxFiles {
		t.Fatalf("%d files of %d, %v", len(files), ckm.MaxFiles, err)
	}
	for _, f := range files {
		f.Close()
	}
	// One more ends the walk: what comes after it is not looked at.
	if err := os.WriteFile(filepath.Join(dir, "a"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("nowhere", filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir); err == nil || !strings.Contains(err.Error(), "more than 4096 files") {
		t.Errorf("error %v", err)
	}
}

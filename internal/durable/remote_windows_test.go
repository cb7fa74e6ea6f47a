package durable

import "testing"

func TestRemote(t *testing.T) {
	for dir, want := range map[string]bool{t.TempDir(): false, `\\nobody\share\folder`: true, `Q:\nowhere`: true} {
		if got := Remote(dir); got != want {
			t.Errorf("%s: %v", dir, got)
		}
	}
}

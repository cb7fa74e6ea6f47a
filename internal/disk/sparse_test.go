package disk

import (
	"os"
	"path/filepath"
	"testing"
)

// Whatever the file system can tell of holes, no data is ever passed over.
func TestNextDataFindsAllData(t *testing.T) {
	const size, at = 8 << 20, 5 << 20
	f, err := os.Create(filepath.Join(t.TempDir(), "sparse"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := MakeSparse(f); err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("data"), at); err != nil {
		t.Fatal(err)
	}
	for _, off := range []int64{0, 1, at - 1, at} {
		if n, err := NextData(f, off, size); err != nil || n < off || n > at {
			t.Errorf("from %d on, data is at %d, %v; it is at %d", off, n, err, at)
		}
	}
	for off, want := range map[int64]int64{size: size, size + 5: size} {
		if n, err := NextData(f, off, size); err != nil || n != want {
			t.Errorf("from %d on: %d, %v", off, n, err)
		}
	}
}

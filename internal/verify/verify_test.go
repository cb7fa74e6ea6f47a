package verify

import (
	"bytes"
	"errors"
	"io/fs"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/progress"
	"prestage/internal/testenv"
)

// memory is a package in memory.
type memory map[string][]byte

type memoryFile struct{ *bytes.Reader }

func (f memoryFile) Size() (int64, error) { return f.Reader.Size(), nil }
func (memoryFile) Close() error           { return nil }

func (m memory) open(file string) (File, error) {
	b, ok := m[file]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: file, Err: fs.ErrNotExist}
	}
	return memoryFile{bytes.NewReader(b)}, nil
}

// smallPackage is a package of three frames.
func smallPackage(t *testing.T, seed byte) (memory, *ckm.Index) {
	t.Helper()
	x := &ckm.Index{Info: ckm.Info{Name: "small", Version: 1, ChunkMin: 1, ChunkAvg: 1, ChunkMax: 1, FrameLimit: 4096,
		Files: []ckm.File{{Path: "disk.img", Size: 3000, Format: "raw"}}}}
	var out bytes.Buffer
	w, err := ckm.NewWriter(&out, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(ckm.LevelDefault)
	for i := range 3 {
		raw := testenv.Random(seed+byte(i), 800)
		if err := w.WriteFrame(c.Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw[:300]), ckm.Sum(raw[300:])}, []int{300, 500}); err != nil {
			t.Fatal(err)
		}
		x.Place(uint32(2*i), 0, uint64(i)*1000)
		x.Place(uint32(2*i+1), 0, uint64(i)*1000+300)
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	index, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return memory{"small_1.ckm": out.Bytes(), "small_1.index": index}, x
}

func check(t *testing.T, m memory) []string {
	t.Helper()
	_, faults, err := Package(t.Context(), m.open, "small", 1, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, f := range faults {
		list = append(list, f.String())
	}
	return list
}

func TestWhole(t *testing.T) {
	m, _ := smallPackage(t, 1)
	if faults := check(t, m); len(faults) > 0 {
		t.Errorf("a whole package has faults: %q", faults)
	}
}

// Every byte of both files matters, and damage is placed where it is.
func TestEveryByte(t *testing.T) {
	good, x := smallPackage(t, 1)
	masks := []byte{0x01, 0xff}
	if testing.Short() {
		masks = masks[:1]
	}
	for _, file := range []string{"small_1.ckm", "small_1.index"} {
		for i := range good[file] {
			for _, mask := range masks {
				b := bytes.Clone(good[file])
				b[i] ^= mask
				m := memory{"small_1.ckm": good["small_1.ckm"], "small_1.index": good["small_1.index"]}
				m[file] = b
				_, faults, err := Package(t.Context(), m.open, "small", 1, progress.Discard)
				if err != nil || len(faults) != 1 || faults[0].File != file {
					t.Fatalf("%s, byte %d: %v, %v", file, i, faults, err)
				}
				f := faults[0]
				inFrame := file == "small_1.ckm" && i >= ckm.HeaderSize && i < int(x.CKMLength)-ckm.TrailerSize
				if inFrame && (f.Chunk%2 != 0 || int64(i) < f.Offset || int64(i) >= f.Offset+f.Length) {
					t.Fatalf("byte %d is not in the fault that was named: %v", i, f)
				}
			}
		}
	}
}

func TestTruncatedAndAppended(t *testing.T) {
	good, _ := smallPackage(t, 1)
	for _, file := range []string{"small_1.ckm", "small_1.index"} {
		for n := range good[file] {
			m := memory{"small_1.ckm": good["small_1.ckm"], "small_1.index": good["small_1.index"]}
			m[file] = good[file][:n]
			if faults := check(t, m); len(faults) == 0 {
				t.Fatalf("%s cut to %d bytes is whole", file, n)
			}
		}
		for _, more := range []string{"\x00", "garbage", strings.Repeat("x", 5000)} {
			m := memory{"small_1.ckm": good["small_1.ckm"], "small_1.index": good["small_1.index"]}
			m[file] = append(bytes.Clone(good[file]), more...)
			if faults := check(t, m); len(faults) == 0 {
				t.Fatalf("%s with %d bytes more is whole", file, len(more))
			}
		}
	}
}

// All damage is named, not only the first.
func TestAllDamageIsNamed(t *testing.T) {
	m, x := smallPackage(t, 1)
	b := m["small_1.ckm"]
	b[x.Frame(0).Offset+5] ^= 1
	b[x.Frame(2).Offset+5] ^= 1
	b[9] ^= 1
	faults := check(t, m)
	if len(faults) != 3 || !strings.Contains(faults[0], "chunks 0 to 1") || !strings.Contains(faults[1], "chunks 4 to 5") ||
		!strings.Contains(faults[2], "header or trailer") {
		t.Errorf("faults are %q", faults)
	}
}

func TestForeignAndMissingFiles(t *testing.T) {
	m, _ := smallPackage(t, 1)
	other, _ := smallPackage(t, 100)
	foreign := memory{"small_1.ckm": other["small_1.ckm"], "small_1.index": m["small_1.index"]}
	if faults := check(t, foreign); len(faults) == 0 || !strings.Contains(faults[len(faults)-1], "another package") {
		t.Errorf("the CKM of another package: %q", faults)
	}
	for _, file := range []string{"small_1.ckm", "small_1.index"} {
		m, _ := smallPackage(t, 1)
		delete(m, file)
		if faults := check(t, m); len(faults) != 1 || !strings.Contains(faults[0], file) || !strings.Contains(faults[0], "missing") {
			t.Errorf("without %s: %q", file, faults)
		}
	}
	renamed := memory{"small_2.index": m["small_1.index"], "small_2.ckm": m["small_1.ckm"]}
	_, faults, err := Package(t.Context(), renamed.open, "small", 2, progress.Discard)
	if err != nil || len(faults) != 1 || !strings.Contains(faults[0].Reason, "renamed") {
		t.Errorf("a renamed package: %v, %v", faults, err)
	}
}

func TestErrorIsNotDamage(t *testing.T) {
	m, _ := smallPackage(t, 1)
	open := func(file string) (File, error) {
		if file == "small_1.ckm" {
			return nil, fs.ErrPermission
		}
		return m.open(file)
	}
	if _, _, err := Package(t.Context(), open, "small", 1, progress.Discard); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a file that may not be read: %v", err)
	}
}

package ckm_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/testenv"
)

// versioned returns the index of a version of an image, whose chunks are raw, each
// in a frame of its own.
func versioned(t testing.TB, version uint32, raw ...[]byte) *ckm.Index {
	t.Helper()
	x := &ckm.Index{Info: ckm.Info{Name: "patched", Version: version, Created: 1, ChunkMin: 1, ChunkAvg: 1, ChunkMax: 1, FrameLimit: ckm.MaxFrameLimit,
		Files: []ckm.File{{Path: "disk", Format: "raw"}}}}
	w, err := ckm.NewWriter(io.Discard, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(ckm.LevelFast)
	for i, p := range raw {
		x.Place(uint32(i), 0, x.Files[0].Size)
		x.Files[0].Size += uint64(len(p))
		if err := w.WriteFrame(c.Append(nil, p), ckm.CodecZstd, []ckm.ID{ckm.Sum(p)}, []int{len(p)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	if _, err := x.Encode(); err != nil {
		t.Fatal(err)
	}
	return x
}

// patchPair returns two versions of an image: eight chunks each.
func patchPair(t testing.TB) (x, base *ckm.Index) {
	t.Helper()
	chunks := func(letter byte) (list [][]byte) {
		for n := range 8 {
			list = append(list, bytes.Repeat([]byte{letter, byte(n)}, 40<<n))
		}
		return list
	}
	return versioned(t, 2, chunks('b')...), versioned(t, 1, chunks('a')...)
}

func patchFor(x, base *ckm.Index, parts ...ckm.PatchPart) *ckm.Patch {
	return &ckm.Patch{Package: x.Digest(), Base: base.Digest(), BaseVersion: base.Version, Parts: parts}
}

func chunkRun(first, count uint32) ckm.ChunkRun { return ckm.ChunkRun{First: first, Count: count} }

// goodPatches are patches of patchPair.
func goodPatches(x, base *ckm.Index) map[string]*ckm.Patch {
	return map[string]*ckm.Patch{
		"empty": patchFor(x, base),
		"one":   patchFor(x, base, ckm.PatchPart{First: 0, Count: 8, Base: []ckm.ChunkRun{chunkRun(0, 8)}, Stored: 1}),
		"two": patchFor(x, base,
			ckm.PatchPart{First: 1, Count: 2, Base: []ckm.ChunkRun{chunkRun(3, 1), chunkRun(0, 1), chunkRun(3, 5)}, Stored: 100},
			ckm.PatchPart{First: 6, Count: 1, Base: []ckm.ChunkRun{chunkRun(7, 1)}, Stored: 77}),
	}
}

func TestPatchHead(t *testing.T) {
	x, base := patchPair(t)
	for name, p := range goodPatches(x, base) {
		head, err := p.EncodeHead(x, base)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		h, err := ckm.ParsePatchHeader(head)
		if err != nil || h.Size != len(head) || h.Package != x.Digest() || h.Base != base.Digest() || h.BaseVersion != 1 {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
		got, err := ckm.DecodePatch(append(slices.Clone(head), "parts"...), x, base)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		at := uint64(len(head))
		for i, e := range got.Parts {
			want := p.Parts[i]
			if e.First != want.First || e.Count != want.Count || e.Stored != want.Stored || !slices.Equal(e.Base, want.Base) || e.Offset != at || want.Offset != at {
				t.Errorf("%s: part %d is %+v, should be %+v", name, i, e, want)
			}
			at += uint64(e.Stored)
		}
		for n := range head {
			if _, err := ckm.DecodePatch(head[:n], x, base); !errors.Is(err, ckm.ErrFormat) {
				t.Fatalf("%s, cut at %d: %v", name, n, err)
			}
			bad := slices.Clone(head)
			bad[n] ^= 1
			if _, err := ckm.DecodePatch(bad, x, base); !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrUnsupported) {
				t.Fatalf("%s, changed at %d: %v", name, n, err)
			}
		}
	}
}

func TestPatchRefused(t *testing.T) {
	x, base := patchPair(t)
	other := versioned(t, 1, []byte("x"))
	large := versioned(t, 3, bytes.Repeat([]byte{1}, 1<<20), bytes.Repeat([]byte{2}, 1<<20), bytes.Repeat([]byte{3}, 1<<20), bytes.Repeat([]byte{4}, 1<<20), []byte{5})
	for name, c := range map[string]struct {
		p       *ckm.Patch
		x, base *ckm.Index
		want    error
	}{
		"of another package":   {patchFor(other, base), x, base, ckm.ErrMismatch},
		"with another base":    {patchFor(x, other), x, base, ckm.ErrMismatch},
		"of itself":            {patchFor(x, x), x, x, ckm.ErrMismatch},
		"no chunks":            {patchFor(x, base, ckm.PatchPart{First: 1, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}), x, base, ckm.ErrFormat},
		"chunks behind":        {patchFor(x, base, ckm.PatchPart{First: 7, Count: 2, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}), x, base, ckm.ErrFormat},
		"nothing stored":       {patchFor(x, base, ckm.PatchPart{First: 7, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 1)}}), x, base, ckm.ErrFormat},
		"too much stored":      {patchFor(x, base, ckm.PatchPart{First: 0, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1000}), x, base, ckm.ErrFormat},
		"no base":              {patchFor(x, base, ckm.PatchPart{First: 0, Count: 1, Stored: 1}), x, base, ckm.ErrFormat},
		"base of no chunks":    {patchFor(x, base, ckm.PatchPart{First: 0, Count: 1, Base: []ckm.ChunkRun{chunkRun(3, 0)}, Stored: 1}), x, base, ckm.ErrFormat},
		"base behind":          {patchFor(x, base, ckm.PatchPart{First: 0, Count: 1, Base: []ckm.ChunkRun{chunkRun(5, 4)}, Stored: 1}), x, base, ckm.ErrFormat},
		"runs not joined":      {patchFor(x, base, ckm.PatchPart{First: 0, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 1), chunkRun(1, 1)}, Stored: 1}), x, base, ckm.ErrFormat},
		"too many runs":        {patchFor(x, base, ckm.PatchPart{First: 0, Count: 1, Base: slices.Repeat([]ckm.ChunkRun{chunkRun(0, 1)}, 1025), Stored: 1}), x, base, ckm.ErrFormat},
		"parts out of order":   {patchFor(x, base, ckm.PatchPart{First: 4, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}, ckm.PatchPart{First: 3, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}), x, base, ckm.ErrFormat},
		"parts that overlap":   {patchFor(x, base, ckm.PatchPart{First: 3, Count: 2, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}, ckm.PatchPart{First: 4, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}), x, base, ckm.ErrFormat},
		"too much at once":     {patchFor(large, base, ckm.PatchPart{First: 0, Count: 2, Base: []ckm.ChunkRun{chunkRun(0, 1)}, Stored: 1}), large, base, ckm.ErrFormat},
		"too much of the base": {patchFor(x, large, ckm.PatchPart{First: 0, Count: 1, Base: []ckm.ChunkRun{chunkRun(0, 5)}, Stored: 1}), x, large, ckm.ErrFormat},
	} {
		if _, err := c.p.EncodeHead(c.x, c.base); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestPatchVectors holds testdata/patches true: heads of patches of patchPair, as
// they are written, and what must be refused.
func TestPatchVectors(t *testing.T) {
	x, base := patchPair(t)
	want := map[string][]byte{}
	add := func(name, expect string, head []byte) {
		want[name+".txt"] = formatVector(head, "package-digest", x.Digest().String(), "base-digest", base.Digest().String(), "expect", expect)
	}
	for name, p := range goodPatches(x, base) {
		head, err := p.EncodeHead(x, base)
		if err != nil {
			t.Fatal(err)
		}
		add("ok-"+name, "ok", head)
	}
	for name, head := range refusedPatches(t, x, base) {
		if p, err := ckm.DecodePatch(head, x, base); err == nil {
			t.Errorf("%s: accepted as %+v", name, p)
		}
		add("refused-"+name, "refused", head)
	}
	const dir = "testdata/patches"
	if *update {
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		for name, text := range want {
			if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != len(want) {
		t.Fatalf("%d vectors, should be %d; %v", len(files), len(want), err)
	}
	for _, f := range files {
		if text, err := os.ReadFile(filepath.Join(dir, f.Name())); err != nil || !bytes.Equal(text, want[f.Name()]) {
			t.Errorf("%s is not what is written now (go test ./ckm -update): %v", f.Name(), err)
		}
	}
}

// refusedPatches are heads whose digests are right.
func refusedPatches(t testing.TB, x, base *ckm.Index) map[string][]byte {
	t.Helper()
	good, err := goodPatches(x, base)["two"].EncodeHead(x, base)
	if err != nil {
		t.Fatal(err)
	}
	change := func(edit func(p []byte) []byte) []byte {
		p := edit(slices.Clone(good[:len(good)-32]))
		d := ckm.Sum(p)
		return append(p, d[:]...)
	}
	table := func(parts uint32, table string) []byte {
		return change(func(p []byte) []byte {
			b, err := hex.DecodeString(strings.ReplaceAll(table, " ", ""))
			if err != nil {
				t.Fatal(err)
			}
			binary.LittleEndian.PutUint32(p[84:], parts)
			binary.LittleEndian.PutUint32(p[88:], uint32(len(b)))
			return append(p[:96], b...)
		})
	}
	return map[string][]byte{
		"magic":            change(func(p []byte) []byte { p[0]++; return p }),
		"version":          change(func(p []byte) []byte { p[8]++; return p }),
		"reserved":         change(func(p []byte) []byte { p[10]++; return p }),
		"feature":          change(func(p []byte) []byte { p[12] = 4; return p }),
		"package":          change(func(p []byte) []byte { p[16]++; return p }),
		"base":             change(func(p []byte) []byte { p[48]++; return p }),
		"base-version":     change(func(p []byte) []byte { p[80]++; return p }),
		"reserved-end":     change(func(p []byte) []byte { p[92]++; return p }),
		"part-more":        table(2, "00 01 01 01 00 01"),
		"part-less":        table(0, "00 01 01 01 00 01"),
		"part-cut":         table(1, "00 01 01 02 00 01"),
		"number-long":      table(1, "80 00 01 01 01 00 01"),
		"chunk-behind":     table(1, "08 01 01 01 00 01"),
		"base-negative":    table(1, "00 01 01 01 01 01"),
		"base-behind":      table(1, "00 01 01 01 10 01"),
		"runs-not-joined":  table(1, "00 01 01 02 00 01 00 01"),
		"runs-none":        table(1, "00 01 01 00 00 01"),
		"stored-nothing":   table(1, "00 01 00 01 00 01"),
		"chunks-none":      table(1, "00 00 01 01 00 01"),
		"runs-beyond-all":  table(1, "00 01 01 ff 07 00 01"),
		"table-behind-end": change(func(p []byte) []byte { p[91] = 0xff; return p }),
	}
}

// TestPatchPart makes parts from bases of many sizes, and lets the zstd program
// make them too.
func TestPatchPart(t *testing.T) {
	c, d := ckm.NewPatchCompressor(), ckm.NewPatchDecoder()
	defer d.Close()
	dir := t.TempDir()
	for _, size := range []int{1, 7, 100, 4 << 10, 200 << 10, 1 << 20} {
		for _, baseSize := range []int{1, 8, 9, 1000, 300 << 10, 4 << 20} {
			base := testenv.Random(byte(baseSize), baseSize)
			raw := slices.Clone(base[max(0, len(base)-size):])
			raw = append(raw, testenv.Random(3, size-len(raw))...)
			for i := 0; i < len(raw); i += 5000 {
				raw[i]++
			}
			x := versioned(t, 2, raw)
			part := &ckm.PatchPart{First: 0, Count: 1}
			stored, err := c.Compress(raw, base)
			if err != nil {
				t.Fatal(err)
			}
			stored = slices.Clone(stored)
			if baseSize >= size && size >= 100<<10 && len(stored) > size/20 {
				t.Errorf("%d bytes from %d: stored as %d", size, baseSize, len(stored))
			}
			for _, dst := range [][]byte{nil, make([]byte, 0, 2<<20)} {
				got, err := d.Decode(x, part, dst, stored, base)
				if err != nil || !bytes.Equal(got, raw) {
					t.Fatalf("%d bytes from %d: %v", size, baseSize, err)
				}
			}
			if _, err := d.Decode(x, part, nil, append(slices.Clone(stored), stored...), base); !errors.Is(err, ckm.ErrMismatch) {
				t.Errorf("twice: %v", err)
			}
			if _, err := d.Decode(x, part, nil, stored[:len(stored)-1], base); !errors.Is(err, ckm.ErrMismatch) {
				t.Errorf("cut: %v", err)
			}
			if other := testenv.Random(9, baseSize); len(stored) < size/2 {
				if _, err := d.Decode(x, part, nil, stored, other); !errors.Is(err, ckm.ErrMismatch) {
					t.Errorf("another base: %v", err)
				}
			}
			zstdAgrees(t, dir, raw, base, stored)
		}
	}
}

// zstdAgrees sees that the zstd program makes raw from base, as with
// zstd --patch-from.
func zstdAgrees(t *testing.T, dir string, raw, base, stored []byte) {
	t.Helper()
	testenv.Need(t, "zstd")
	in, from := filepath.Join(dir, "part.zst"), filepath.Join(dir, "base")
	if err := errors.Join(os.WriteFile(in, stored, 0o644), os.WriteFile(from, base, 0o644)); err != nil {
		t.Fatal(err)
	}
	got, err := exec.Command("zstd", "-q", "-d", "-c", "--patch-from="+from, in).Output()
	if err != nil || !bytes.Equal(got, raw) {
		t.Errorf("zstd makes %d bytes of %d from %d: %v", len(got), len(raw), len(base), err)
	}
}

// FuzzDecodePatch checks that what is accepted has no other spelling.
func FuzzDecodePatch(f *testing.F) {
	x, base := patchPair(f)
	for _, p := range goodPatches(x, base) {
		head, err := p.EncodeHead(x, base)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(head[84:92], head[96:len(head)-32])
	}
	for _, head := range refusedPatches(f, x, base) {
		f.Add(head[84:92], head[96:len(head)-32])
	}
	empty, err := patchFor(x, base).EncodeHead(x, base)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, counts, table []byte) {
		head := slices.Concat(empty[:96], table)
		binary.LittleEndian.PutUint32(head[88:], uint32(len(table)))
		copy(head[84:92], counts)
		d := ckm.Sum(head)
		head = append(head, d[:]...)
		p, err := ckm.DecodePatch(head, x, base)
		if err != nil {
			return
		}
		if again, err := p.EncodeHead(x, base); err != nil || !bytes.Equal(again, head) {
			t.Fatalf("%x was accepted and is written as %x: %v", head, again, err)
		}
	})
}

// FuzzPatchPart checks that nothing is accepted for a part but what makes its
// chunks.
func FuzzPatchPart(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	base := noise(r, 3000)
	raw := slices.Concat(base[1000:], noise(r, 100), base[:500])
	stored, err := ckm.NewPatchCompressor().Compress(raw, base)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(slices.Clone(stored))
	f.Add(ckm.NewCompressor(ckm.LevelFast).Append(nil, raw))
	x := versioned(f, 2, raw[:1200], raw[1200:])
	membersBase, membersRaw, parts := partCases(f)
	for _, stored := range parts {
		f.Add(stored)
	}
	membersX := versioned(f, 2, membersRaw)
	d := ckm.NewPatchDecoder()
	f.Fuzz(func(t *testing.T, stored []byte) {
		for _, c := range []struct {
			x         *ckm.Index
			base, raw []byte
		}{{x, base, raw}, {membersX, membersBase, membersRaw}} {
			got, err := d.Decode(c.x, &ckm.PatchPart{First: 0, Count: uint32(c.x.Chunks())}, nil, stored, c.base)
			if err == nil && !bytes.Equal(got, c.raw) {
				t.Fatal("other bytes were accepted")
			}
			if err != nil && !errors.Is(err, ckm.ErrMismatch) {
				t.Fatal(err)
			}
		}
	})
}

func TestPatchName(t *testing.T) {
	if got := ckm.PatchName("win11", 3); got != "win11_3.patch" {
		t.Error(got)
	}
	for file, want := range map[string]bool{"win11_3.patch": true, "win11_03.patch": false, "win11_3.ckm": false, "win11_3.ckm.patch": false, "a b_3.patch": false, ".patch": false} {
		if name, version, ok := ckm.ParsePatchName(file); ok != want || ok && ckm.PatchName(name, version) != file {
			t.Errorf("%s: %q, %d, %v", file, name, version, ok)
		}
	}
	if _, _, _, ok := ckm.ParseFileName(ckm.PatchName("win11", 3)); ok {
		t.Error("a patch is taken for a file of a package")
	}
}

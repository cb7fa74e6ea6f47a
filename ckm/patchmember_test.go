package ckm_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/deflate"
	"prestage/internal/testenv"
)

func made(head, p []byte, by deflate.Maker) []byte {
	b, err := new(deflate.Encoder).Append(head, p, by)
	if err != nil {
		panic(err)
	}
	return b
}

// gzipped returns a gzip file, as GNU gzip makes it.
func gzipped(p []byte) []byte {
	head := []byte{0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 2, 3}
	return append(made(head, p, deflate.Gzip|9), "checksum"...)
}

// inArchive returns a file in a zip archive, as Java makes it.
func inArchive(p []byte) []byte {
	head := make([]byte, 30)
	copy(head, "PK\x03\x04")
	head[8], head[26] = 8, 1
	return made(append(head, 'x'), p, deflate.Zlib|6)
}

// compressedFiles returns two versions of some files, all but one of which have
// changed a little.
func compressedFiles() (old, new []byte) {
	for i := range 12 {
		p := testenv.Text(byte(i), 20_000)
		q := slices.Concat([]byte("1.23"), p)
		if i == 5 {
			q = p
		}
		pack := gzipped
		if i%3 == 0 {
			pack = inArchive
		}
		old, new = append(old, pack(p)...), append(new, pack(q)...)
		rest := testenv.Random(byte(i), 700)
		old, new = append(old, rest...), append(new, rest...)
	}
	return old, new
}

// TestPatchMembers makes a part from files of which not a byte stays as it is.
func TestPatchMembers(t *testing.T) {
	base, raw := compressedFiles()
	x := versioned(t, 2, raw[:1000], raw[1000:])
	part := &ckm.PatchPart{First: 0, Count: 2}
	c, d := ckm.NewPatchCompressor(), ckm.NewPatchDecoder()
	defer d.Close()
	stored, err := c.Compress(raw, base)
	if err != nil {
		t.Fatal(err)
	}
	stored = slices.Clone(stored)
	if len(stored) > len(raw)/50 {
		t.Errorf("%d bytes from %d: stored as %d", len(raw), len(base), len(stored))
	}
	for range 2 {
		got, err := d.Decode(x, part, nil, stored, base)
		if err != nil || !bytes.Equal(got, raw) {
			t.Fatalf("%d bytes come back as %d: %v", len(raw), len(got), err)
		}
	}
	// Whatever is wrong with it is seen.
	for i := range min(200, len(stored)) {
		bad := slices.Clone(stored)
		bad[i] ^= 0x11
		if got, err := d.Decode(x, part, nil, bad, base); err == nil && !bytes.Equal(got, raw) || err != nil && !errors.Is(err, ckm.ErrMismatch) {
			t.Errorf("changed at %d: %d bytes, %v", i, len(got), err)
		}
		if _, err := d.Decode(x, part, nil, stored[:i], base); !errors.Is(err, ckm.ErrMismatch) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
	for _, other := range [][]byte{nil, base[:len(base)/2], testenv.Random(9, len(base)), raw} {
		if _, err := d.Decode(x, part, nil, stored, other); !errors.Is(err, ckm.ErrMismatch) {
			t.Errorf("another base: %v", err)
		}
	}
	// What no known program has made stays as it is, and so does what both have.
	var foreign bytes.Buffer
	w, err := gzip.NewWriterLevel(&foreign, gzip.HuffmanOnly)
	if err == nil {
		_, err = w.Write(testenv.Text(1, 50_000))
	}
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	same := slices.Concat(gzipped(testenv.Text(1, 50_000)), testenv.Random(1, 5000))
	for _, raw := range [][]byte{foreign.Bytes(), same} {
		stored, err := c.Compress(raw, slices.Concat(base, same[:len(same)-5000]))
		if err != nil || bytes.HasPrefix(stored, []byte{0x50, 0x2a}) {
			t.Errorf("members are said to be in it: %x, %v", stored[:20], err)
		}
	}
}

// A member that decompresses to very much.
func TestPatchMemberBomb(t *testing.T) {
	bomb := gzipped(make([]byte, 64<<20))
	raw := slices.Concat(bomb, testenv.Random(1, 2000))
	c, d := ckm.NewPatchCompressor(), ckm.NewPatchDecoder()
	defer d.Close()
	stored, err := c.Compress(raw, slices.Concat(bomb, bomb))
	if err != nil {
		t.Fatal(err)
	}
	x := versioned(t, 2, raw)
	if got, err := d.Decode(x, &ckm.PatchPart{Count: 1}, nil, stored, slices.Concat(bomb, bomb)); err != nil || !bytes.Equal(got, raw) {
		t.Error(err)
	}
	small := gzipped([]byte("small, but long enough to be looked at, which is some fifty bytes"))
	stored = membersOf(1<<20, []uint64{10, uint64(len(bomb) - 18)}, []uint64{0, 0}, deflate.Zlib|6)
	if _, err := d.Decode(versioned(t, 2, small), &ckm.PatchPart{Count: 1}, nil, append(stored, frameOf(t, small)...), bomb); !errors.Is(err, ckm.ErrMismatch) {
		t.Errorf("a bomb in the base: %v", err)
	}
}

// membersOf is the frame that says which members there are, one in the base and one
// in the chunks at most.
func membersOf(length uint64, base, chunks []uint64, maker deflate.Maker) []byte {
	p := binary.AppendUvarint(nil, length)
	for i, s := range [][]uint64{base, chunks} {
		p = append(p, byte(len(s)/2))
		for _, n := range s {
			p = binary.AppendUvarint(p, n)
		}
		if i == 1 && len(s) > 0 {
			p = append(p, byte(maker))
		}
	}
	return append(binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(p))), p...)
}

// frameOf is a frame that makes p without a base.
func frameOf(t testing.TB, p []byte) []byte {
	t.Helper()
	b, err := ckm.NewPatchCompressor().Compress(p, []byte("x"))
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(b)
}

const partDir = "testdata/parts"

// partCases are the stored bytes of parts with members, of one chunk, by name.
func partCases(t testing.TB) (base, raw []byte, stored map[string][]byte) {
	t.Helper()
	text := bytes.Repeat([]byte("What was compressed is hard to compare. "), 3)
	base = slices.Concat([]byte("old"), gzipped(text))
	changed := append(text, "But not as it was before."...)
	raw = slices.Concat([]byte("new"), gzipped(changed))
	body := func(members []byte, frame []byte) []byte { return slices.Concat(members, frame) }
	in := slices.Concat(raw[:13], changed, raw[len(raw)-8:]) // expanded
	from := []uint64{13, uint64(len(base) - 13 - 8)}
	to := []uint64{13, uint64(len(changed))}
	frame := frameOf(t, in)
	length := uint64(len(in))
	good := membersOf(length, from, to, deflate.Gzip|9)
	long := slices.Clone(good)
	long[4]++
	return base, raw, map[string][]byte{
		"ok-members":               body(good, frame),
		"ok-members-base-none":     body(membersOf(length, nil, to, deflate.Gzip|9), frame),
		"refused-maker":            body(membersOf(length, from, to, 3), frame),
		"refused-maker-program":    body(membersOf(length, from, to, 0x29), frame),
		"refused-members-none":     body(membersOf(length, from, nil, 0), frame),
		"refused-length":           body(membersOf(length+1, from, to, deflate.Gzip|9), frame),
		"refused-length-too-long":  body(membersOf(ckm.MaxPatchExpanded+1, from, to, deflate.Gzip|9), frame),
		"refused-base-behind":      body(membersOf(length, []uint64{13, uint64(len(base))}, to, deflate.Gzip|9), frame),
		"refused-base-not-member":  body(membersOf(length, []uint64{0, from[1]}, to, deflate.Gzip|9), frame),
		"refused-base-shorter":     body(membersOf(length, []uint64{13, from[1] + 1}, to, deflate.Gzip|9), frame),
		"refused-member-behind":    body(membersOf(length, from, []uint64{13, length}, deflate.Gzip|9), frame),
		"refused-rest-in-members":  body(append(long, 0), frame),
		"refused-members-cut":      good[:len(good)-1],
		"refused-members-alone":    good,
		"refused-members-twice":    body(slices.Concat(good, good), frame),
		"refused-another-skipped":  body(append([]byte{0x51}, good[1:]...), frame),
		"refused-another-maker":    body(membersOf(length, from, []uint64{0, 3}, deflate.Zlib|6), frame),
		"refused-without-members":  frame,
		"refused-behind-the-frame": append(body(good, frame), 0),
	}
}

// TestPartVectors holds testdata/parts true.
func TestPartVectors(t *testing.T) {
	base, raw, cases := partCases(t)
	if *update {
		if err := errors.Join(os.RemoveAll(partDir), os.MkdirAll(partDir, 0o755)); err != nil {
			t.Fatal(err)
		}
		for name, stored := range cases {
			expect := "refused"
			if name[:2] == "ok" {
				expect = "ok"
			}
			text := formatVector(stored, "expect", expect, "base", hex.EncodeToString(base), "chunk", hex.EncodeToString(raw))
			if err := os.WriteFile(filepath.Join(partDir, name+".txt"), text, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	files, err := os.ReadDir(partDir)
	if err != nil || len(files) != len(cases) {
		t.Fatalf("%d vectors, should be %d; %v", len(files), len(cases), err)
	}
	d := ckm.NewPatchDecoder()
	defer d.Close()
	for _, f := range files {
		text, err := os.ReadFile(filepath.Join(partDir, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		v, err := parseVector(text)
		if err != nil {
			t.Fatalf("%s: %v", f.Name(), err)
		}
		base, err1 := hex.DecodeString(v.fields["base"])
		chunk, err2 := hex.DecodeString(v.fields["chunk"])
		if err := errors.Join(err1, err2); err != nil {
			t.Fatalf("%s: %v", f.Name(), err)
		}
		got, err := d.Decode(versioned(t, 2, chunk), &ckm.PatchPart{Count: 1}, nil, v.index, base)
		if ok := err == nil && bytes.Equal(got, chunk); ok != (v.fields["expect"] == "ok") {
			t.Errorf("%s: %v", f.Name(), err)
		}
	}
}

// TestManyMembers has a base with more members than are looked into, and a part that
// says so of its chunks.
func TestManyMembers(t *testing.T) {
	var base, raw []byte
	for i := range ckm.MaxPatchMembers + 100 {
		p := testenv.Random(byte(i), 70) // hardly compresses
		p[0], p[1] = byte(i>>8), byte(i)
		base = append(base, gzipped(p)...)
		if p[2]++; i%100 == 0 {
			raw = append(raw, gzipped(p)...)
		}
	}
	c, d := ckm.NewPatchCompressor(), ckm.NewPatchDecoder()
	defer d.Close()
	stored, err := c.Compress(raw, base)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := d.Decode(versioned(t, 2, raw), &ckm.PatchPart{Count: 1}, nil, stored, base); err != nil || !bytes.Equal(got, raw) {
		t.Error(err)
	}
	if len(stored) > len(raw)/4 {
		t.Errorf("%d bytes are stored as %d", len(raw), len(stored))
	}
	many := binary.AppendUvarint([]byte{1, 0}, ckm.MaxPatchMembers+1)
	for range ckm.MaxPatchMembers + 1 {
		many = append(many, 0, 0, byte(deflate.Zlib|6))
	}
	head := binary.LittleEndian.AppendUint32([]byte{0x50, 0x2a, 0x4d, 0x18}, uint32(len(many)))
	bad := slices.Concat(head, many, frameOf(t, []byte("x")))
	if _, err := d.Decode(versioned(t, 2, []byte("x")), &ckm.PatchPart{Count: 1}, nil, bad, base); err == nil || !strings.Contains(err.Error(), "members are not what") {
		t.Error(err)
	}
}

package ckm_test

import (
	"bytes"
	"math/rand/v2"
	"testing"

	"prestage/ckm"
)

// FuzzDecode checks that what is accepted has no other spelling: encoding it
// again gives the same bytes. Each input is tried as it is and with its
// digests made to fit, or hardly any would get beyond them.
func FuzzDecode(f *testing.F) {
	// The refused vectors are near the accepted ones, and large seeds leave no
	// time for anything else.
	for _, v := range readVectors(f) {
		if v.fields["expect"] == "ok" && len(v.index) < 2000 {
			f.Add(v.index)
		}
	}
	f.Fuzz(func(t *testing.T, p []byte) {
		checkAccepted(t, p)
		checkAccepted(t, reseal(p))
	})
}

// FuzzDecodeFrame checks that no bytes are accepted for a frame but some that
// decompress to its chunks, and that it all stays within bounds.
func FuzzDecodeFrame(f *testing.F) {
	r := rand.New(rand.NewPCG(2, 2))
	raws := [][]byte{tinyImage(), []byte("x"), bytes.Repeat([]byte("prestage "), 500), noise(r, 300), append(noise(r, 1000), make([]byte, 200000)...)}
	for i, raw := range raws {
		for _, level := range []ckm.Level{ckm.LevelFast, ckm.LevelDefault, ckm.LevelBest} {
			f.Add(ckm.NewCompressor(level).Append(nil, raw), uint8(i), uint16(0))
		}
	}
	f.Add(tinyFrame, uint8(0), uint16(1))
	f.Add(append(tinyFrame, tinyFrame...), uint8(0), uint16(9))
	f.Fuzz(func(t *testing.T, stored []byte, which uint8, room uint16) {
		if len(stored) == 0 {
			return
		}
		raw := raws[int(which)%len(raws)]
		x := oneFrame(stored, raw)
		buf := make([]byte, int(room))
		out, err := x.DecodeFrame(0, buf[:0], stored)
		if err == nil && !bytes.Equal(out, raw) {
			t.Fatal("other bytes were accepted")
		}
		if len(raw) <= len(buf) && err == nil && &out[0] != &buf[0] {
			t.Fatal("the buffer was not used")
		}
		for _, b := range buf[min(len(buf), len(raw)+16):] {
			if b != 0 {
				t.Fatal("more of the buffer than the frame's part was written to")
			}
		}
	})
}

// FuzzParseFileName checks that a name comes apart in one way only.
func FuzzParseFileName(f *testing.F) {
	for _, file := range []string{"win11_3.ckm", "a_b_10.index", "_1.ckm", "x.ckm_1.ckm", "CON_1.ckm", "é_2147483647.index", "a_01.ckm", "a b_1.ckm", "../a_1.ckm"} {
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, file string) {
		name, version, ext, ok := ckm.ParseFileName(file)
		// Every name is also tried as an image's name.
		if err := ckm.CheckName(file); err == nil {
			for _, made := range []string{ckm.DataName(file, 7), ckm.IndexName(file, 7)} {
				if n, v, _, ok := ckm.ParseFileName(made); !ok || n != file || v != 7 {
					t.Fatalf("%q became %q, %d, %v", made, n, v, ok)
				}
				if err := ckm.CheckPath(made); err != nil {
					t.Fatalf("a package's file cannot be made: %v", err)
				}
			}
		}
		if !ok {
			return
		}
		if err := ckm.CheckName(name); err != nil || version < 1 || version > 1<<31-1 {
			t.Fatalf("%q, %d: %v", name, version, err)
		}
		made := ckm.DataName(name, version)
		if ext == ckm.IndexExt {
			made = ckm.IndexName(name, version)
		}
		if made != file {
			t.Fatalf("%q came apart and together as %q", file, made)
		}
	})
}

// FuzzParts puts any bytes in the place of a map page or of the info section
// of a package that is good otherwise, of the right length and with digests
// that fit: to find those by chance would take too long.
func FuzzParts(f *testing.F) {
	for _, c := range goodCases() {
		pages := c.model.mapPages
		if pages == nil {
			pages = c.model.segmentPages()
		}
		for _, p := range pages {
			f.Add(true, uint8(len(p)), bytes.Join(asBytes(p), nil))
		}
		f.Add(false, uint8(0), c.model.infoSection())
	}
	f.Fuzz(func(t *testing.T, isMap bool, items uint8, part []byte) {
		m := mapped(page(seg(run, stay, next, 4)))
		if isMap && items > 0 {
			m.mapPages[0] = append([]mSegment{part}, make([]mSegment, items-1)...)
		} else {
			m.infoBytes = func([]byte) []byte { return part }
		}
		checkAccepted(t, m.build())
	})
}

func asBytes(segments []mSegment) (all [][]byte) {
	for _, s := range segments {
		all = append(all, s)
	}
	return all
}

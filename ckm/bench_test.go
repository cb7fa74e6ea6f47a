package ckm_test

import (
	"testing"

	"prestage/ckm"
)

// bench returns a package as a large image makes one: n chunks of 64 KiB, four
// to a frame, a hole now and then, and a tenth of the chunks placed again.
func bench(n int) *ckm.Index {
	x := &ckm.Index{Info: ckm.Info{Name: "large", Version: 1, FrameLimit: ckm.MaxFrameLimit}}
	stored := make([]byte, 90000)
	var at uint64
	for c := range n {
		if c%4 == 0 {
			var ids []ckm.ID
			var lengths []int
			for i := range 4 {
				id := ckm.Sum([]byte{byte(c), byte(c >> 8), byte(c >> 16), byte(i)})
				ids, lengths = append(ids, id), append(lengths, 65536)
			}
			stored[0], stored[1], stored[2] = byte(c), byte(c>>8), byte(c>>16)
			x.AddFrame(stored, ckm.CodecZstd, ids, lengths)
		}
		if c%10 == 0 {
			at += 1 << 20
			x.Place(uint32(c/3), 0, at)
			at += 65536
		}
		x.Place(uint32(c), 0, at)
		at += 65536
	}
	x.Files = []ckm.File{{Path: "a", Size: at, Format: "raw"}}
	x.CKMLength = ckm.HeaderSize + uint64(x.Frames())*uint64(len(stored)) + ckm.TrailerSize
	x.Content = contentOf(x)
	return x
}

func BenchmarkDecode(b *testing.B) {
	p, err := bench(1 << 17).Encode() // an image of 8 GiB
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(p)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ckm.Decode(p); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecodeFrame(b *testing.B) {
	data, x, _ := realPackage(b, ckm.LevelDefault)
	f := x.Frames() - 1
	fr := x.Frame(f)
	stored := data[fr.Offset : fr.Offset+uint64(fr.Stored)]
	buf := make([]byte, 0, ckm.MaxFrameLimit+16)
	b.SetBytes(int64(x.FrameLength(f)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := x.DecodeFrame(f, buf, stored); err != nil {
			b.Fatal(err)
		}
	}
}

package verify_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"prestage/ckm"
	"prestage/internal/testenv"
	"prestage/internal/verify"
)

// A CKM that comes from somebody else is right as a whole, or the first frame that
// is not is named.
func TestContent(t *testing.T) {
	var b bytes.Buffer
	x := &ckm.Index{Info: ckm.Info{Name: "vm", Version: 1, FrameLimit: 256 << 10, Files: []ckm.File{{Path: "a.img", Size: 10 * 200 << 10, Format: "raw"}}}}
	w, err := ckm.NewWriter(&b, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(ckm.LevelFast)
	for i := range 10 {
		raw := testenv.Random(byte(i), 200<<10)
		x.Place(uint32(i), 0, uint64(i)*200<<10)
		if err := w.WriteFrame(c.Append(nil, raw), ckm.CodecZstd, []ckm.ID{ckm.Sum(raw)}, []int{len(raw)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	encoded, err := x.Encode()
	if err == nil {
		x, err = ckm.Decode(encoded)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []struct{ offset, bad int }{
		{-1, -1}, {3, -1}, {b.Len() - 1, -1}, {int(x.Frame(0).Offset), 0}, {int(x.Frame(7).Offset) + 500, 7}, {int(x.Frame(9).Offset) + 100_000, 9},
	} {
		p := bytes.Clone(b.Bytes())
		if at.offset >= 0 {
			p[at.offset] ^= 1
		}
		heard := int64(0)
		bad, err := verify.Content(t.Context(), x, bytes.NewReader(p), func(n int64) { heard += n })
		if bad != at.bad || (at.offset < 0) != (err == nil) || err != nil && !errors.Is(err, ckm.ErrMismatch) || heard != int64(len(p)) {
			t.Errorf("byte %d: frame %d, %v, %d bytes of %d", at.offset, bad, err, heard, len(p))
		}
	}
	if _, err := verify.Content(t.Context(), x, bytes.NewReader(b.Bytes()[:b.Len()-1]), func(int64) {}); !errors.Is(err, io.EOF) {
		t.Errorf("cut short: %v", err)
	}
}

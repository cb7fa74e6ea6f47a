package ckm_test

import (
	"bytes"
	"math/rand/v2"
	"runtime"
	"slices"
	"testing"

	"prestage/ckm"

	"github.com/klauspost/compress/zstd"
)

// oneFrame returns an index of one frame with the stored bytes, which should
// become the chunks.
func oneFrame(stored []byte, chunks ...[]byte) *ckm.Index {
	x := &ckm.Index{}
	var ids []ckm.ID
	var lengths []int
	for _, c := range chunks {
		ids, lengths = append(ids, ckm.Sum(c)), append(lengths, len(c))
	}
	x.AddFrame(stored, ckm.CodecZstd, ids, lengths)
	return x
}

// zstdFrame compresses by other options than the Compressor's.
func zstdFrame(t testing.TB, raw []byte, options ...zstd.EOption) []byte {
	t.Helper()
	options = append([]zstd.EOption{zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithZeroFrames(true)}, options...)
	e, err := zstd.NewWriter(nil, options...)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	return e.EncodeAll(raw, nil)
}

func TestDecodeFrame(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	for _, n := range []int{1, 2, 255, 256, 257, 65535, 65536, 65791, 65792, 1<<17 - 1, 1 << 17, 1<<17 + 1, ckm.MaxFrameLimit - 1, ckm.MaxFrameLimit} {
		for _, level := range []ckm.Level{ckm.LevelFast, ckm.LevelDefault, ckm.LevelBest} {
			c := ckm.NewCompressor(level)
			for _, raw := range [][]byte{noise(r, n), make([]byte, n), bytes.Repeat([]byte("prestage"), n/8+1)[:n]} {
				stored := c.Append(nil, raw)
				if limit := n + n/64 + 128; len(stored) > limit {
					t.Errorf("%d bytes became %d, more than %d", n, len(stored), limit)
				}
				x := oneFrame(stored, raw)
				got, err := x.DecodeFrame(0, nil, stored)
				if err != nil || !bytes.Equal(got, raw) {
					t.Fatalf("level %v, %d bytes: %v", level, n, err)
				}
			}
		}
	}
}

// TestDecodeFrameBuffer checks that dst is used when it is large enough, at
// its full capacity the next time, and that nothing much beyond the frame's
// length is written to.
func TestDecodeFrameBuffer(t *testing.T) {
	raw := bytes.Repeat([]byte("raw "), 1000)
	stored := ckm.NewCompressor(ckm.LevelDefault).Append(nil, raw)
	x := oneFrame(stored, raw)
	buf := bytes.Repeat([]byte{0xee}, 10000)
	out, err := x.DecodeFrame(0, buf[:0], stored)
	if err != nil || !bytes.Equal(out, raw) {
		t.Fatal(err)
	}
	if &out[0] != &buf[0] {
		t.Error("dst was not used")
	}
	if cap(out) != cap(buf) {
		t.Errorf("of dst's %d bytes %d are left for the next frame", cap(buf), cap(out))
	}
	if rest := buf[len(raw)+16:]; !bytes.Equal(rest, bytes.Repeat([]byte{0xee}, len(rest))) {
		t.Error("more than 16 bytes after the frame's were overwritten")
	}
	for extra := range 20 { // also with less room than the decoder would like
		if out, err := x.DecodeFrame(0, make([]byte, 0, len(raw)+extra), stored); err != nil || !bytes.Equal(out, raw) {
			t.Errorf("with %d bytes to spare: %v", extra, err)
		}
	}
	if n := testing.AllocsPerRun(20, func() {
		if _, err := x.DecodeFrame(0, buf, stored); err != nil {
			t.Fatal(err)
		}
	}); n > 2 {
		t.Errorf("%v allocations for a frame that fits dst", n)
	}
}

func TestDecodeFrameRefuses(t *testing.T) {
	raw := bytes.Repeat([]byte("some text, "), 500)
	other := bytes.Repeat([]byte("other text,"), 500)
	good := ckm.NewCompressor(ckm.LevelDefault).Append(nil, raw)
	empty := zstdFrame(t, nil)
	skippable := []byte{0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3}
	var streamed bytes.Buffer // states no content size
	e, err := zstd.NewWriter(&streamed, zstd.WithEncoderCRC(false))
	if err != nil {
		t.Fatal(err)
	}
	e.Write(raw)
	e.Flush() // more than one block, so that the encoder cannot know
	e.Write(raw)
	e.Close()
	dict := zstdFrame(t, raw, zstd.WithEncoderDictRaw(77, bytes.Repeat([]byte("some text, "), 20)))
	bomb := zstdFrame(t, make([]byte, 8<<20))
	// The same bomb that claims to have 5,500 bytes: header of 4+1+4 bytes.
	lying := slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 0x7c, 0x15, 0, 0}, bomb[9:])
	short := zstdFrame(t, raw[:5000])
	// The good frame, asking for a window of 2 MiB: descriptor, window, size.
	window := slices.Concat([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x40, 0x58, 0x7c, 0x14}, good[7:])
	for _, c := range []struct {
		what   string
		stored []byte
		why    string
	}{
		{"nothing", nil, "not the zstd frame"},
		{"garbage", []byte("garbage, and enough of it"), "not the zstd frame"},
		{"cut short", good[:len(good)-1], "frame 0"},
		{"a byte more", append(slices.Clone(good), 0), "not the zstd frame"},
		{"twice", append(slices.Clone(good), good...), "not the zstd frame"},
		{"in two frames", append(zstdFrame(t, raw[:100]), zstdFrame(t, raw[100:])...), "not the zstd frame"},
		{"then an empty frame", append(slices.Clone(good), empty...), "not the zstd frame"},
		{"after an empty frame", append(slices.Clone(empty), good...), "not the zstd frame"},
		{"then a skippable frame", append(slices.Clone(good), skippable...), "not the zstd frame"},
		{"after a skippable frame", append(slices.Clone(skippable), good...), "not the zstd frame"},
		{"only a skippable frame", skippable, "not the zstd frame"},
		{"no content size", streamed.Bytes(), "not the zstd frame"},
		{"a checksum", zstdFrame(t, raw, zstd.WithEncoderCRC(true)), "not the zstd frame"},
		{"a dictionary", dict, "not the zstd frame"},
		{"content size too small", short, "not the zstd frame"},
		{"content size too large", zstdFrame(t, append(slices.Clone(raw), 'x')), "not the zstd frame"},
		{"too large a window", window, "not the zstd frame"},
		{"a bomb", bomb, "not the zstd frame"},
		{"a bomb that lies", lying, "frame 0"},
		{"other content", zstdFrame(t, other), "chunk 0 in frame 0"},
	} {
		t.Run(c.what, func(t *testing.T) {
			x := oneFrame(c.stored, raw)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := x.DecodeFrame(0, nil, c.stored)
			runtime.ReadMemStats(&after)
			refuse(t, err, ckm.ErrMismatch, c.why)
			if n := after.TotalAlloc - before.TotalAlloc; n > 8<<20 {
				t.Errorf("refused, but after allocating %d bytes", n)
			}
			if c.stored == nil {
				return
			}
			x = oneFrame(good, raw)
			_, err = x.DecodeFrame(0, nil, c.stored)
			refuse(t, err, ckm.ErrMismatch, "frame 0")
		})
	}
	t.Run("wrong length", func(t *testing.T) {
		x := oneFrame(good, raw)
		for _, p := range [][]byte{nil, good[:len(good)-1], append(slices.Clone(good), 0)} {
			_, err := x.DecodeFrame(0, nil, p)
			refuse(t, err, ckm.ErrMismatch, "should have")
			refuse(t, x.CheckStored(0, p), ckm.ErrMismatch, "frame 0")
		}
	})
	t.Run("one ID of two is wrong", func(t *testing.T) {
		x := oneFrame(good, raw[:2000], append(slices.Clone(raw[2000:len(raw)-1]), 'X'))
		_, err := x.DecodeFrame(0, nil, good)
		refuse(t, err, ckm.ErrMismatch, "chunk 1 in frame 0")
	})
	t.Run("chunks cut elsewhere", func(t *testing.T) {
		x := &ckm.Index{}
		x.AddFrame(good, 0, []ckm.ID{ckm.Sum(raw[:100]), ckm.Sum(raw[100:])}, []int{101, len(raw) - 101})
		_, err := x.DecodeFrame(0, nil, good)
		refuse(t, err, ckm.ErrMismatch, "chunk 0 in frame 0")
	})
	t.Run("every byte", func(t *testing.T) {
		x := oneFrame(good, raw)
		for i := range good {
			for _, mask := range []byte{0x01, 0x80, 0xff} {
				p := slices.Clone(good)
				p[i] ^= mask
				if out, err := x.DecodeFrame(0, nil, p); err == nil && !bytes.Equal(out, raw) {
					t.Fatalf("byte %d: other bytes were accepted", i)
				}
				refuse(t, x.CheckStored(0, p), ckm.ErrMismatch, "frame 0")
			}
		}
	})
}

// TestDecodeFrameOfOthers checks that frames are accepted as the format allows
// them, not only as our Compressor writes them.
func TestDecodeFrameOfOthers(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	raw := append(noise(r, 300000), make([]byte, 500000)...)
	byHand := []byte{0x28, 0xb5, 0x2f, 0xfd, 0xa0, 3, 0, 0, 0, 0x08, 0, 0, 'a', 0x08, 0, 0, 'b', 0x09, 0, 0, 'c'} // three raw blocks
	emptyLast := slices.Concat(byHand[:len(byHand)-4], []byte{0x08, 0, 0, 'c', 0x01, 0, 0})
	for _, c := range []struct {
		what        string
		stored, raw []byte
	}{
		{"window of 8 MiB", windowed(t, raw, 8<<20), raw},
		{"small window", windowed(t, raw, 64<<10), raw},
		{"by hand", byHand, []byte("abc")},
		{"an empty last block", emptyLast, []byte("abc")},
	} {
		got, err := oneFrame(c.stored, c.raw).DecodeFrame(0, nil, c.stored)
		if err != nil || !bytes.Equal(got, c.raw) {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

// windowed compresses with a window descriptor instead of a single segment,
// and states the content size.
func windowed(t *testing.T, raw []byte, window int) []byte {
	t.Helper()
	var b bytes.Buffer
	e, err := zstd.NewWriter(nil, zstd.WithEncoderCRC(false), zstd.WithWindowSize(window))
	if err != nil {
		t.Fatal(err)
	}
	e.ResetContentSize(&b, int64(len(raw)))
	e.Write(raw)
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

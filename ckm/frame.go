package ckm

import (
	"fmt"
	"sync"

	"github.com/klauspost/compress/zstd"
)

// Level says how hard a Compressor tries.
type Level int

// Levels of compression.
const (
	LevelDefault Level = iota
	LevelFast
	LevelBest
)

// ParseLevel reads a level's name: fast, default or best.
func ParseLevel(s string) (Level, error) {
	switch s {
	case "fast":
		return LevelFast, nil
	case "default":
		return LevelDefault, nil
	case "best":
		return LevelBest, nil
	}
	return 0, fmt.Errorf("compression level %q: use fast, default or best", s)
}

// Compressor compresses frames. It is for one goroutine at a time.
type Compressor struct{ enc *zstd.Encoder }

// NewCompressor returns a Compressor for the level.
func NewCompressor(level Level) *Compressor {
	l := map[Level]zstd.EncoderLevel{
		LevelFast: zstd.SpeedFastest, LevelDefault: zstd.SpeedDefault, LevelBest: zstd.SpeedBestCompression,
	}[level]
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(l), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithSingleSegment(true), zstd.WithWindowSize(MaxFrameLimit))
	if err != nil {
		panic(err) // the options are constants
	}
	return &Compressor{enc}
}

// Append appends raw, compressed as one frame with CodecZstd, to dst.
func (c *Compressor) Append(dst, raw []byte) []byte { return c.enc.EncodeAll(raw, dst) }

// Decompressing is safe for many goroutines with one decoder.
var decoder = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecoderMaxMemory(MaxFrameLimit),
		zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return d
})

// DecodeSlack is the room in bytes after a frame's raw bytes that lets the
// decoder copy without looking at every end: it takes a quarter less time.
const DecodeSlack = 16

// DecodeFrame decompresses frame f from its stored bytes into dst[:0] and
// returns its chunks' bytes, one after the other, each checked against its ID.
// It may write to dst's whole capacity; when that is less than the frame's
// length it makes a new slice. The error wraps ErrMismatch when the bytes are
// not the frame's.
func (x *Index) DecodeFrame(f int, dst, stored []byte) ([]byte, error) {
	raw := x.FrameLength(f)
	if len(stored) != int(x.frames[f].Stored) {
		return nil, fmt.Errorf("%w: frame %d has %d bytes, should have %d", ErrMismatch, f, len(stored), x.frames[f].Stored)
	}
	var h zstd.Header
	if err := h.Decode(stored); err != nil || h.Skippable || !h.HasFCS || h.FrameContentSize != uint64(raw) ||
		h.DictionaryID != 0 || h.HasCheckSum || h.WindowSize > MaxFrameLimit || !endsWithFrame(stored[h.HeaderSize:]) {
		return nil, fmt.Errorf("%w: frame %d is not the zstd frame it should be", ErrMismatch, f)
	}
	if cap(dst) < raw {
		dst = make([]byte, 0, raw+DecodeSlack)
	}
	out, err := decoder().DecodeAll(stored, dst[:0:min(cap(dst), raw+DecodeSlack)])
	if err != nil {
		return nil, fmt.Errorf("%w: frame %d: %v", ErrMismatch, f, err)
	}
	if len(out) != raw {
		return nil, fmt.Errorf("%w: frame %d decompresses to %d bytes, not %d", ErrMismatch, f, len(out), raw)
	}
	out = dst[:raw] // the same bytes, with all of dst's capacity for the next frame
	first, end := x.FrameChunks(f)
	at := 0
	for c := first; c < end; c++ {
		n := x.ChunkLength(c)
		if Sum(out[at:at+n]) != x.ids[c] {
			return nil, fmt.Errorf("%w: chunk %d in frame %d", ErrMismatch, c, f)
		}
		at += n
	}
	return out, nil
}

// endsWithFrame reports whether p, a zstd frame after its header, ends where
// the frame's last block does. A decoder would go on to a next frame, and so
// let bytes pass that a frame should not have: empty and skippable frames.
func endsWithFrame(p []byte) bool {
	for len(p) >= 3 {
		// RFC 8878, 3.1.1.2: 1 bit last block, 2 bits type, 21 bits size.
		h := int(p[0]) | int(p[1])<<8 | int(p[2])<<16
		size := h >> 3
		if h>>1&3 == 1 {
			size = 1 // one byte, repeated
		}
		if p = p[3:]; size > len(p) {
			return false
		}
		if p = p[size:]; h&1 != 0 {
			return len(p) == 0
		}
	}
	return false
}

// CheckStored reports whether stored are the bytes of frame f, without
// decompressing them. The error wraps ErrMismatch.
func (x *Index) CheckStored(f int, stored []byte) error {
	if len(stored) != int(x.frames[f].Stored) || ShortSum(stored) != x.frames[f].Digest {
		return fmt.Errorf("%w: frame %d", ErrMismatch, f)
	}
	return nil
}

package ckm

import (
	"bytes"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// PatchCompressor compresses the parts of patches. It is for one goroutine at a
// time.
type PatchCompressor struct {
	enc *zstd.Encoder
	buf bytes.Buffer
}

// NewPatchCompressor returns a PatchCompressor.
func NewPatchCompressor() *PatchCompressor {
	// What is alike lies far apart, in short pieces: the faster levels miss most of it.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(patchWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return &PatchCompressor{enc: enc}
}

// Compress returns the stored bytes of a part that makes raw from base, which are
// not empty. They are good until the next call.
func (c *PatchCompressor) Compress(raw, base []byte) ([]byte, error) {
	c.buf.Reset()
	if err := c.enc.ResetWithOptions(&c.buf, zstd.WithEncoderDictRaw(0, base)); err != nil {
		return nil, err
	}
	if _, err := c.enc.Write(raw); err != nil {
		return nil, err
	}
	if err := c.enc.Close(); err != nil {
		return nil, err
	}
	return c.buf.Bytes(), nil
}

// PatchDecoder decompresses the parts of patches. It is for one goroutine at a
// time.
type PatchDecoder struct{ dec *zstd.Decoder }

// NewPatchDecoder returns a PatchDecoder.
func NewPatchDecoder() *PatchDecoder {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(patchWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return &PatchDecoder{dec}
}

// Close frees what the decoder holds.
func (d *PatchDecoder) Close() { d.dec.Close() }

// Decode decompresses a part of a patch of x from its stored bytes, into dst[:0]
// if it has room, and returns its chunks' bytes, one after the other, each checked
// against its ID. Base are the bytes of the part's base. The error wraps
// ErrMismatch when something is not what it should be.
func (d *PatchDecoder) Decode(x *Index, e *PatchPart, dst, stored, base []byte) ([]byte, error) {
	fail := func(format string, args ...any) ([]byte, error) {
		return nil, fmt.Errorf("%w: the patch of chunks %d+%d: %s", ErrMismatch, e.First, e.Count, fmt.Sprintf(format, args...))
	}
	var h zstd.Header
	if err := h.Decode(stored); err != nil || h.Skippable || h.DictionaryID != 0 || h.HasCheckSum || !endsWithFrame(stored[h.HeaderSize:]) {
		return fail("not the zstd frame that it should be")
	}
	raw := int(x.span(e.First, e.Count))
	if cap(dst) < raw+DecodeSlack {
		dst = make([]byte, 0, raw+DecodeSlack)
	}
	if err := d.dec.ResetWithOptions(nil, zstd.WithDecoderDictRaw(0, base)); err != nil {
		return nil, err
	}
	out, err := d.dec.DecodeAll(stored, dst[:0:raw+DecodeSlack])
	if err != nil {
		return fail("%v", err)
	}
	if len(out) != raw {
		return fail("%d bytes and not %d", len(out), raw)
	}
	at := 0
	for c := int(e.First); c < int(e.First+e.Count); c++ {
		n := x.ChunkLength(c)
		if Sum(out[at:at+n]) != x.ids[c] {
			return fail("chunk %d", c)
		}
		at += n
	}
	return out, nil
}

package ckm

import (
	"bytes"
	"fmt"
	"hash/maphash"

	"github.com/klauspost/compress/zstd"
)

// PatchCompressor compresses the parts of patches. It is for one goroutine at a
// time.
type PatchCompressor struct {
	enc             *zstd.Encoder
	plain, expanded bytes.Buffer
	expander
}

// NewPatchCompressor returns a PatchCompressor.
func NewPatchCompressor() *PatchCompressor {
	// What is alike lies far apart, in short pieces: the faster levels miss most of it.
	enc, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithEncoderConcurrency(1),
		zstd.WithEncoderCRC(false), zstd.WithWindowSize(patchWindow), zstd.WithLowerEncoderMem(true))
	if err != nil {
		panic(err) // the options are constants
	}
	c := &PatchCompressor{enc: enc}
	c.seed = maphash.MakeSeed()
	return c
}

// worthExpanding is the size of a part from which on members are looked for in it, as
// a share of its chunks.
const worthExpanding = 1.0 / 64

// Compress returns the stored bytes of a part that makes raw from base, which are
// not empty. They are good until the next call.
func (c *PatchCompressor) Compress(raw, base []byte) ([]byte, error) {
	if err := c.compress(&c.plain, raw, base); err != nil {
		return nil, err
	}
	if float64(c.plain.Len()) < worthExpanding*float64(len(raw)) {
		return c.plain.Bytes(), nil
	}
	m, expanded, expandedBase, err := c.expand(raw, base)
	if m == nil || err != nil {
		return c.plain.Bytes(), err
	}
	if err := c.compress(&c.expanded, expanded, expandedBase); err != nil {
		return nil, err
	}
	if head := m.append(nil); len(head)+c.expanded.Len() < c.plain.Len() {
		return append(head, c.expanded.Bytes()...), nil
	}
	return c.plain.Bytes(), nil
}

func (c *PatchCompressor) compress(to *bytes.Buffer, raw, base []byte) error {
	to.Reset()
	if err := c.enc.ResetWithOptions(to, zstd.WithEncoderDictRaw(0, base)); err != nil {
		return err
	}
	if _, err := c.enc.Write(raw); err != nil {
		return err
	}
	return c.enc.Close()
}

// PatchDecoder decompresses the parts of patches. It is for one goroutine at a
// time.
type PatchDecoder struct {
	dec *zstd.Decoder
	expander
}

// NewPatchDecoder returns a PatchDecoder.
func NewPatchDecoder() *PatchDecoder {
	dec, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(patchWindow), zstd.WithDecodeAllCapLimit(true))
	if err != nil {
		panic(err) // the options are constants
	}
	return &PatchDecoder{dec: dec}
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
	m, frame, err := cutMembers(stored)
	if err != nil {
		return fail("%v", err)
	}
	var h zstd.Header
	if err := h.Decode(frame); err != nil || h.Skippable || h.DictionaryID != 0 || h.HasCheckSum || !endsWithFrame(frame[h.HeaderSize:]) {
		return fail("not the zstd frame that it should be")
	}
	raw := int(x.span(e.First, e.Count))
	if cap(dst) < raw+DecodeSlack {
		dst = make([]byte, 0, raw+DecodeSlack)
	}
	var out []byte
	if m == nil {
		out, err = d.decompress(dst[:0:raw+DecodeSlack], frame, base)
	} else {
		out, err = d.decodeExpanded(dst, frame, base, m, raw)
	}
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

// decompress appends what a frame makes from base, as far as dst has room.
func (d *PatchDecoder) decompress(dst, frame, base []byte) ([]byte, error) {
	if err := d.dec.ResetWithOptions(nil, zstd.WithDecoderDictRaw(0, base)); err != nil {
		return nil, err
	}
	return d.dec.DecodeAll(frame, dst)
}

// decodeExpanded is decompress for a part with members.
func (d *PatchDecoder) decodeExpanded(dst, frame, base []byte, m *members, raw int) ([]byte, error) {
	base, err := d.expandBase(base, m.base)
	if err != nil {
		return nil, err
	}
	if cap(d.chunks) < m.length+DecodeSlack {
		d.chunks = make([]byte, 0, m.length+DecodeSlack)
	}
	expanded, err := d.decompress(d.chunks[:0:m.length+DecodeSlack], frame, base)
	if err != nil {
		return nil, err
	}
	if len(expanded) != m.length {
		return nil, fmt.Errorf("%d bytes before its members are made, and not %d", len(expanded), m.length)
	}
	return d.contract(dst[:0], expanded, m.chunks, raw)
}

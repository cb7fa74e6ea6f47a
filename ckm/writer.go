package ckm

import (
	"crypto/sha256"
	"hash"
	"io"

	"github.com/zeebo/blake3"
)

// Writer writes a CKM and fills its Index as it goes.
type Writer struct {
	w      io.Writer
	x      *Index
	blake3 *blake3.Hasher
	sha256 hash.Hash
	length uint64
}

// NewWriter writes the CKM's header to w. The frames will be added to x.
func NewWriter(w io.Writer, x *Index) (*Writer, error) {
	cw := &Writer{w: w, x: x, blake3: blake3.New(), sha256: sha256.New()}
	return cw, cw.write(Header(x.CompatibleFeatures))
}

// WriteFrame writes a frame's stored bytes and records its chunks.
func (cw *Writer) WriteFrame(stored []byte, codec Codec, ids []ID, lengths []int) error {
	cw.x.AddFrame(stored, codec, ids, lengths)
	return cw.write(stored)
}

// Finish writes the trailer and completes what the Index says of the CKM.
func (cw *Writer) Finish() error {
	cw.x.CKMLength = cw.length + TrailerSize
	cw.x.Content = cw.x.contentDigest()
	if err := cw.write(cw.x.Trailer().Append(nil)); err != nil {
		return err
	}
	copy(cw.x.CKMBlake3[:], cw.blake3.Sum(nil))
	copy(cw.x.CKMSHA256[:], cw.sha256.Sum(nil))
	return nil
}

func (cw *Writer) write(p []byte) error {
	if _, err := cw.w.Write(p); err != nil {
		return err
	}
	cw.blake3.Write(p)
	cw.sha256.Write(p)
	cw.length += uint64(len(p))
	return nil
}

package ckm_test

import (
	"prestage/ckm"
)

// tinyFrame is a zstd frame made by hand, so that it does not depend on any
// compressor: A, 8,191 zero bytes, B.
var tinyFrame = []byte{
	0x28, 0xb5, 0x2f, 0xfd, // magic
	0x60, 0x01, 0x1f, // single segment, content size in 2 bytes: 256 + 7,937
	0x08, 0x00, 0x00, 'A', // raw block of 1 byte
	0xfa, 0xff, 0x00, 0x00, // a byte repeated 8,191 times
	0x09, 0x00, 0x00, 'B', // raw block of 1 byte, the last
}

func tinyImage() []byte {
	p := make([]byte, 8193)
	p[0], p[8192] = 'A', 'B'
	return p
}

// tiny returns the package of the worked example in doc/format.md.
func tiny() *model {
	m := &model{
		info: ckm.Info{
			Name: "tiny", Version: 1, Created: 1793534400, Creator: "prestage",
			ChunkMin: 16384, ChunkAvg: 65536, ChunkMax: 262144, FrameLimit: 262144,
			Files: []ckm.File{{Path: "a.img", Size: 8193, Format: "raw"}},
		},
		frames: []mFrame{{stored: tinyFrame, chunks: []mChunk{{ckm.Sum(tinyImage()), 8193}}}},
		places: []mPlace{{}},
	}
	data := m.ckm()
	m.info.CKMBlake3, m.info.CKMSHA256 = ckm.Sum(data), sha(data)
	return m
}

package ckm_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"prestage/ckm"
	"prestage/internal/testenv"

	"github.com/klauspost/compress/zstd"
)

func TestHeader(t *testing.T) {
	want := "\x5c\x2a\x4d\x18\x18\x00\x00\x00\x89CKM\r\n\x1a\n\x01\x00\x00\x00" + strings.Repeat("\x00", 12)
	if got := string(ckm.Header(0)); got != want || len(got) != ckm.HeaderSize {
		t.Fatalf("header % x, want % x", got, want)
	}
	if err := ckm.CheckHeader(append(ckm.Header(0), "and more"...)); err != nil {
		t.Error(err)
	}
	for n := range ckm.HeaderSize {
		refuse(t, ckm.CheckHeader(ckm.Header(0)[:n]), ckm.ErrFormat, "no CKM header")
	}
	for at := range ckm.HeaderSize {
		for bit := range 8 {
			p := ckm.Header(0)
			p[at] ^= 1 << bit
			err := ckm.CheckHeader(p)
			switch {
			case at < 16:
				refuse(t, err, ckm.ErrFormat, "no CKM header")
			case at < 18:
				refuse(t, err, ckm.ErrUnsupported, "format version")
			case at < 20:
				refuse(t, err, ckm.ErrFormat, "reserved")
			case at < 24:
				refuse(t, err, ckm.ErrUnsupported, "incompatible features 0x")
			case at < 28:
				if err != nil {
					t.Errorf("a compatible feature was refused: %v", err)
				}
			default:
				refuse(t, err, ckm.ErrFormat, "reserved")
			}
		}
	}
	p := ckm.Header(0)
	binary.LittleEndian.PutUint32(p[20:], 0x80000004)
	refuse(t, ckm.CheckHeader(p), ckm.ErrUnsupported, "0x80000004")
}

func TestTrailer(t *testing.T) {
	want := ckm.Trailer{Frames: 3, Offset: 1000, Content: ckm.Sum([]byte("x"))}
	p := want.Append(nil)
	if len(p) != ckm.TrailerSize || string(p[:32]) != "\x5c\x2a\x4d\x18\x38\x00\x00\x00\x89END\r\n\x1a\n\x03\x00\x00\x00\x00\x00\x00\x00\xe8\x03\x00\x00\x00\x00\x00\x00" {
		t.Fatalf("trailer % x", p)
	}
	if got, err := ckm.ParseTrailer(p, 1064); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	for at := range 16 {
		q := slices.Clone(p)
		q[at] ^= 0x10
		_, err := ckm.ParseTrailer(q, 1064)
		refuse(t, err, ckm.ErrFormat, "no CKM trailer")
	}
	for _, length := range []uint64{96, 1063, 1065, 1 << 63, 1<<64 - 1} {
		_, err := ckm.ParseTrailer(p, length)
		refuse(t, err, ckm.ErrFormat, "no CKM trailer")
	}
	for _, length := range []uint64{0, 63, 64, 95} {
		q := ckm.Trailer{Offset: length - ckm.TrailerSize}.Append(nil)
		_, err := ckm.ParseTrailer(q, length)
		refuse(t, err, ckm.ErrFormat, "too short")
	}
	for n := range ckm.TrailerSize {
		_, err := ckm.ParseTrailer(p[:n], 1064)
		refuse(t, err, ckm.ErrFormat, "too short")
	}
	_, err := ckm.ParseTrailer(append(p, 0), 1064)
	refuse(t, err, ckm.ErrFormat, "too short")
}

// realPackage packs some data for real: it returns the CKM, the INDEX and what
// the file should be when the package is unpacked.
func realPackage(t testing.TB, level ckm.Level) (data []byte, x *ckm.Index, file []byte) {
	t.Helper()
	r := rand.New(rand.NewPCG(5, 5))
	x = &ckm.Index{Info: ckm.Info{Name: "real", Version: 1, FrameLimit: ckm.MaxFrameLimit}}
	var out bytes.Buffer
	w, err := ckm.NewWriter(&out, x)
	if err != nil {
		t.Fatal(err)
	}
	c := ckm.NewCompressor(level)
	n := 0
	for _, raws := range [][][]byte{
		{{'x'}},
		{noise(r, 1)},
		{noise(r, 100000), noise(r, 17)},
		{bytes.Repeat([]byte("all work and no play "), 3000)},
		{noise(r, ckm.MaxFrameLimit)},
		{make([]byte, ckm.MaxFrameLimit-1), {7}},
		{bytes.Repeat([]byte{1, 2, 3, 4, 5}, 50000), noise(r, 300), bytes.Repeat([]byte{9}, 200000)},
	} {
		var ids []ckm.ID
		var lengths []int
		raw := slices.Concat(raws...)
		for _, p := range raws {
			ids, lengths = append(ids, ckm.Sum(p)), append(lengths, len(p))
			file = append(file, make([]byte, n%3*100)...) // a hole, sometimes
			x.Place(uint32(n), 0, uint64(len(file)))
			file = append(file, p...)
			n++
		}
		stored := c.Append([]byte("before"), raw)
		if string(stored[:6]) != "before" {
			t.Fatal("the Compressor does not append")
		}
		if stored = stored[6:]; len(stored) > len(raw)+len(raw)/64+128 {
			t.Fatalf("%d bytes became %d, which is more than the format allows", len(raw), len(stored))
		}
		if err := w.WriteFrame(stored, ckm.CodecZstd, ids, lengths); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Finish(); err != nil {
		t.Fatal(err)
	}
	x.Files = []ckm.File{{Path: "f", Size: uint64(len(file)), Format: "raw"}}
	p, err := x.Encode()
	if err != nil {
		t.Fatal(err)
	}
	y := must(t, p)
	sameIndex(t, x, y)
	return out.Bytes(), y, file
}

func noise(r *rand.Rand, n int) []byte {
	p := make([]byte, n)
	for i := range p {
		p[i] = byte(r.Uint32())
	}
	return p
}

// TestWriter packs, reads as doc/format.md says, and compares.
func TestWriter(t *testing.T) {
	for name, level := range map[string]ckm.Level{"fast": ckm.LevelFast, "default": ckm.LevelDefault, "best": ckm.LevelBest} {
		t.Run(name, func(t *testing.T) {
			if l, err := ckm.ParseLevel(name); l != level || err != nil {
				t.Error(l, err)
			}
			data, x, file := realPackage(t, level)
			if err := ckm.CheckHeader(data); err != nil {
				t.Error(err)
			}
			tr, err := ckm.ParseTrailer(data[len(data)-ckm.TrailerSize:], uint64(len(data)))
			if err != nil || tr != x.Trailer() {
				t.Errorf("trailer %+v, want %+v, %v", tr, x.Trailer(), err)
			}
			if x.CKMLength != uint64(len(data)) || x.CKMBlake3 != ckm.Sum(data) || x.CKMSHA256 != sha256.Sum256(data) {
				t.Error("the INDEX does not have the CKM's length or digests")
			}
			got := make([]byte, x.Files[0].Size)
			chunks := map[uint32][]byte{}
			var all, dst []byte
			for f := range x.Frames() {
				fr := x.Frame(f)
				stored := data[fr.Offset : fr.Offset+uint64(fr.Stored)]
				if err := x.CheckStored(f, stored); err != nil {
					t.Error(err)
				}
				if dst, err = x.DecodeFrame(f, dst, stored); err != nil {
					t.Fatal(err)
				}
				all = append(all, dst...)
				at := 0
				first, end := x.FrameChunks(f)
				for c := first; c < end; c++ {
					chunks[uint32(c)] = bytes.Clone(dst[at : at+x.ChunkLength(c)])
					at += x.ChunkLength(c)
				}
			}
			for _, s := range x.Segments() {
				at := s.Offset
				for c := s.Chunk; c < s.Chunk+s.Count; c++ {
					at += uint64(copy(got[at:], chunks[c]))
				}
			}
			if !bytes.Equal(got, file) {
				t.Error("the image came back different")
			}
			// The whole CKM is one valid zstd stream of all chunks.
			d, err := zstd.NewReader(bytes.NewReader(data))
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			if stream, err := io.ReadAll(d); err != nil || !bytes.Equal(stream, all) {
				t.Errorf("as a zstd stream: %d bytes, want %d, %v", len(stream), len(all), err)
			}
			zstdTool(t, data, all)
		})
	}
	_, err := ckm.ParseLevel("max")
	refuse(t, err, nil, "use fast, default or best")
}

// zstdTool does the same by the zstd program, where there is one.
func zstdTool(t *testing.T, data, all []byte) {
	testenv.Need(t, "zstd")
	file := filepath.Join(t.TempDir(), "x.ckm")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("zstd", "-t", file).CombinedOutput(); err != nil {
		t.Errorf("zstd -t: %v\n%s", err, out)
	}
	if out, err := exec.Command("zstd", "-dc", file).Output(); err != nil || !bytes.Equal(out, all) {
		t.Errorf("zstd -dc: %d bytes, want %d, %v", len(out), len(all), err)
	}
}

// TestWriterFails checks that no write error is lost.
func TestWriterFails(t *testing.T) {
	full := errors.New("disk full")
	for room := range 3 {
		w, err := ckm.NewWriter(&limited{room, full}, &ckm.Index{})
		if err == nil {
			err = w.WriteFrame([]byte("x"), 0, []ckm.ID{{}}, []int{1})
		}
		if err == nil {
			err = w.Finish()
		}
		if !errors.Is(err, full) {
			t.Errorf("after %d writes: %v", room, err)
		}
	}
}

// limited fails after a number of writes.
type limited struct {
	room int
	err  error
}

func (l *limited) Write(p []byte) (int, error) {
	if l.room--; l.room < 0 {
		return 0, l.err
	}
	return len(p), nil
}

package ckm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"prestage/ckm"
)

func TestGood(t *testing.T) {
	for _, c := range goodCases() {
		t.Run(c.name, func(t *testing.T) {
			p := c.model.build()
			x := must(t, p)
			checkHead(t, p, x)
			if q, err := x.Encode(); err != nil || !bytes.Equal(p, q) {
				t.Errorf("encoding again gives other bytes (%v)", err)
			}
			if c.model.mapPages != nil {
				return // there are no placements to compare with
			}
			samePlaces(t, c.model, x)
			y := c.model.index(true)
			q, err := y.Encode()
			if err != nil || !bytes.Equal(p, q) {
				t.Fatalf("package ckm and the model write different bytes (%v)", err)
			}
			sameIndex(t, y, x)
		})
	}
}

func TestRefused(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range refusedCases() {
		if seen[c.name] {
			t.Errorf("two cases %q", c.name)
		}
		seen[c.name] = true
		t.Run(c.name, func(t *testing.T) {
			_, err := ckm.Decode(c.index)
			refuse(t, err, c.sentinel, c.text)
		})
	}
	t.Logf("%d cases", len(seen))
}

// TestHeadRefuses checks that what the head says is not trusted more when it
// is read alone.
func TestHeadRefuses(t *testing.T) {
	for _, c := range refusedCases() {
		switch kind, _, _ := bytes.Cut([]byte(c.name), []byte("-")); string(kind) {
		case "info":
			if c.name == "info-ckm-length" || c.name == "info-content" || c.name == "info-data-length" {
				continue // the pages are needed to tell
			}
		case "header":
			if c.name == "header-frames-more" || c.name == "header-frames-less" {
				continue
			}
		default:
			continue
		}
		_, err := ckm.DecodeHead(c.index)
		refuse(t, err, c.sentinel, c.text)
	}
}

// TestEveryByte changes every byte of an INDEX in several ways.
func TestEveryByte(t *testing.T) {
	good := small().build()
	must(t, good)
	masks := []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff, 0x55}
	for at := range good {
		for _, mask := range masks {
			_, err := ckm.Decode(flip(good, at, mask))
			if err == nil {
				t.Fatalf("byte %d changed by %#x was accepted", at, mask)
			}
			if !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrUnsupported) {
				t.Fatalf("byte %d changed by %#x: %v", at, mask, err)
			}
		}
	}
	t.Logf("%d bytes, each in %d ways", len(good), len(masks))
}

func TestTruncatedAndAppended(t *testing.T) {
	good := small().build()
	for n := range good {
		if _, err := ckm.Decode(good[:n]); !errors.Is(err, ckm.ErrFormat) {
			t.Fatalf("%d of %d bytes: %v", n, len(good), err)
		}
	}
	for _, more := range [][]byte{{0}, {0xff}, make([]byte, 32), good, digest(good)} {
		_, err := ckm.Decode(slices.Concat(good, more))
		refuse(t, err, ckm.ErrFormat, "does not fit its header")
	}
	_, err := ckm.Decode(slices.Concat([]byte{0}, good))
	refuse(t, err, ckm.ErrFormat, "no INDEX header")
}

// reseal makes all digests of an INDEX fit again, as far as it can be told
// what they are digests of.
func reseal(p []byte) []byte {
	p = slices.Clone(p)
	if len(p) < 64+32 {
		return p
	}
	n := func(at int) int { return int(binary.LittleEndian.Uint32(p[at:])) }
	table := 64 + n(20)
	head := table + 40*(n(24)+n(28))
	if head+32 > len(p) {
		return p
	}
	at := head + 32
	for e := table; e < head; e += 40 {
		if length := n(e); length <= len(p)-at {
			copy(p[e+8:], digest(p[at:at+length]))
			at += length
		}
	}
	copy(p[head:], digest(p[:head]))
	copy(p[len(p)-32:], digest(p[:len(p)-32]))
	return p
}

// checkAccepted checks that what is accepted has no other spelling.
func checkAccepted(t testing.TB, p []byte) bool {
	x, err := ckm.Decode(p)
	if err != nil {
		if !errors.Is(err, ckm.ErrFormat) && !errors.Is(err, ckm.ErrUnsupported) {
			t.Fatalf("error %q wraps neither ErrFormat nor ErrUnsupported", err)
		}
		return false
	}
	if q, err := x.Encode(); err != nil || !bytes.Equal(p, q) {
		t.Fatalf("accepted, but encoding again gives other bytes (%v)", err)
	}
	useAll(t, x)
	return true
}

// useAll calls what a user of an index calls, to see that nothing panics and
// that the map is what was promised.
func useAll(t testing.TB, x *ckm.Index) {
	var raw, stored uint64
	for f := range x.Frames() {
		raw += uint64(x.FrameLength(f))
		stored += uint64(x.Frame(f).Stored)
	}
	if raw != x.DataLength || stored+96 != x.CKMLength || x.PlacedSize() > x.ImageSize() {
		t.Fatal("the sums do not fit")
	}
	used := make([]bool, x.Chunks())
	for _, s := range x.Segments() {
		for c := s.Chunk; c < s.Chunk+s.Count; c++ {
			used[c] = true
		}
		if s.Offset >= x.Files[s.File].Size {
			t.Fatal("a segment is not in its file")
		}
	}
	for c := range used {
		if first, end := x.FrameChunks(x.FrameOf(c)); !used[c] || c < first || c >= end || x.ChunkLength(c) < 1 {
			t.Fatalf("chunk %d", c)
		}
	}
}

// TestResealed changes every byte and makes the digests fit, so that all other
// checks are on their own: what is accepted must be a package, in its one
// spelling.
func TestResealed(t *testing.T) {
	for _, c := range goodCases() {
		good := c.model.build()
		if len(good) > 3000 || testing.Short() && c.name != "small" {
			continue
		}
		accepted, tried := 0, 0
		for at := range good {
			for _, mask := range []byte{0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff} {
				tried++
				if checkAccepted(t, reseal(flip(good, at, mask))) {
					accepted++
				}
			}
		}
		// Pairs of changes, at random.
		r := rand.New(rand.NewPCG(11, 11))
		for range 5000 {
			p := flip(good, r.IntN(len(good)), byte(1+r.IntN(255)))
			p = flip(p, r.IntN(len(p)), byte(1+r.IntN(255)))
			tried++
			if checkAccepted(t, reseal(p)) {
				accepted++
			}
		}
		t.Logf("%s: %d of %d accepted", c.name, accepted, tried)
	}
}

// TestMemory checks that claims cost nothing before they are checked.
func TestMemory(t *testing.T) {
	cases := refusedCases()
	sealed := func(name string, at int, value ...byte) { // the same, after all digests are made to fit
		p := small().build()
		copy(p[at:], value)
		cases = append(cases, refusedCase{name: name, index: reseal(p)})
	}
	for _, at := range []int{20, 24, 28, 32, 36, 40, 44} {
		for _, v := range []uint32{1<<32 - 1, 1 << 31, 1 << 28, 1 << 20, 1 << 16} {
			sealed("sealed", at, binary.LittleEndian.AppendUint32(nil, v)...)
		}
	}
	// Many chunks claimed, and as long a file as that takes, but of zeros.
	big := small()
	big.header = func(b []byte) {
		binary.LittleEndian.PutUint32(b[32:], 1<<28)
		binary.LittleEndian.PutUint32(b[36:], 1<<28)
		binary.LittleEndian.PutUint64(b[40:], 1<<30)
	}
	cases = append(cases, refusedCase{name: "big", index: big.build()})
	for _, c := range cases {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ckm.Decode(c.index)
		ckm.HeadSize(c.index)
		ckm.DecodeHead(c.index)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: accepted", c.name)
		}
		if n := after.TotalAlloc - before.TotalAlloc; n > 16<<20 {
			t.Errorf("%s: %d bytes allocated", c.name, n)
		}
	}
}

// TestMemoryPerByte checks that an INDEX of many tiny segments, refused at its
// end, costs a bounded number of bytes for each of its own.
func TestMemoryPerByte(t *testing.T) {
	const n = 1 << 20
	paged := func(s mSegment) (pages [][]mSegment) {
		for range n / 4096 {
			pages = append(pages, slices.Repeat([]mSegment{s}, 4096))
		}
		return pages
	}
	for _, c := range []struct {
		what    string
		pages   [][]mSegment
		text    string
		perByte uint64
	}{
		{"runs that should be one", paged(seg(run, stay, next, 1)), "map page 0", 50},
		// The shortest segments that a valid map can be full of. Each becomes
		// a Segment of 48 bytes.
		{"one chunk again and again", paged(seg(run, stay, other, 1, 0)), "chunk 1 is never used", 30},
	} {
		m := mapped(c.pages...)
		m.info.Files[0].Size = 1 << 40
		p := m.build()
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := ckm.Decode(p)
		runtime.ReadMemStats(&after)
		refuse(t, err, ckm.ErrFormat, c.text)
		got := after.TotalAlloc - before.TotalAlloc
		t.Logf("%s: %d bytes allocated for an INDEX of %d", c.what, got, len(p))
		if got > c.perByte*uint64(len(p))+1<<16 {
			t.Errorf("%s: %d bytes allocated for an INDEX of %d", c.what, got, len(p))
		}
	}
}

// TestEncodeRefuses checks that what the reader refuses is not written, and
// that the wrong use of an Index is an error and no panic.
func TestEncodeRefuses(t *testing.T) {
	for _, c := range []struct {
		what, text string
		edit       func(x *ckm.Index)
	}{
		{"chunk not placed", "chunk 9 is never used", func(x *ckm.Index) { frame(x, []ckm.ID{id(9)}, 5) }},
		{"chunk that is not there", "chunks 9+1 out of bounds", func(x *ckm.Index) { x.Place(9, 0, 700000) }},
		{"two chunks that are not there", "out of bounds", func(x *ckm.Index) { x.Place(9, 0, 700000); x.Place(10, 0, 700001) }},
		{"the last chunk and the one after it", "out of bounds", func(x *ckm.Index) {
			x.Place(8, 0, 700000)
			x.Place(9, 0, 700000+262144)
		}},
		{"chunk 2^32 - 1", "out of bounds", func(x *ckm.Index) { x.Place(1<<32-1, 0, 700000); x.Place(0, 0, 700001) }},
		{"a run that goes on after the last chunk", "chunks 8+9 out of bounds", func(x *ckm.Index) {
			x.PlaceRun(ckm.Segment{Chunk: 7, Count: 1, Offset: 600000})
			x.PlaceRun(ckm.Segment{Chunk: 8, Count: 9, Offset: 620000})
		}},
		{"a run of 2^32 - 1", "out of bounds", func(x *ckm.Index) {
			x.PlaceRun(ckm.Segment{Chunk: 1, Count: 1<<32 - 1, Offset: 600000})
			x.Place(0, 0, 600000)
		}},
		{"a run of no chunks", "chunks 0+0 out of bounds", func(x *ckm.Index) { x.PlaceRun(ckm.Segment{Offset: 700000}) }},
		{"too many extents", "1025 extents", func(x *ckm.Index) {
			var extents []ckm.Extent
			for i := range uint64(1025) {
				extents = append(extents, ckm.Extent{Offset: 700000 + 10*i, Length: 4})
			}
			x.PlaceSplit(0, 0, extents)
		}},
		{"extents that touch", "do not fit", func(x *ckm.Index) {
			x.PlaceSplit(2, 0, []ckm.Extent{{Offset: 700000, Length: 40}, {Offset: 700040, Length: 60}})
		}},
		{"an extent of 2^64 - 1 bytes", "past the end", func(x *ckm.Index) {
			x.PlaceSplit(2, 0, []ckm.Extent{{Offset: 700000, Length: 40}, {Offset: 1, Length: 1<<64 - 1}})
		}},
		{"signatures too long", "signature block of", func(x *ckm.Index) { x.Signatures = make([]byte, 16<<10+1) }},
		{"file that is not there", "file 2", func(x *ckm.Index) { x.Place(0, 2, 0) }},
		{"offset beyond everything", "past the end", func(x *ckm.Index) { x.Place(0, 0, 1<<64-1) }},
		{"IDs without lengths", "11 chunks with 10 lengths", func(x *ckm.Index) { frame(x, []ckm.ID{id(9), id(10)}, 5) }},
		{"lengths without IDs", "10 chunks with 11 lengths", func(x *ckm.Index) { frame(x, []ckm.ID{id(9)}, 5, 6) }},
		{"a chunk of no bytes", "chunk 10 has no bytes", func(x *ckm.Index) { frame(x, []ckm.ID{id(9), id(10)}, 1, 0) }},
		{"a chunk of less than no bytes", "chunk 10 has no bytes", func(x *ckm.Index) { frame(x, []ckm.ID{id(9), id(10)}, 2, -1) }},
		{"a frame of less than no bytes", "raw bytes", func(x *ckm.Index) { frame(x, []ckm.ID{id(9)}, -1) }},
		{"a frame of no chunks", "0 chunks", func(x *ckm.Index) { frame(x, nil) }},
		{"a chunk twice", "are the same", func(x *ckm.Index) { frame(x, []ckm.ID{id(1)}, 7) }},
		{"a codec", "codec 7", func(x *ckm.Index) { x.AddFrame([]byte("x"), 7, []ckm.ID{id(9)}, []int{1}) }},
		{"name", "space", func(x *ckm.Index) { x.Name = "a b" }},
		{"creation time", "creation time", func(x *ckm.Index) { x.Created = -1 }},
		{"creation time 2^40", "creation time", func(x *ckm.Index) { x.Created = 1 << 40 }},
		{"version", "version 2147483648", func(x *ckm.Index) { x.Version = 1 << 31 }},
		{"creator too long", "creator", func(x *ckm.Index) { x.Creator = strings.Repeat("c", 257) }},
		{"format too long", "format", func(x *ckm.Index) { x.Files[0].Format = strings.Repeat("c", 33) }},
		{"file too large", "size", func(x *ckm.Index) { x.Files[0].Size = 1<<60 + 1 }},
		{"too many files", "4097 files", func(x *ckm.Index) { x.Files = make([]ckm.File, 4097) }},
		{"too many attributes", "65 attributes", func(x *ckm.Index) { x.Attributes = make([]ckm.Attribute, 65) }},
		{"attribute key too long", "attribute", func(x *ckm.Index) { x.Attributes[1].Key = strings.Repeat("z", 65) }},
		{"attribute value too long", "attribute", func(x *ckm.Index) { x.Attributes[1].Value = strings.Repeat("z", 1025) }},
		{"creator", "not text", func(x *ckm.Index) { x.Creator = "\xff" }},
		{"format", "not text", func(x *ckm.Index) { x.Files[0].Format = "\xff" }},
		{"attribute key", "not text", func(x *ckm.Index) { x.Attributes[1].Key = "z\xff" }},
		{"attribute value", "not text", func(x *ckm.Index) { x.Attributes[0].Value = "\xff" }},
		{"signatures", "signature", func(x *ckm.Index) { x.Signatures = []byte{1} }},
		{"signatures in order", "out of order", func(x *ckm.Index) { x.Signatures = []byte{3, 0, 0, 0, 2, 0, 0, 0} }},
		{"CKM length", "CKM length", func(x *ckm.Index) { x.CKMLength = 0 }},
		{"data length", "data length", func(x *ckm.Index) { x.DataLength = 0 }},
	} {
		t.Run(c.what, func(t *testing.T) {
			m := small()
			x := m.index(false)
			c.edit(x)
			_, err := x.Encode()
			sentinel := ckm.ErrFormat
			if c.what == "a codec" {
				sentinel = ckm.ErrUnsupported
			}
			refuse(t, err, sentinel, c.text)
		})
	}
}

// frame adds a frame and what the info section must say of it.
func frame(x *ckm.Index, ids []ckm.ID, lengths ...int) {
	x.AddFrame([]byte("x"), ckm.CodecZstd, ids, lengths)
	x.CKMLength = 96
	for f := range x.Frames() {
		x.CKMLength += uint64(x.Frame(f).Stored)
	}
	x.Content = contentOf(x)
}

// contentOf works out the content digest.
func contentOf(x *ckm.Index) ckm.Digest {
	var shorts []byte
	for f := range x.Frames() {
		d := x.Frame(f).Digest
		shorts = append(shorts, d[:]...)
	}
	return ckm.Digest(digest(shorts))
}

package ckm_test

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"
	"testing"

	"prestage/ckm"

	"github.com/zeebo/blake3"
)

// model is a second, plainer writer of INDEX files, made from doc/format.md
// and not from the code under test. It checks nothing, and every part that it
// would work out can be set instead, so it writes damaged files just as well:
// all digests are computed last and always fit.
type model struct {
	incompatible, compatible uint32
	info                     ckm.Info // CKM length, content digest and data length are worked out
	frames                   []mFrame
	places                   []mPlace
	sigs                     []byte

	cuts      []int                    // frames in each chunk page, instead of the rule
	mapPages  [][]mSegment             // instead of what places make
	ckmInfo   func(*ckm.Info)          // edits what was worked out
	infoBytes func([]byte) []byte      // edits the info section
	page      func(int, []byte) []byte // edits page i
	table     func([]byte)             // edits the page table
	header    func([]byte)             // edits the header
	tail      []byte                   // goes after the signature block
}

type mFrame struct {
	stored []byte
	length int // stored length instead of len(stored) if not 0
	codec  byte
	chunks []mChunk
}

type mChunk struct {
	id     ckm.ID
	length uint64
}

// mPlace is one placement: of one extent if extents is nil.
type mPlace struct {
	chunk, file uint32
	offset      uint64
	extents     []ckm.Extent
}

// mSegment is a segment's bytes.
type mSegment []byte

func uv(numbers ...uint64) []byte {
	var b []byte
	for _, n := range numbers {
		for ; n >= 0x80; n >>= 7 {
			b = append(b, byte(n)|0x80)
		}
		b = append(b, byte(n))
	}
	return b
}

func sv(v int64) []byte {
	if v >= 0 {
		return uv(2 * uint64(v))
	}
	return uv(uint64(-2*v - 1))
}

func str(s string) []byte { return append(uv(uint64(len(s))), s...) }

func digest(p []byte) []byte {
	d := blake3.Sum256(p)
	return d[:]
}

// seg builds a segment: w's parts and then whatever numbers follow.
func seg(split, position, chunk, n uint64, then ...uint64) mSegment {
	return append(uv(n<<4|chunk<<3|position<<1|split), uv(then...)...)
}

// Values for seg, so that a case reads like the table in doc/format.md.
const (
	run, split            = 0, 1
	stay, skip, seek, bad = 0, 1, 2, 3
	next, other           = 0, 1
)

func (m *model) chunks() []mChunk {
	var all []mChunk
	for _, f := range m.frames {
		all = append(all, f.chunks...)
	}
	return all
}

// build returns the INDEX.
func (m *model) build() []byte {
	var pages [][]byte
	var items []int
	for _, frames := range m.cutFrames() {
		var b []byte
		var chunks []mChunk
		b = append(b, uv(uint64(len(frames)))...)
		for _, f := range frames {
			b = append(b, uv(uint64(len(f.chunks)))...)
			chunks = append(chunks, f.chunks...)
		}
		for _, f := range frames {
			b = append(b, uv(uint64(f.storedLength()))...)
		}
		for _, f := range frames {
			b = append(b, f.codec)
		}
		for _, f := range frames {
			b = append(b, digest(f.stored)[:16]...)
		}
		for _, c := range chunks {
			b = append(b, uv(c.length)...)
		}
		for _, c := range chunks {
			b = append(b, c.id[:]...)
		}
		pages = append(pages, b)
		items = append(items, len(chunks))
	}
	chunkPages := len(pages)
	mapPages := m.mapPages
	if mapPages == nil {
		mapPages = m.segmentPages()
	}
	for _, segments := range mapPages {
		pages = append(pages, slices.Concat(segments...))
		items = append(items, len(segments))
	}
	var table []byte
	for i := range pages {
		if m.page != nil {
			pages[i] = m.page(i, pages[i])
		}
		table = binary.LittleEndian.AppendUint32(table, uint32(len(pages[i])))
		table = binary.LittleEndian.AppendUint32(table, uint32(items[i]))
		table = append(table, digest(pages[i])...)
	}
	if m.table != nil {
		m.table(table)
	}
	info := m.infoSection()
	all := slices.Concat(pages...)

	b := []byte("\x89IDX\r\n\x1a\n\x01\x00\x00\x00")
	for _, n := range []int{int(m.incompatible), int(m.compatible), len(info), chunkPages, len(mapPages), len(m.chunks()), len(m.frames)} {
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	b = binary.LittleEndian.AppendUint64(b, uint64(len(all)))
	b = append(b, make([]byte, 16)...)
	if m.header != nil {
		m.header(b)
	}
	b = slices.Concat(b, info, table)
	b = append(b, digest(b)...)
	b = append(b, all...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(m.sigs)))
	b = slices.Concat(b, m.sigs, m.tail)
	return append(b, digest(b)...)
}

func (f *mFrame) storedLength() int {
	if f.length != 0 {
		return f.length
	}
	return len(f.stored)
}

// cutFrames cuts the frames into pages by the rule in doc/format.md.
func (m *model) cutFrames() [][]mFrame {
	if m.cuts != nil {
		var pages [][]mFrame
		rest := m.frames
		for _, n := range m.cuts {
			pages, rest = append(pages, rest[:n]), rest[n:]
		}
		return pages
	}
	var pages [][]mFrame
	var page []mFrame
	chunks := 0
	for _, f := range m.frames {
		page = append(page, f)
		chunks += len(f.chunks)
		closes := chunks >= 1024
		for _, c := range f.chunks {
			closes = closes || c.id[31]%32 == 0
		}
		if closes {
			pages, page, chunks = append(pages, page), nil, 0
		}
	}
	if page != nil {
		pages = append(pages, page)
	}
	return pages
}

func (m *model) infoSection() []byte {
	in := m.info
	in.CKMLength = 96
	var shorts []byte
	for _, f := range m.frames {
		in.CKMLength += uint64(f.storedLength())
		shorts = append(shorts, digest(f.stored)[:16]...)
	}
	in.Content = ckm.Digest(digest(shorts))
	in.DataLength = 0
	for _, c := range m.chunks() {
		in.DataLength += c.length
	}
	if m.ckmInfo != nil {
		m.ckmInfo(&in)
	}
	b := str(in.Name)
	b = append(b, uv(uint64(in.Version), uint64(in.Created))...)
	b = append(b, str(in.Creator)...)
	b = append(b, uv(uint64(in.ChunkMin), uint64(in.ChunkAvg), uint64(in.ChunkMax), uint64(in.FrameLimit), in.CKMLength)...)
	b = slices.Concat(b, in.CKMBlake3[:], in.CKMSHA256[:], in.Content[:], uv(in.DataLength))
	b = append(b, uv(uint64(len(in.Files)))...)
	for _, f := range in.Files {
		b = slices.Concat(b, str(f.Path), uv(f.Size), str(f.Format))
	}
	b = append(b, uv(uint64(len(in.Attributes)))...)
	for _, a := range in.Attributes {
		b = slices.Concat(b, str(a.Key), str(a.Value))
	}
	if m.infoBytes != nil {
		b = m.infoBytes(b)
	}
	return b
}

// segmentPages merges the placements into segments and writes them.
func (m *model) segmentPages() [][]mSegment {
	type segment struct {
		mPlace
		n   uint32
		end uint64
	}
	chunks := m.chunks()
	var segments []segment
	for _, p := range m.places {
		if p.extents != nil {
			last := p.extents[len(p.extents)-1]
			segments = append(segments, segment{p, 1, last.Offset + last.Length})
			continue
		}
		end := p.offset + chunks[p.chunk].length
		if k := len(segments) - 1; k >= 0 {
			if l := &segments[k]; l.extents == nil && l.n < 256 && l.file == p.file && l.chunk+l.n == p.chunk && l.end == p.offset {
				l.n, l.end = l.n+1, end
				continue
			}
		}
		segments = append(segments, segment{p, 1, end})
	}
	var pages [][]mSegment
	var file, chunk uint32
	var at uint64
	for i, s := range segments {
		if i%4096 == 0 {
			pages = append(pages, nil)
			file, chunk, at = 0, 0, 0
		}
		w, then := uint64(s.n)<<4, []byte(nil)
		if s.extents != nil {
			w = uint64(len(s.extents))<<4 | 1
		}
		switch {
		case s.file == file && s.offset == at:
		case s.file == file && s.offset > at:
			w |= 1 << 1
			then = uv(s.offset - at)
		default:
			w |= 2 << 1
			then = uv(uint64(s.file), s.offset)
		}
		if s.chunk != chunk {
			w |= 1 << 3
			then = append(then, uv(uint64(s.chunk))...)
		}
		for j, e := range s.extents {
			if j > 0 {
				before := s.extents[j-1]
				then = append(then, sv(int64(e.Offset)-int64(before.Offset+before.Length))...)
			}
			then = append(then, uv(e.Length)...)
		}
		pages[len(pages)-1] = append(pages[len(pages)-1], append(uv(w), then...))
		file, chunk, at = s.file, s.chunk+s.n, s.end
	}
	return pages
}

// index builds the same by the exported functions of package ckm. Placements
// come before frames or after them, one by one or some as runs: it must make
// no difference.
func (m *model) index(placeFirst bool) *ckm.Index {
	x := &ckm.Index{Info: m.info, CompatibleFeatures: m.compatible, Signatures: m.sigs}
	chunks := m.chunks()
	place := func() {
		for i := 0; i < len(m.places); i++ {
			p := m.places[i]
			s := ckm.Segment{Chunk: p.chunk, Count: 1, File: p.file, Offset: p.offset}
			end := p.offset + chunks[p.chunk].length
			for r := len(m.places) * i % 300; r > 44 && s.Count < 256 && i+1 < len(m.places); r-- {
				q := m.places[i+1]
				if p.extents != nil || q.extents != nil || q.chunk != s.Chunk+s.Count || q.file != p.file || q.offset != end {
					break
				}
				end += chunks[q.chunk].length
				s.Count++
				i++
			}
			switch {
			case p.extents != nil:
				x.PlaceSplit(p.chunk, p.file, p.extents)
			case i%3 == 0 && s.Count == 1:
				x.PlaceSplit(p.chunk, p.file, []ckm.Extent{{Offset: p.offset, Length: chunks[p.chunk].length}})
			case i%3 == 1 && s.Count == 1:
				x.Place(p.chunk, p.file, p.offset)
			default:
				x.PlaceRun(s)
			}
		}
	}
	if placeFirst {
		place()
	}
	var length uint64 = ckm.HeaderSize + ckm.TrailerSize
	var shorts []byte
	for _, f := range m.frames {
		var ids []ckm.ID
		var lengths []int
		for _, c := range f.chunks {
			ids, lengths = append(ids, c.id), append(lengths, int(c.length))
		}
		x.AddFrame(f.stored, ckm.Codec(f.codec), ids, lengths)
		length += uint64(len(f.stored))
		shorts = append(shorts, digest(f.stored)[:16]...)
	}
	x.CKMLength, x.Content = length, ckm.Digest(digest(shorts))
	if !placeFirst {
		place()
	}
	return x
}

// id makes up an ID that does not close a page.
func id(n int) ckm.ID {
	var d ckm.ID
	binary.BigEndian.PutUint32(d[:], uint32(n)*2654435761)
	d[16], d[31] = 0xc4, 1
	return d
}

// closing makes up an ID that closes a page.
func closing(n int) ckm.ID {
	d := id(n)
	d[31] = 0x20
	return d
}

// small returns a small package with something of everything: two files,
// three pages of chunks, runs, a chunk used again, a split with a backward
// extent, an attribute and a signature.
func small() *model {
	return &model{
		info: ckm.Info{
			Name: "win11", Version: 3, Created: 1767225600, Creator: "prestage test",
			ChunkMin: 16384, ChunkAvg: 65536, ChunkMax: 262144, FrameLimit: 262144,
			CKMBlake3: ckm.Digest(digest([]byte("ckm"))), CKMSHA256: ckm.Digest(digest([]byte("sha"))),
			Files:      []ckm.File{{Path: "disk.vhdx", Size: 1 << 20, Format: "vhdx"}, {Path: "conf/vm.xml", Size: 700, Format: "raw"}},
			Attributes: []ckm.Attribute{{Key: "os", Value: "Windows 11"}, {Key: "vm", Value: ""}},
		},
		frames: []mFrame{
			{stored: []byte("frame 0"), chunks: []mChunk{{id(0), 4096}, {id(1), 5000}}},
			{stored: []byte("the frame number 1"), chunks: []mChunk{{closing(2), 100}}},
			{stored: []byte("2"), chunks: []mChunk{{id(3), 300}, {id(4), 400}, {id(5), 8192}}},
			{stored: []byte("frame three"), chunks: []mChunk{{id(6), 1}, {closing(7), 20000}}},
			{stored: []byte("frame 4"), chunks: []mChunk{{id(8), 262144}}},
		},
		places: []mPlace{
			{0, 0, 0, nil}, {1, 0, 4096, nil}, {2, 0, 9096, nil}, // a run of 3 from offset 0
			{0, 0, 20000, nil},               // placed again, after a hole
			{3, 1, 0, nil}, {4, 1, 300, nil}, // the other file, whole
			{5, 0, 100000, []ckm.Extent{{Offset: 100000, Length: 4096}, {Offset: 90000, Length: 96}, {Offset: 120000, Length: 4000}}},
			{6, 0, 124000, nil},
			{7, 0, 200000, nil}, {8, 0, 220000, nil},
			{1, 0, 30000, nil},
		},
		sigs: slices.Concat([]byte{1, 0, 72, 0}, make([]byte, 72)),
	}
}

// must decodes what has to be good.
func must(t testing.TB, p []byte) *ckm.Index {
	t.Helper()
	x, err := ckm.Decode(p)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// ckm returns the package's data file.
func (m *model) ckm() []byte {
	b := []byte("\x5c\x2a\x4d\x18\x18\x00\x00\x00\x89CKM\r\n\x1a\n\x01\x00\x00\x00")
	b = append(b, make([]byte, 12)...)
	var shorts []byte
	for _, f := range m.frames {
		b = append(b, f.stored...)
		shorts = append(shorts, digest(f.stored)[:16]...)
	}
	length := len(b)
	b = append(b, "\x5c\x2a\x4d\x18\x38\x00\x00\x00\x89END\r\n\x1a\n"...)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(m.frames)))
	b = binary.LittleEndian.AppendUint64(b, uint64(length))
	return append(b, digest(shorts)...)
}

func sha(p []byte) [32]byte { return sha256.Sum256(p) }

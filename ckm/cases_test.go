package ckm_test

import (
	"encoding/binary"
	"fmt"
	"slices"
	"strings"

	"prestage/ckm"
)

// goodCase and refusedCase are the INDEX files that every reader must accept
// and refuse. They are also written to testdata/vectors, see vectors_test.go.
type goodCase struct {
	name, comment string
	model         *model
}

type refusedCase struct {
	name, comment string
	index         []byte
	sentinel      error
	text          string // part of our error: it must be refused for this reason
}

// mapped returns a package of four chunks of 10, 20, 30 and 40 bytes, one file
// of 1,000 bytes and one of 50, and the map pages.
func mapped(pages ...[]mSegment) *model {
	return &model{
		info: ckm.Info{
			Name: "m", Version: 1, FrameLimit: 100,
			Files: []ckm.File{{Path: "a", Size: 1000, Format: "raw"}, {Path: "b", Size: 50, Format: "raw"}},
		},
		frames: []mFrame{
			{stored: []byte("0"), chunks: []mChunk{{id(0), 10}, {id(1), 20}}},
			{stored: []byte("1"), chunks: []mChunk{{id(2), 30}, {id(3), 40}}},
		},
		mapPages: pages,
	}
}

// page is a map page.
func page(segments ...mSegment) []mSegment { return segments }

// repeated returns a package whose one chunk of one byte is placed n times, so
// that each placement is a segment.
func repeated(n int) *model {
	m := mapped()
	m.frames = []mFrame{{stored: []byte("0"), chunks: []mChunk{{id(0), 1}}}}
	m.info.Files = []ckm.File{{Path: "a", Size: 10000, Format: "raw"}}
	m.mapPages = nil
	for i := range n {
		m.places = append(m.places, mPlace{offset: uint64(i)})
	}
	return m
}

// long returns a package of n chunks of one byte, in one run of the file.
func long(n, perFrame int) *model {
	m := mapped()
	m.frames, m.mapPages = nil, nil
	m.info.FrameLimit = 1 << 20
	m.info.Files = []ckm.File{{Path: "a", Size: uint64(n), Format: "raw"}}
	for i := range n {
		if i%perFrame == 0 {
			m.frames = append(m.frames, mFrame{stored: []byte{byte(i)}})
		}
		f := &m.frames[len(m.frames)-1]
		f.chunks = append(f.chunks, mChunk{id(i), 1})
		m.places = append(m.places, mPlace{chunk: uint32(i), offset: uint64(i)})
	}
	return m
}

// with returns m after edit.
func with(m *model, edit func(m *model)) *model {
	edit(m)
	return m
}

func goodCases() []goodCase {
	var wide []ckm.Extent // a chunk in 1,024 extents of a byte each, last one first
	for i := range uint64(1024) {
		wide = append(wide, ckm.Extent{Offset: 1<<59 - 2*i, Length: 1})
	}
	var sorted []ckm.Attribute
	for i := range 64 {
		sorted = append(sorted, ckm.Attribute{Key: fmt.Sprintf("k%02d", i), Value: strings.Repeat("v", i)})
	}
	sorted[63] = ckm.Attribute{Key: strings.Repeat("l", 64), Value: strings.Repeat("v", 1024)}
	return []goodCase{
		{"tiny", "the worked example of doc/format.md", tiny()},
		{"small", "two files, three chunk pages, runs, a chunk used again, a split with a backward extent, a signature", small()},
		{"empty", "an empty image: one file of no bytes, no chunks, no pages", with(mapped(), func(m *model) {
			m.frames = nil
			m.info.Files = []ckm.File{{Path: "a"}}
		})},
		{"sparse", "a file of 2^60 bytes that is one hole, and no chunks", with(mapped(), func(m *model) {
			m.frames = nil
			m.info.Files = []ckm.File{{Path: "a", Size: 1 << 60, Format: "raw"}}
		})},
		{"run", "one run of all four chunks", mapped(page(seg(run, stay, next, 4)))},
		{"again", "chunks 1 to 3 are placed again after 0 to 2: the run begins with used chunks and goes on into a new one",
			mapped(page(seg(run, stay, next, 3), seg(run, stay, other, 3, 1)))},
		{"backward", "the file is filled from its end to its start, so that each segment seeks",
			mapped(page(seg(run, skip, next, 1, 990), seg(run, seek, next, 1, 0, 970), seg(run, seek, next, 1, 0, 940), seg(run, seek, next, 1, 0, 900)))},
		{"split", "splits with forward and backward extents, one after the other",
			mapped(page(
				append(seg(split, skip, next, 2, 500, 4), slices.Concat(sv(100), uv(6))...),
				append(seg(split, stay, next, 3, 5), slices.Concat(sv(-500), uv(5), sv(-100), uv(10))...),
				append(seg(split, seek, next, 2, 1, 0, 15), slices.Concat(sv(10), uv(15))...),
				seg(run, seek, next, 1, 0, 960)))},
		{"split-wide", "a chunk of 1,024 bytes in 1,024 extents, each before the one before it", with(mapped(), func(m *model) {
			m.info.FrameLimit = 1024
			m.info.Files = []ckm.File{{Path: "a", Size: 1 << 60, Format: "raw"}}
			m.frames = []mFrame{{stored: []byte("0"), chunks: []mChunk{{id(0), 1024}}}}
			m.mapPages, m.places = nil, []mPlace{{0, 0, 1 << 59, wide}}
		})},
		{"split-end", "a split whose last extent ends where the largest file does, at 2^60", with(mapped(), func(m *model) {
			m.info.Files = []ckm.File{{Path: "a", Size: 1 << 60, Format: "raw"}}
			m.mapPages = [][]mSegment{page(
				append(seg(split, skip, next, 2, 500, 4), slices.Concat(sv(1<<60-510), uv(6))...),
				seg(run, seek, next, 3, 0, 0))}
		})},
		{"frame-1024", "a frame of 1,024 chunks", long(1030, 1024)},
		{"signature-limit", "a signature block of 16 KiB", with(mapped(page(seg(run, stay, next, 4))), func(m *model) {
			m.sigs = append([]byte{2, 0, 0xfc, 0x3f}, make([]byte, 16380)...)
		})},
		{"run-256", "257 chunks in a row make a run of 256 and one of 1; their frame has 257 chunks", long(257, 257)},
		{"pages", "an ID that closes its page in the middle of a frame, frames that close at once, a last page that does not", with(long(12, 3), func(m *model) {
			m.frames[1].chunks[1].id[31] = 0xe0
			m.frames[2].chunks[0].id[31] = 0x00
		})},
		{"map-pages", "4,097 segments: one in the second map page, whose state begins anew", repeated(4097)},
		{"stored-limit", "a frame whose stored length is the most that is allowed, 70 + 1 + 128", with(mapped(page(seg(run, stay, next, 4))), func(m *model) {
			m.frames[1].stored = make([]byte, 70+70/64+128)
		})},
		{"unknown", "compatible features, attributes and signature schemes that nobody knows", with(mapped(page(seg(run, stay, next, 4))), func(m *model) {
			m.compatible = 0x80000001
			m.info.Attributes = []ckm.Attribute{{Key: "!", Value: ""}, {Key: "x", Value: "y"}}
			m.sigs = slices.Concat([]byte{0, 0, 0, 0}, []byte{2, 0, 1, 0, 9}, []byte{0xff, 0xff, 0, 0})
		})},
		{"names", "names, paths and attributes at their limits", with(mapped(page(seg(run, stay, next, 4))), func(m *model) {
			m.info.Name, m.info.Version, m.info.Created = strings.Repeat("é", 50), 1<<31-1, 1<<40-1
			m.info.Creator = strings.Repeat("c", 256)
			m.info.Files[0] = ckm.File{Path: strings.Repeat("d/", 31) + strings.Repeat("f", 255), Size: 100, Format: strings.Repeat("x", 32)}
			m.info.Files[1] = ckm.File{Path: "D/映像 1.vhdx", Size: 0}
			m.info.Attributes = sorted
		})},
		{"files-4096", "4,096 empty files", with(mapped(), func(m *model) {
			m.frames, m.info.Files = nil, nil
			for i := range 4096 {
				m.info.Files = append(m.info.Files, ckm.File{Path: fmt.Sprint(i)})
			}
		})},
		{"limit-1", "a frame limit of 1", with(repeated(3), func(m *model) { m.info.FrameLimit = 1 })},
		{"prefix", "IDs whose first 31 bytes are the same", with(mapped(page(seg(run, stay, next, 4))), func(m *model) { samePrefix(m, 1, 2, 3, 5) })},
	}
}

func refusedCases() []refusedCase {
	var all []refusedCase
	// fails adds a case: what edit makes of a good package.
	type edit = func(m *model)
	add := func(name, comment string, m *model, sentinel error, text string) {
		all = append(all, refusedCase{name, comment, m.build(), sentinel, text})
	}
	format := func(name, comment, text string, m *model) { add(name, comment, m, ckm.ErrFormat, text) }
	smallWith := func(e edit) *model { return with(small(), e) }
	header := func(name, comment, text string, at int, value ...byte) {
		format("header-"+name, comment, text, smallWith(func(m *model) { m.header = func(b []byte) { copy(b[at:], value) } }))
	}
	u32 := func(n uint32) []byte { return binary.LittleEndian.AppendUint32(nil, n) }
	u64 := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }

	pagesLength := binary.LittleEndian.Uint64(small().build()[40:])

	// The header.
	header("magic", "the first byte of the magic is 0x88", "no INDEX header", 0, 0x88)
	header("reserved", "the reserved bytes at offset 10 are not zero", "reserved", 10, 1)
	header("reserved-48", "the reserved bytes at offset 48 are not zero", "reserved", 48, 1)
	header("reserved-63", "the reserved bytes up to offset 63 are not zero", "reserved", 63, 0x80)
	for _, v := range []byte{0, 2} {
		add(fmt.Sprintf("header-version-%d", v), "another format version", smallWith(func(m *model) { m.header = func(b []byte) { b[8] = v } }),
			ckm.ErrUnsupported, fmt.Sprintf("format version %d", v))
	}
	add("header-incompatible", "incompatible features 31 and 0 are set", smallWith(func(m *model) { m.incompatible = 0x80000001 }), ckm.ErrUnsupported, "incompatible features 0x80000001")
	header("info-huge", "an info section longer than 8 MiB", "asks for", 20, u32(8<<20+1)...)
	header("pages-huge", "2^32 - 1 chunk pages", "asks for", 24, u32(1<<32-1)...)
	header("map-pages-huge", "as many chunk pages and map pages as fit their fields", "asks for", 24, slices.Concat(u32(1<<32-1), u32(1<<32-1))...)
	header("chunks-huge", "2^32 - 1 chunks", "claims", 32, u32(1<<32-1)...)
	header("chunks-many", "2^28 chunks and pages of 1 GiB, in an INDEX of 2 KiB", "claims", 32, slices.Concat(u32(1<<28), u32(1), u64(1<<30))...)
	header("frames-huge", "more frames than chunks", "claims", 36, u32(10)...)
	header("chunks-more", "a chunk more than the pages hold", "page table", 32, u32(10)...)
	header("chunks-less", "a chunk less than the pages hold", "page table", 32, u32(8)...)
	header("frames-more", "a frame more than the pages hold", "claims", 36, u32(6)...)
	header("frames-less", "a frame less than the pages hold", "chunk page 2", 36, u32(4)...)
	header("length-long", "pages a byte longer than the page table says", "page table", 40, u64(pagesLength+1)...)
	header("length-short", "pages a byte shorter than the page table says", "page table", 40, u64(pagesLength-1)...)
	header("length-huge", "pages of 2^63 bytes", "claims", 40, u64(1<<63)...)
	header("length-most", "pages that take an INDEX beyond 1 GiB", "claims", 40, u64(1<<30)...)

	// The info section.
	info := func(name, comment, text string, e func(in *ckm.Info)) {
		format("info-"+name, comment, text, smallWith(func(m *model) { m.ckmInfo = e }))
	}
	info("name", "the image's name has a path in it", "not allowed", func(in *ckm.Info) { in.Name = "../win11" })
	info("name-empty", "the image has no name", "empty", func(in *ckm.Info) { in.Name = "" })
	info("name-long", "an image name of 101 bytes", "info section", func(in *ckm.Info) { in.Name = strings.Repeat("n", 101) })
	info("name-utf8", "an image name that is not UTF-8", "info section", func(in *ckm.Info) { in.Name = "win\xff" })
	info("name-device", "an image name that Windows keeps for a device", "reserved", func(in *ckm.Info) { in.Name = "com².x" })
	info("version-0", "version 0", "version 0", func(in *ckm.Info) { in.Version = 0 })
	info("version-huge", "version 2^31", "info section", func(in *ckm.Info) { in.Version = 1 << 31 })
	info("created", "created in second 2^40", "info section", func(in *ckm.Info) { in.Created = 1 << 40 })
	info("creator-long", "a creator of 257 bytes", "info section", func(in *ckm.Info) { in.Creator = strings.Repeat("c", 257) })
	info("creator-escape", "a creator that acts on a terminal", "creator", func(in *ckm.Info) { in.Creator = "a\x1b[31mb" })
	info("creator-bidi", "a creator that turns the order of text around", "creator", func(in *ckm.Info) { in.Creator = "a\u202eb" })
	info("attribute-newline", "an attribute that forges a line", "not text", func(in *ckm.Info) { in.Attributes[0].Value = "a\nb" })
	info("format-control", "a format with a control character", "not text", func(in *ckm.Info) { in.Files[0].Format = "ra\x08w" })
	info("path-device-space", "a device name with a space before its dot", "device", func(in *ckm.Info) { in.Files[1].Path = "CON .x" })
	info("path-bidi", "a path that turns the order of text around", "not allowed", func(in *ckm.Info) { in.Files[1].Path = "a\u202eb" })
	info("path-parent-case", "a file that is a folder of another, case ignored", "", func(in *ckm.Info) { in.Files[0].Path, in.Files[1].Path = "A", "a/b" })
	info("creator-utf8", "a creator that is not UTF-8", "info section", func(in *ckm.Info) { in.Creator = "a\xc0\x80" })
	info("limit-0", "a frame limit of 0", "frame limit 0", func(in *ckm.Info) { in.FrameLimit = 0 })
	info("limit-huge", "a frame limit of 1 MiB and a byte", "frame limit 1048577", func(in *ckm.Info) { in.FrameLimit = 1<<20 + 1 })
	info("ckm-length", "the CKM's length is one more than its parts", "CKM length", func(in *ckm.Info) { in.CKMLength++ })
	info("content", "the content digest is another one", "content digest", func(in *ckm.Info) { in.Content[0]++ })
	info("data-length", "the data length is one less than the sum of the chunks", "data length", func(in *ckm.Info) { in.DataLength-- })
	info("no-files", "an image of no files", "0 files", func(in *ckm.Info) { in.Files = nil })
	info("files-4097", "an image of 4,097 files", "info section", func(in *ckm.Info) {
		for i := len(in.Files); i < 4097; i++ {
			in.Files = append(in.Files, ckm.File{Path: fmt.Sprint(i)})
		}
	})
	info("path-up", "a file outside of the image's folder", "dot or a space", func(in *ckm.Info) { in.Files[1].Path = "../vm.xml" })
	info("path-absolute", "a file with an absolute path", "empty", func(in *ckm.Info) { in.Files[1].Path = "/etc/vm.xml" })
	info("path-drive", "a file on another drive", "not allowed", func(in *ckm.Info) { in.Files[1].Path = "C:/vm.xml" })
	info("path-backslash", "a path with the other slash", "not allowed", func(in *ckm.Info) { in.Files[1].Path = `conf\vm.xml` })
	info("path-nul", "a path with a zero byte", "not allowed", func(in *ckm.Info) { in.Files[1].Path = "vm.xml\x00.img" })
	info("path-device", "a path that Windows keeps for a device", "device", func(in *ckm.Info) { in.Files[1].Path = "conf/Lpt1.xml" })
	info("path-deep", "a path of 33 elements", "deep", func(in *ckm.Info) { in.Files[1].Path = strings.Repeat("d/", 32) + "f" })
	info("path-long", "a path of 1,025 bytes", "info section", func(in *ckm.Info) { in.Files[1].Path = strings.Repeat("d/", 512) + "f" })
	info("path-utf8", "a path that is not UTF-8", "info section", func(in *ckm.Info) { in.Files[1].Path = "\xed\xa0\x80" })
	info("path-empty", "an empty path", "empty", func(in *ckm.Info) { in.Files[1].Path = "" })
	info("paths-equal", "two paths that differ only in case", "is there twice", func(in *ckm.Info) { in.Files[1].Path = "DISK.vhdx" })
	info("paths-fold", "two paths that are equal in capitals: σ and ς", "is there twice", func(in *ckm.Info) { in.Files[0].Path, in.Files[1].Path = "aσ", "aς" })
	info("paths-inside", "a path inside of another file", "inside another file", func(in *ckm.Info) { in.Files[1].Path = "Disk.vhdx/vm.xml" })
	info("paths-folder", "a path that is the folder of a file before it", "folder of another", func(in *ckm.Info) { in.Files[0].Path, in.Files[1].Path = "A/b", "a" })
	info("file-huge", "a file of 2^60 + 1 bytes", "info section", func(in *ckm.Info) { in.Files[0].Size = 1<<60 + 1 })
	info("files-huge", "files of 2^60 and 700 bytes", "out of bounds", func(in *ckm.Info) { in.Files[0].Size = 1 << 60 })
	info("file-format", "a disk container's name of 33 bytes", "info section", func(in *ckm.Info) { in.Files[0].Format = strings.Repeat("x", 33) })
	info("attributes-65", "65 attributes", "info section", func(in *ckm.Info) {
		in.Attributes = nil
		for i := range 65 {
			in.Attributes = append(in.Attributes, ckm.Attribute{Key: fmt.Sprintf("%02d", i)})
		}
	})
	info("attributes-order", "attributes out of order", "out of order", func(in *ckm.Info) {
		in.Attributes = []ckm.Attribute{{Key: "vm"}, {Key: "os"}}
	})
	info("attributes-twice", "an attribute twice", "out of order", func(in *ckm.Info) {
		in.Attributes = []ckm.Attribute{{Key: "vm", Value: "a"}, {Key: "vm", Value: "b"}}
	})
	info("attribute-empty", "an attribute without a key", "out of order", func(in *ckm.Info) { in.Attributes[0].Key = "" })
	info("attribute-key", "an attribute's key of 65 bytes", "info section", func(in *ckm.Info) { in.Attributes[1].Key = strings.Repeat("z", 65) })
	info("attribute-value", "an attribute's value of 1,025 bytes", "info section", func(in *ckm.Info) { in.Attributes[1].Value = strings.Repeat("z", 1025) })
	info("attribute-utf8", "an attribute's value that is not UTF-8", "info section", func(in *ckm.Info) { in.Attributes[1].Value = "\x80" })
	infoBytes := func(name, comment string, e func(b []byte) []byte) {
		format("info-"+name, comment, "info section", smallWith(func(m *model) { m.infoBytes = e }))
	}
	infoBytes("longer", "a byte after the last attribute", func(b []byte) []byte { return append(b, 0) })
	infoBytes("shorter", "the last byte of the last attribute is not there", func(b []byte) []byte { return b[:len(b)-1] })
	infoBytes("none", "an empty info section", func([]byte) []byte { return nil })
	infoBytes("varint-long", "the version 3 is written as 83 00", func(b []byte) []byte { return slices.Concat(b[:6], []byte{0x83, 0}, b[7:]) })
	infoBytes("varint-64", "the version is a number of 65 bits", func(b []byte) []byte {
		return slices.Concat(b[:6], []byte{0x83, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02}, b[7:])
	})
	infoBytes("varint-endless", "the version is a number that does not end", func(b []byte) []byte {
		return slices.Concat(b[:6], []byte(strings.Repeat("\x80", 30)), b[7:])
	})
	infoBytes("string-huge", "the name claims to have 2^63 bytes", func(b []byte) []byte { return slices.Concat(uv(1<<63), b[1:]) })

	// The page table.
	table := func(name, comment, text string, e func(b []byte)) {
		format("table-"+name, comment, text, smallWith(func(m *model) { m.table = e }))
	}
	add32 := func(b []byte, n uint32) { binary.LittleEndian.PutUint32(b, binary.LittleEndian.Uint32(b)+n) }
	table("digest", "a chunk page has another digest than the table says", "page 1 of the INDEX is damaged", func(b []byte) { b[40+8]++ })
	table("map-digest", "a map page has another digest than the table says", "page 3 of the INDEX is damaged", func(b []byte) { b[120+39]++ })
	table("chunks", "a chunk page claims one chunk more, the next one less", "chunk page 0", func(b []byte) { add32(b[4:], 1); add32(b[44:], ^uint32(0)) })
	table("segments", "the map page claims a segment more than it has", "map page 0", func(b []byte) { add32(b[124:], 1) })
	table("segments-less", "the map page claims a segment less than it has", "map page 0", func(b []byte) { add32(b[124:], ^uint32(0)) })
	table("items-huge", "a map page claims 2^32 - 1 segments", "page table", func(b []byte) { copy(b[124:], "\xff\xff\xff\xff") })
	table("length", "a page is longer and the next one shorter by a byte", "page 0 of the INDEX is damaged", func(b []byte) { add32(b, 1); add32(b[40:], ^uint32(0)) })
	table("length-huge", "a page claims 2^32 - 1 bytes", "page table", func(b []byte) { copy(b, "\xff\xff\xff\xff") })
	table("length-short", "the last page claims a byte less", "page table", func(b []byte) { add32(b[120:], ^uint32(0)) })
	format("table-empty-page", "a chunk page of no frames", "page table", smallWith(func(m *model) { m.cuts = []int{2, 0, 2, 1} }))
	format("table-empty-map-page", "a map page of no segments", "page table", mapped(page(seg(run, stay, next, 4)), page()))

	// Chunk pages.
	chunk := func(name, comment, text string, e edit) { format("chunk-"+name, comment, text, smallWith(e)) }
	chunk("page-longer", "a byte after the last ID of a chunk page", "chunk page 1", func(m *model) {
		m.page = func(i int, b []byte) []byte { return append(b, make([]byte, b2i(i == 1))...) }
	})
	chunk("page-shorter", "the last byte of a chunk page is not there", "chunk page 1", func(m *model) {
		m.page = func(i int, b []byte) []byte { return b[:len(b)-b2i(i == 1)] }
	})
	chunk("page-early", "a page ends before a frame closes it", "canonical", func(m *model) { m.cuts = []int{1, 1, 2, 1} })
	chunk("page-late", "a page goes on after the frame that closes it", "canonical", func(m *model) { m.cuts = []int{4, 1} })
	chunk("varint-long", "the number of a page's frames is written as 82 00", "chunk page 0", func(m *model) {
		m.page = func(i int, b []byte) []byte {
			if i == 0 {
				return slices.Concat([]byte{0x82, 0}, b[1:])
			}
			return b
		}
	})
	chunk("frame-empty", "a frame of no chunks", "0 chunks", func(m *model) {
		m.frames[1].chunks, m.frames[0].chunks = nil, append(m.frames[0].chunks, m.frames[1].chunks...)
	})
	chunk("frame-raw", "a frame of one byte more than the frame limit", "262145 raw bytes", func(m *model) { m.frames[4].chunks[0].length++ })
	format("chunk-frame-chunks", "a frame of 1,025 chunks", "chunk page 0", long(1025, 1025))
	format("chunk-frame-sum", "two chunks within the frame limit in a frame beyond it", "70 raw bytes", with(mapped(page(seg(run, stay, next, 4))), func(m *model) { m.info.FrameLimit = 69 }))
	chunk("length-0", "a chunk of no bytes", "chunk page 0", func(m *model) { m.frames[0].chunks[1].length = 0 })
	chunk("length-huge", "a chunk of 1 MiB and a byte", "chunk page 2", func(m *model) { m.frames[4].chunks[0].length = 1<<20 + 1 })
	chunk("stored-0", "a frame of no stored bytes", "stored length 0", func(m *model) { m.frames[2].stored = nil })
	chunk("stored-long", "a frame of 100 bytes whose stored length is 230", "stored length 230", func(m *model) { m.frames[1].length = 100 + 1 + 128 + 1 })
	chunk("stored-huge", "a stored length that no frame can have", "chunk page 0", func(m *model) { m.frames[1].length = 2 << 20 })
	add("chunk-codec", "a frame with codec 1, of which nothing is known", smallWith(func(m *model) { m.frames[2].codec = 1 }), ckm.ErrUnsupported, "frame 2 has codec 1")
	chunk("twice", "two chunks with the same ID", "are the same", func(m *model) { m.frames[3].chunks[0].id = m.frames[0].chunks[1].id })
	chunk("twice-beside", "two chunks with the same ID in one frame", "chunk 0 and chunk 1 are the same", func(m *model) { m.frames[0].chunks[1].id = m.frames[0].chunks[0].id })

	// Map pages.
	format("chunk-twice-prefix", "IDs whose first 31 bytes are the same, and the first and third ID are equal", "chunk 0 and chunk 2 are the same",
		with(mapped(page(seg(run, stay, next, 4))), func(m *model) { samePrefix(m, 1, 2, 1, 5) }))
	maps := func(name, comment, text string, segments ...mSegment) {
		format("map-"+name, comment, text, mapped(page(segments...)))
	}
	four := seg(run, stay, next, 4)
	signed := func(s mSegment, more ...[]byte) mSegment { return append(s, slices.Concat(more...)...) }
	maps("unused", "the last chunk is placed nowhere", "chunk 3 is never used", seg(run, stay, next, 3))
	format("map-nothing", "no chunk is placed anywhere", "chunk 0 is never used", mapped())
	maps("order", "chunk 1 is used before chunk 0", "out of order", seg(run, stay, other, 3, 1), seg(run, stay, other, 1, 0))
	maps("order-gap", "chunk 2 is used before chunk 1", "out of order", seg(run, stay, next, 1), seg(run, stay, other, 2, 2), seg(run, stay, other, 1, 1))
	maps("run-0", "a run of no chunks", "map page 0", seg(run, stay, next, 0), four)
	maps("run-past", "a run that goes on after the last chunk", "map page 0", seg(run, stay, next, 5))
	maps("chunk-past", "a run that begins after the last chunk", "map page 0", four, seg(run, stay, next, 1))
	maps("chunk-huge", "a run that begins with chunk 2^32, which must not become 0", "map page 0", four, seg(run, stay, other, 1, 1<<32))
	maps("position-3", "position 3", "map page 0", seg(run, bad, next, 4))
	maps("count-huge", "a run of 2^60 - 1 chunks", "map page 0", seg(run, stay, next, 1<<60-1))
	maps("unmerged", "two runs that should be one", "map page 0", seg(run, stay, next, 2), seg(run, stay, next, 2))
	maps("seek-unmerged", "two runs that should be one, the second by a seek", "map page 0", seg(run, stay, next, 2), seg(run, seek, next, 2, 0, 30))
	maps("skip-0", "a gap of no bytes", "canonical", seg(run, skip, next, 4, 0))
	maps("seek-stay", "a seek to where the position is", "canonical", seg(run, seek, next, 4, 0, 0))
	maps("seek-skip", "a seek to where a skip would do", "canonical", seg(run, seek, next, 4, 0, 7))
	maps("chunk-named", "a chunk that is named though it is the expected one", "canonical", seg(run, stay, other, 4, 0))
	maps("varint-long", "a skip of 5 that is written as 85 00", "map page 0", append(uv(4<<4|1<<1), 0x85, 0))
	maps("varint-64", "a skip of 2^64 + 1, which must not become 1", "map page 0", append(uv(4<<4|1<<1), 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x02))
	maps("short", "a segment that ends after its first number", "map page 0", seg(run, seek, next, 4))
	maps("past-end", "the last byte of a run is after the end of its file", "past the end", seg(run, skip, next, 4, 901))
	maps("past-end-far", "a run beyond the end of its file", "past the end", seg(run, skip, next, 4, 1<<59))
	maps("past-end-huge", "a run at offset 2^60 + 1", "map page 0", seg(run, skip, next, 4, 1<<60+1))
	maps("past-end-sum", "skips that add up to an offset over 2^64", "map page 0", append([]mSegment{four}, slices.Repeat([]mSegment{seg(run, skip, other, 1, 1<<60, 0)}, 20)...)...)
	maps("file-past", "a file that is not there", "file 2", seg(run, seek, next, 4, 2, 0))
	maps("file-huge", "file 2^32, which must not become 0", "map page 0", seg(run, seek, next, 4, 1<<32, 5))
	maps("file-small", "a run that is longer than its file", "past the end", seg(run, seek, next, 4, 1, 0))
	maps("overlap", "two segments share a byte", "overlap at 99 of \"a\"", four, seg(run, seek, other, 1, 0, 99, 0))
	maps("overlap-same", "two segments at the same place", "overlap at 0 of \"a\"", four, seg(run, seek, other, 1, 0, 0, 1))
	maps("overlap-around", "a segment lies inside of another one", "overlap at 10 of \"a\"", four, seg(run, seek, other, 1, 0, 10, 1))
	maps("overlap-before", "a later segment goes on into an earlier one", "overlap at 50 of \"a\"", seg(run, skip, next, 4, 50), seg(run, seek, other, 2, 0, 30, 0))
	three := seg(run, skip, next, 3, 100)
	maps("split-0", "a split of no extents", "map page 0", three, seg(split, stay, next, 0))
	maps("split-1", "a split of one extent", "map page 0", three, seg(split, stay, next, 1, 40))
	maps("split-1025", "a split of 1,025 extents", "map page 0", three, signed(seg(split, stay, next, 1025, 1), slices.Repeat(slices.Concat(sv(1), uv(1)), 1024)))
	maps("split-touch", "two extents that should be one", "do not fit", three, signed(seg(split, stay, next, 2, 15), sv(0), uv(25)))
	maps("split-empty", "an extent of no bytes", "past the end", three, signed(seg(split, stay, next, 3, 15), sv(9), uv(0), sv(9), uv(25)))
	maps("split-short", "extents of one byte less than their chunk", "do not fit", three, signed(seg(split, stay, next, 2, 15), sv(9), uv(24)))
	maps("split-long", "extents of one byte more than their chunk", "do not fit", three, signed(seg(split, stay, next, 2, 15), sv(9), uv(26)))
	maps("split-overlap", "two extents of one chunk overlap", "overlap at 170 of \"a\"", three, signed(seg(split, skip, next, 2, 10, 15), sv(-15), uv(25)))
	maps("split-before", "an extent before the start of its file", "map page 0", three, signed(seg(split, stay, next, 2, 15), sv(-300), uv(25)))
	maps("split-wrap", "an extent before the start of its file that ends in it", "past the end", three, signed(seg(split, stay, next, 2, 15), sv(-180), uv(25)))
	maps("split-wrap-back", "an extent 2^63 bytes back, and one 2^63 - 1 bytes forward again", "past the end", three,
		signed(seg(split, stay, next, 3, 15), sv(-1<<63+1), uv(5), sv(1<<63-1), uv(20)))
	maps("split-past", "an extent after the end of its file", "past the end", three, signed(seg(split, stay, next, 2, 15), sv(801), uv(25)))
	maps("split-huge", "an extent of 2^64 - 1 bytes", "map page 0", three, signed(seg(split, stay, next, 2, 15), sv(9), uv(1<<64-1)))
	maps("split-distance", "a distance written in one byte more than it needs", "map page 0", three, signed(seg(split, stay, next, 2, 15), []byte{0x92, 0}, uv(25)))
	format("map-longer", "a byte after the last segment of a map page", "map page 0", with(mapped(page(four)), func(m *model) {
		m.page = func(i int, b []byte) []byte { return append(b, make([]byte, b2i(i == 1))...) }
	}))
	format("map-run-257", "a run of 257 chunks", "chunks 0+257", with(long(257, 257), func(m *model) { m.mapPages = [][]mSegment{page(seg(run, stay, next, 257))} }))
	format("map-run-short", "a run of 255 chunks that the next one continues", "map page 0", with(long(257, 257), func(m *model) {
		m.mapPages = [][]mSegment{page(seg(run, stay, next, 255), seg(run, stay, next, 2))}
	}))
	format("map-page-early", "a map page of one segment that is not the last page", "page table", mapped(
		page(seg(run, stay, next, 3)), page(seg(run, seek, other, 1, 1, 0, 3))))
	format("map-page-long", "a map page of 4,097 segments", "page table", with(repeated(4097), func(m *model) {
		m.mapPages = [][]mSegment{append(page(seg(run, stay, next, 1)), slices.Repeat([]mSegment{seg(run, stay, other, 1, 0)}, 4096)...)}
	}))
	format("map-page-merge", "a run that continues the last one of the page before", "map page 1", with(repeated(4097), func(m *model) {
		m.frames[0].chunks = append(m.frames[0].chunks, mChunk{id(1), 1})
		m.mapPages = [][]mSegment{
			append(page(seg(run, stay, next, 1)), slices.Repeat([]mSegment{seg(run, stay, other, 1, 0)}, 4095)...),
			page(seg(run, skip, other, 1, 4096, 1)),
		}
	}))

	// The signature block and the end.
	sigs := func(name, comment, text string, b ...[]byte) {
		format("signature-"+name, comment, text, smallWith(func(m *model) { m.sigs = slices.Concat(b...) }))
	}
	sigs("cut", "an entry that claims more bytes than there are", "signature block", []byte{2, 0, 2, 0, 1})
	sigs("header", "three bytes, less than an entry's first two fields", "signature block", []byte{2, 0, 0})
	sigs("order", "two entries out of order", "out of order", []byte{3, 0, 0, 0}, []byte{2, 0, 0, 0})
	sigs("twice", "an entry twice", "out of order", []byte{3, 0, 0, 0}, []byte{3, 0, 0, 0})
	sigs("ed25519", "a signature by Ed25519 of 71 bytes", "signature block", []byte{1, 0, 71, 0}, make([]byte, 71))
	sigs("minisign-short", "a signature of minisign's scheme that is a byte too short", "minisign entry of 135 bytes", []byte("ED\x87\x00"), make([]byte, 135))
	sigs("minisign-long", "a signature of minisign's scheme with a comment of 513 bytes", "minisign entry of 649 bytes", []byte("ED\x89\x02"), make([]byte, 136), []byte(strings.Repeat("c", 513)))
	sigs("minisign-comment", "a signature whose comment has two lines", "comment of a signature", []byte("ED\x8b\x00"), make([]byte, 136), []byte("a\nb"))
	sigs("minisign-comment-utf8", "a signature whose comment is not UTF-8", "comment of a signature", []byte("ED\x89\x00"), make([]byte, 136), []byte{0xff})
	sigs("huge", "a signature block of 16 KiB and 5 bytes", "length does not fit", []byte{2, 0, 1, 64}, make([]byte, 16385))
	format("end-longer", "a byte between the signature block and the file digest", "length does not fit", smallWith(func(m *model) { m.tail = []byte{0} }))

	// Without any digest made to fit.
	good := small().build()
	all = append(all,
		refusedCase{"end-appended", "a byte after the file digest", append(slices.Clone(good), 0), ckm.ErrFormat, "length does not fit"},
		refusedCase{"end-cut", "the last byte is not there", good[:len(good)-1], ckm.ErrFormat, "length does not fit"},
		refusedCase{"end-digest", "the file digest is another one", flip(good, len(good)-1, 1), ckm.ErrFormat, "its digest does not match"},
		refusedCase{"end-head-digest", "the head digest is another one", flip(good, headSize(good)-1, 1), ckm.ErrFormat, "damaged in its first"},
		refusedCase{"end-head-only", "nothing after the head", good[:headSize(good)], ckm.ErrFormat, "cut short"},
		refusedCase{"end-header-only", "nothing after the header", good[:64], ckm.ErrFormat, "cut short"},
		refusedCase{"end-empty", "no bytes at all", nil, ckm.ErrFormat, "no INDEX header"},
	)
	return all
}

// samePrefix gives the four chunks of mapped IDs that differ in their last
// byte at most.
func samePrefix(m *model, last ...byte) {
	for i, b := range last {
		id := id(9)
		id[31] = b
		m.frames[i/2].chunks[i%2].id = id
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

func flip(p []byte, at int, mask byte) []byte {
	p = slices.Clone(p)
	p[at] ^= mask
	return p
}

// headSize works out the length of the head.
func headSize(p []byte) int {
	n := binary.LittleEndian.Uint32
	return 64 + int(n(p[20:])) + 40*int(n(p[24:])+n(p[28:])) + 32
}

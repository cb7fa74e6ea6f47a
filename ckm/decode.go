package ckm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unicode/utf8"
)

// Head is the part of an INDEX that stands for the whole: what it says about
// its image, and the digests of its pages.
type Head struct {
	Info
	CompatibleFeatures uint32
	Chunks, Frames     uint32
	Digest             Digest // the package digest

	size                 int // of the head, in bytes
	chunkPages, mapPages []page
	pagesLength          uint64
}

// page is an entry of the page table.
type page struct {
	length, items uint32
	digest        Digest
}

// HeadSize returns how many bytes the head of an INDEX has, from its first 64
// bytes. The error wraps ErrFormat or ErrUnsupported.
func HeadSize(p []byte) (int, error) {
	if len(p) < indexHeaderSize || string(p[:8]) != string(indexMagic[:]) {
		return 0, fmt.Errorf("%w: no INDEX header", ErrFormat)
	}
	if err := checkVersion(p[8:20]); err != nil {
		return 0, err
	}
	if string(p[48:64]) != string(make([]byte, 16)) {
		return 0, fmt.Errorf("%w: reserved bytes of the INDEX header are set", ErrFormat)
	}
	info := uint64(binary.LittleEndian.Uint32(p[20:]))
	pages := uint64(binary.LittleEndian.Uint32(p[24:])) + uint64(binary.LittleEndian.Uint32(p[28:]))
	size := indexHeaderSize + info + pages*pageEntrySize + uint64(digestSize)
	if info > MaxInfoSize || size > MaxIndexSize {
		return 0, fmt.Errorf("%w: the INDEX header asks for %d bytes", ErrFormat, size)
	}
	return int(size), nil
}

// DecodeHead decodes the head of an INDEX from its first bytes, as many as
// HeadSize says or more. It checks the head's digest and all else that can be
// told without the pages.
func DecodeHead(p []byte) (*Head, error) {
	size, err := HeadSize(p)
	if err != nil {
		return nil, err
	}
	if len(p) < size {
		return nil, fmt.Errorf("%w: the INDEX is cut short at %d bytes", ErrFormat, len(p))
	}
	body := p[:size-digestSize]
	h := &Head{size: size, Digest: Sum(body)}
	if string(h.Digest[:]) != string(p[size-digestSize:size]) {
		return nil, fmt.Errorf("%w: the INDEX is damaged in its first %d bytes", ErrFormat, size)
	}
	h.CompatibleFeatures = binary.LittleEndian.Uint32(p[16:])
	h.Chunks = binary.LittleEndian.Uint32(p[32:])
	h.Frames = binary.LittleEndian.Uint32(p[36:])
	h.pagesLength = binary.LittleEndian.Uint64(p[40:])
	if h.Chunks > MaxChunks || h.Frames > h.Chunks || h.pagesLength > MaxIndexSize || uint64(size+tailSize)+h.pagesLength > MaxIndexSize ||
		uint64(h.Chunks)*uint64(digestSize) > h.pagesLength {
		return nil, fmt.Errorf("%w: the INDEX claims %d chunks in %d frames and %d bytes", ErrFormat, h.Chunks, h.Frames, h.pagesLength)
	}
	infoEnd := indexHeaderSize + int(binary.LittleEndian.Uint32(p[20:]))
	r := reader{p: body[indexHeaderSize:infoEnd]}
	h.Info.decode(&r)
	if r.bad || len(r.p) != 0 {
		return nil, fmt.Errorf("%w: the INDEX's info section", ErrFormat)
	}
	if err := h.validateInfo(); err != nil {
		return nil, err
	}
	if !h.decodeTable(body[infoEnd:], int(binary.LittleEndian.Uint32(p[24:]))) {
		return nil, fmt.Errorf("%w: the page table of the INDEX does not fit its header", ErrFormat)
	}
	return h, nil
}

// Page is a part of an INDEX that other versions may have too.
type Page struct {
	Offset, Length int64 // bytes, in the INDEX
	Digest         Digest
}

// Pages returns all pages, in order. They follow each other from the head on.
func (h *Head) Pages() []Page {
	list := make([]Page, 0, len(h.chunkPages)+len(h.mapPages))
	at := int64(h.size)
	for _, pages := range [][]page{h.chunkPages, h.mapPages} {
		for _, p := range pages {
			list = append(list, Page{at, int64(p.length), p.digest})
			at += int64(p.length)
		}
	}
	return list
}

// decodeTable reports false when the entries are not what the header claims:
// pages of other lengths, or with other numbers of chunks or segments.
func (h *Head) decodeTable(table []byte, chunkPages int) bool {
	all := make([]page, len(table)/pageEntrySize)
	for i := range all {
		e := table[i*pageEntrySize:]
		all[i] = page{binary.LittleEndian.Uint32(e), binary.LittleEndian.Uint32(e[4:]), Digest(e[8:pageEntrySize])}
	}
	h.chunkPages, h.mapPages = all[:chunkPages], all[chunkPages:]
	var length, chunks uint64
	for i, e := range all {
		if length += uint64(e.length); e.items < 1 || e.items > e.length {
			return false
		}
		if i < chunkPages {
			chunks += uint64(e.items)
		} else if e.items > pageSegments || i < len(all)-1 && e.items < pageSegments {
			return false
		}
	}
	return length == h.pagesLength && chunks == uint64(h.Chunks) && len(h.mapPages)*pageSegments < MaxSegments+pageSegments
}

func (in *Info) decode(r *reader) {
	in.Name = r.string(maxNameBytes)
	in.Version = uint32(r.uvarint(maxVersion))
	in.Created = int64(r.uvarint(1<<40 - 1))
	in.Creator = r.string(256)
	for _, n := range []*uint32{&in.ChunkMin, &in.ChunkAvg, &in.ChunkMax, &in.FrameLimit} {
		*n = uint32(r.uvarint(math.MaxUint32))
	}
	in.CKMLength = r.uvarint(math.MaxInt64)
	copy(in.CKMBlake3[:], r.bytes(digestSize))
	copy(in.CKMSHA256[:], r.bytes(digestSize))
	copy(in.Content[:], r.bytes(digestSize))
	in.DataLength = r.uvarint(math.MaxInt64)
	for n := r.uvarint(MaxFiles); n > 0 && !r.bad; n-- {
		in.Files = append(in.Files, File{r.string(maxPathBytes), r.uvarint(MaxImageSize), r.string(32)})
	}
	for n := r.uvarint(64); n > 0 && !r.bad; n-- {
		in.Attributes = append(in.Attributes, Attribute{r.string(64), r.string(MaxAttributeValue)})
	}
}

// Decode decodes and validates a whole INDEX. It accepts only the canonical
// form: encoding the result gives the same bytes. The error wraps ErrFormat
// or ErrUnsupported.
func Decode(p []byte) (*Index, error) {
	x, err := decode(p)
	if err != nil {
		return nil, fmt.Errorf("decoding index: %w", err)
	}
	return x, nil
}

func decode(p []byte) (*Index, error) {
	if len(p) > MaxIndexSize {
		return nil, fmt.Errorf("%w: %d bytes, the limit is %d", ErrFormat, len(p), MaxIndexSize)
	}
	h, err := DecodeHead(p)
	if errors.Is(err, ErrUnsupported) && !endsWithDigest(p) {
		return nil, fmt.Errorf("%w: the INDEX is damaged (its digest does not match)", ErrFormat)
	}
	if err != nil {
		return nil, err
	}
	rest := p[h.size:]
	if h.pagesLength > uint64(len(rest)) || len(rest)-int(h.pagesLength) < tailSize {
		return nil, fmt.Errorf("%w: the INDEX is cut short at %d bytes", ErrFormat, len(p))
	}
	pages, tail := rest[:h.pagesLength], rest[h.pagesLength:]
	sigs := tail[4 : len(tail)-digestSize]
	if uint64(binary.LittleEndian.Uint32(tail)) != uint64(len(sigs)) || len(sigs) > MaxSignatureBlock {
		return nil, fmt.Errorf("%w: the INDEX's length does not fit its header: it is cut short, or something was appended", ErrFormat)
	}
	if !endsWithDigest(p) {
		return nil, fmt.Errorf("%w: the INDEX is damaged (its digest does not match)", ErrFormat)
	}
	x := &Index{Info: h.Info, CompatibleFeatures: h.CompatibleFeatures, Signatures: bytes.Clone(sigs)}
	if err := x.decodePages(h, pages); err != nil {
		return nil, err
	}
	if err := x.validate(); err != nil {
		return nil, err
	}
	// One rule instead of many: what has another spelling is not canonical.
	if !bytes.Equal(x.encode(), p) {
		return nil, fmt.Errorf("%w: the INDEX is not in canonical form", ErrFormat)
	}
	return x, nil
}

// endsWithDigest reports whether the file digest is right. It is at the end in
// every version, so that what is damaged is not taken for something newer.
func endsWithDigest(p []byte) bool {
	n := len(p) - digestSize
	if n < 0 {
		return false
	}
	d := Sum(p[:n])
	return string(d[:]) == string(p[n:])
}

func (x *Index) decodePages(h *Head, pages []byte) error {
	x.ids = make([]ID, 0, h.Chunks)
	x.ends = make([]uint64, 0, h.Chunks)
	x.frames = make([]Frame, 0, h.Frames)
	take := func(i int, e page) ([]byte, error) {
		p := pages[:e.length] // the head's lengths are known to fit
		pages = pages[e.length:]
		if Sum(p) != e.digest {
			return nil, fmt.Errorf("%w: page %d of the INDEX is damaged", ErrFormat, i)
		}
		return p, nil
	}
	for i, e := range h.chunkPages {
		p, err := take(i, e)
		if err != nil {
			return err
		}
		if !x.decodeChunkPage(p, int(e.items)) {
			return fmt.Errorf("%w: chunk page %d", ErrFormat, i)
		}
	}
	if len(x.ids) != int(h.Chunks) || len(x.frames) != int(h.Frames) {
		return fmt.Errorf("%w: the INDEX claims %d chunks and %d frames and has %d and %d", ErrFormat, h.Chunks, h.Frames, len(x.ids), len(x.frames))
	}
	segments := 0
	for _, e := range h.mapPages {
		segments += int(e.items) // each takes a byte at least
	}
	x.segments = make([]Segment, 0, segments)
	extents := 0 // of all splits
	for i, e := range h.mapPages {
		p, err := take(len(h.chunkPages)+i, e)
		if err != nil {
			return err
		}
		if !x.decodeMapPage(p, int(e.items), &extents) {
			return fmt.Errorf("%w: map page %d", ErrFormat, i)
		}
	}
	return nil
}

// decodeChunkPage reports false when the page is not what the format allows.
// The caller has made room for all chunks and frames that the head claims.
func (x *Index) decodeChunkPage(p []byte, chunks int) bool {
	r := reader{p: p}
	n := int(r.uvarint(uint64(chunks)))
	if r.bad || len(x.ids)+chunks > cap(x.ids) || len(x.frames)+n > cap(x.frames) {
		return false
	}
	offset := uint64(HeaderSize)
	if last := len(x.frames) - 1; last >= 0 {
		offset = x.frames[last].Offset + uint64(x.frames[last].Stored)
	}
	base := len(x.frames)
	first := uint64(len(x.ids))
	for range n {
		x.frames = append(x.frames, Frame{First: uint32(first)})
		first += r.uvarint(MaxFrameChunks)
	}
	if r.bad || first != uint64(len(x.ids)+chunks) {
		return false
	}
	frames := x.frames[base:]
	for i := range frames {
		frames[i].Offset = offset
		frames[i].Stored = uint32(r.uvarint(maxStored(MaxFrameLimit)))
		offset += uint64(frames[i].Stored)
	}
	for i := range frames {
		if c := r.bytes(1); c != nil {
			frames[i].Codec = Codec(c[0])
		}
	}
	for i := range frames {
		copy(frames[i].Digest[:], r.bytes(len(ShortDigest{})))
	}
	var end uint64
	if n := len(x.ends); n > 0 {
		end = x.ends[n-1]
	}
	for range chunks {
		length := r.uvarint(MaxFrameLimit)
		if length == 0 {
			return false
		}
		end += length
		x.ends = append(x.ends, end)
	}
	for range chunks {
		x.ids = append(x.ids, ID{})
		copy(x.ids[len(x.ids)-1][:], r.bytes(digestSize))
	}
	return !r.bad && len(r.p) == 0
}

func (x *Index) decodeMapPage(p []byte, segments int, extents *int) bool {
	var (
		file, chunk uint32
		at          uint64
		r           = reader{p: p}
	)
	for range segments {
		w := r.uvarint(MaxSplitExtents<<segCountBits | (1<<segCountBits - 1))
		n := uint32(w >> segCountBits)
		switch w & segPosition {
		case segStay:
		case segSkip:
			at += r.uvarint(MaxImageSize)
		case segSeek:
			file = uint32(r.uvarint(MaxFiles))
			at = r.uvarint(MaxImageSize)
		default:
			return false
		}
		if w&segChunk != 0 {
			chunk = uint32(r.uvarint(MaxChunks))
		}
		s := Segment{Chunk: chunk, Count: n, File: file, Offset: at}
		if w&segSplit != 0 {
			if s.Count = 1; n < 2 || n > MaxSplitExtents || uint64(n) > uint64(len(r.p)) {
				return false
			}
			if *extents += int(n); *extents > MaxSegments {
				return false
			}
			s.Extents = make([]Extent, n)
			for i := range s.Extents {
				if i > 0 {
					at = uint64(int64(at) + r.svarint())
				}
				s.Extents[i] = Extent{at, r.uvarint(MaxFrameLimit)}
				at += s.Extents[i].Length
			}
		}
		// Bounds are checked here because span needs them, and merging because
		// it bounds how many segments there can be; validate checks the rest.
		if r.bad || s.Count < 1 || uint64(s.Chunk)+uint64(s.Count) > uint64(len(x.ids)) || at > MaxImageSize {
			return false
		}
		if last := len(x.segments) - 1; last >= 0 && x.continues(&x.segments[last], &s) {
			return false
		}
		if s.Extents == nil {
			at += x.span(s.Chunk, s.Count)
		}
		chunk = s.Chunk + s.Count
		x.segments = append(x.segments, s)
	}
	return !r.bad && len(r.p) == 0
}

// reader takes values off p; after the first that is not there or out of its
// bounds, bad is set and every value is zero.
type reader struct {
	p   []byte
	bad bool
}

func (r *reader) uvarint(limit uint64) uint64 {
	if r.bad {
		return 0
	}
	v, n := binary.Uvarint(r.p)
	if n <= 0 || v > limit || n > 1 && r.p[n-1] == 0 {
		r.bad = true
		return 0
	}
	r.p = r.p[n:]
	return v
}

func (r *reader) svarint() int64 {
	v := r.uvarint(math.MaxUint64)
	return int64(v>>1) ^ -int64(v&1)
}

func (r *reader) bytes(n int) []byte {
	if r.bad || n > len(r.p) {
		r.bad = true
		return nil
	}
	p := r.p[:n]
	r.p = r.p[n:]
	return p
}

func (r *reader) byte() byte {
	if p := r.bytes(1); p != nil {
		return p[0]
	}
	return 0
}

func (r *reader) string(limit int) string {
	p := r.bytes(int(r.uvarint(uint64(limit))))
	if !utf8.Valid(p) {
		r.bad = true
	}
	return string(p)
}

package ckm

import (
	"math"
	"sort"

	"github.com/zeebo/blake3"
)

// Info is what an INDEX says about its image and its CKM as a whole.
type Info struct {
	Name    string
	Version uint32
	Created int64  // seconds since 1970-01-01 UTC
	Creator string // program and version that packed

	ChunkMin, ChunkAvg, ChunkMax uint32 // what the packer aimed at, bytes
	FrameLimit                   uint32 // most raw bytes of a frame

	CKMLength  uint64 // bytes
	CKMBlake3  Digest // of the whole CKM file
	CKMSHA256  [32]byte
	Content    Digest // of all frames' short digests
	DataLength uint64 // sum of all chunks' lengths, bytes

	Files      []File
	Attributes []Attribute // in ascending order of keys
}

// ImageSize returns the size of all of the image's files together, in bytes.
func (in *Info) ImageSize() uint64 {
	var n uint64
	for _, f := range in.Files {
		n += f.Size
	}
	return n
}

// File is one of an image's files.
type File struct {
	Path   string // relative, / between elements
	Size   uint64 // bytes
	Format string // the disk container that the packer recognised, or "raw"
}

// Attribute is a further statement about a package, for information.
type Attribute struct{ Key, Value string }

// Codec says how a frame's stored bytes become its chunks.
type Codec uint8

// CodecZstd is a single zstd frame that needs nothing else.
const CodecZstd Codec = 0

// Frame is one frame of a CKM.
type Frame struct {
	Offset uint64 // of its first byte in the CKM
	Stored uint32 // bytes in the CKM
	First  uint32 // number of its first chunk
	Codec  Codec
	Digest ShortDigest // of the stored bytes
}

// Extent is a range of one of an image's files, in bytes.
type Extent struct{ Offset, Length uint64 }

// Segment places chunks: Count chunks from Chunk on, each whole, one after the
// other from Offset on (a run); or, when Extents is set, the one chunk Chunk
// into several extents (a split; Offset is then Extents[0].Offset).
type Segment struct {
	Chunk   uint32
	Count   uint32
	File    uint32
	Offset  uint64
	Extents []Extent
}

// Index is a decoded INDEX. Build one with AddFrame and Place, or decode one;
// do not change a decoded one, several goroutines may share it.
type Index struct {
	Info
	CompatibleFeatures uint32
	Signatures         []byte // the signature block as it stands

	frames   []Frame
	ids      []ID
	ends     []uint64 // end of each chunk in the sequence of all chunks
	segments []Segment
	digest   Digest // of the head, once encoded or decoded
}

// Digest returns the package digest, the identity of the package. It is zero
// for an Index that was neither encoded nor decoded.
func (x *Index) Digest() Digest { return x.digest }

// Chunks returns the number of chunks.
func (x *Index) Chunks() int { return len(x.ids) }

// ID returns the ID of chunk c.
func (x *Index) ID(c int) ID { return x.ids[c] }

// ChunkLength returns the length of chunk c in bytes.
func (x *Index) ChunkLength(c int) int { return int(x.ends[c] - x.start(c)) }

// span returns the length in bytes of n chunks from c on.
func (x *Index) span(c, n uint32) uint64 {
	return x.start(int(c)+int(n)) - x.start(int(c))
}

// start returns where chunk c, or after the last chunk the end, is in the
// sequence of all chunks.
func (x *Index) start(c int) uint64 {
	if c == 0 {
		return 0
	}
	return x.ends[c-1]
}

// Frames returns the number of frames.
func (x *Index) Frames() int { return len(x.frames) }

// Frame returns frame f.
func (x *Index) Frame(f int) Frame { return x.frames[f] }

// FrameChunks returns the range [first, end) of the chunks in frame f.
func (x *Index) FrameChunks(f int) (first, end int) {
	end = len(x.ids)
	if f+1 < len(x.frames) {
		end = int(x.frames[f+1].First)
	}
	return int(x.frames[f].First), end
}

// FrameLength returns the raw length of frame f in bytes.
func (x *Index) FrameLength(f int) int {
	first, end := x.FrameChunks(f)
	return int(x.ends[end-1] - x.start(first))
}

// FrameOf returns the frame that holds chunk c.
func (x *Index) FrameOf(c int) int {
	return sort.Search(len(x.frames), func(f int) bool { return int(x.frames[f].First) > c }) - 1
}

// Segments returns the map from chunks to files, in the order of the INDEX.
// The caller must not change it.
func (x *Index) Segments() []Segment { return x.segments }

// Trailer returns what the CKM's trailer must be.
func (x *Index) Trailer() Trailer {
	return Trailer{Frames: uint64(len(x.frames)), Offset: x.CKMLength - TrailerSize, Content: x.Content}
}

// AddFrame appends a frame with the given chunks, which must not be in the
// package yet. Its stored bytes follow those of the frame before it.
func (x *Index) AddFrame(stored []byte, codec Codec, ids []ID, lengths []int) {
	f := Frame{Offset: HeaderSize, Stored: uint32(len(stored)), First: uint32(len(x.ids)), Codec: codec, Digest: ShortSum(stored)}
	if n := len(x.frames); n > 0 {
		f.Offset = x.frames[n-1].Offset + uint64(x.frames[n-1].Stored)
	}
	x.frames = append(x.frames, f)
	x.ids = append(x.ids, ids...)
	for _, n := range lengths {
		x.DataLength += uint64(n)
		x.ends = append(x.ends, x.DataLength)
	}
}

// Place says that chunk goes to offset of file. Chunks may be placed before
// their frame is added.
func (x *Index) Place(chunk, file uint32, offset uint64) {
	x.segments = append(x.segments, Segment{Chunk: chunk, Count: 1, File: file, Offset: offset})
}

// PlaceRun is Place for a run of chunks that the caller has collected.
func (x *Index) PlaceRun(s Segment) { x.segments = append(x.segments, s) }

// PlaceSplit says that chunk fills the extents, in this order.
func (x *Index) PlaceSplit(chunk, file uint32, extents []Extent) {
	if len(extents) == 1 {
		x.Place(chunk, file, extents[0].Offset)
		return
	}
	x.segments = append(x.segments, Segment{Chunk: chunk, Count: 1, File: file, Offset: extents[0].Offset, Extents: extents})
}

// mergeRuns joins neighbouring runs in place, as the canonical form wants it.
// It needs the chunks' lengths, so all frames must have been added. Chunks
// that are not there are left for validate to find.
func (x *Index) mergeRuns() {
	out := x.segments[:0]
	for _, s := range x.segments {
		if n := len(out); n > 0 && x.continues(&out[n-1], &s) {
			take := min(s.Count, MaxRunChunks-out[n-1].Count)
			out[n-1].Count += take
			if take == s.Count {
				continue
			}
			s.Offset += x.span(s.Chunk, take)
			s.Chunk += take
			s.Count -= take
		}
		out = append(out, s)
	}
	x.segments = out
}

// continues reports whether run s goes on where run p, which has room, ends.
func (x *Index) continues(p, s *Segment) bool {
	return p.Extents == nil && s.Extents == nil && p.Count < MaxRunChunks &&
		uint64(p.Chunk)+uint64(p.Count)+uint64(s.Count) <= uint64(len(x.ends)) &&
		s.File == p.File && s.Chunk == p.Chunk+p.Count && s.Offset == p.Offset+x.span(p.Chunk, p.Count)
}

// closesPage is the rule by which chunk pages are cut by content.
func closesPage(id ID) bool { return id[31]&0x1f == 0 }

// contentDigest computes the digest of all frames' short digests.
func (x *Index) contentDigest() Digest {
	h := blake3.New()
	for i := range x.frames {
		h.Write(x.frames[i].Digest[:])
	}
	return Digest(h.Sum(nil))
}

// placed returns the bytes that all segments cover together. A validated map
// never overlaps, so it is at most the image's size.
func (x *Index) placed() uint64 {
	var n uint64
	for i := range x.segments {
		n += x.span(x.segments[i].Chunk, x.segments[i].Count)
	}
	return n
}

// PlacedSize returns how many bytes of the image are not holes.
func (x *Index) PlacedSize() uint64 {
	if len(x.ids) == 0 {
		return 0
	}
	return min(x.placed(), math.MaxInt64)
}

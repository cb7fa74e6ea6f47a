// Package btrfs reads what Btrfs tells of its volume: which bytes are which file's,
// and which are free. It reads volumes on one device, with metadata and data once
// or twice.
//
// It follows the on-disk format as the developers of Btrfs document it. All blocks
// of metadata have checksums, which are compared.
package btrfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"
	"slices"

	"prestage/internal/fsmap/volume"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	superOffset = 64 << 10
	superSize   = 4 << 10
	superMagic  = "_BHRfS_M"
	// Copies of the superblock are not in use as far as the trees know, and what is
	// before the first MiB is nobody's.
	superReserve = 64 << 10
	devReserve   = 1 << 20

	chunkArrayAt   = 811
	chunkArraySize = 2048

	flagSeeding = 1 << 32

	// Features that make no difference to what is read here: kinds of references
	// and names, compression, small metadata blocks, holes, another UUID.
	incompatKnown        = 0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x100 | 0x200 | incompatMetadataUUID
	incompatMetadataUUID = 0x400
	// The tree of free space, verity, the tree of block groups.
	readOnlyKnown = 0x1 | 0x2 | 0x4 | 0x8

	headerSize = 101
	itemSize   = 25
	branchSize = 33
	keySize    = 17
	mostLevels = 8
	mostParts  = 1 << 24 // extents that are kept
)

var superMirrors = []int64{64 << 10, 64 << 20, 256 << 30}

// fileSystem is a volume whose superblock and chunks were read.
type fileSystem struct {
	r      io.ReaderAt
	size   int64 // bytes of the device
	node   int64 // bytes
	sector int64
	uuid   []byte // of the metadata
	now    uint64 // generation
	used   uint64 // bytes, by the superblock

	root      branch // of the tree of trees
	chunks    []chunk
	allocated []extent // logical, in ascending order, joined
	known     bool     // it was read
	early     []uint64 // blocks of trees that were read before
}

// branch points to a block.
type branch struct {
	at         uint64 // logical
	level      int
	generation uint64
}

// chunk is a range of logical addresses and where it lies.
type chunk struct {
	start, length uint64
	places        []int64 // one or two, with the same bytes
}

type extent struct{ start, length uint64 }

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrRefused, fmt.Sprintf(format, args...))
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: Btrfs: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// Open reads the superblock, the chunks and the tree of extents of the file system
// in the first size bytes of r. The error wraps volume.ErrUnknown if there is none,
// volume.ErrRefused if it was not unmounted or has what is not known here,
// volume.ErrDamaged if it contradicts itself.
func Open(r io.ReaderAt, size int64) (volume.FileSystem, error) {
	if size < superOffset+superSize {
		return nil, volume.ErrUnknown
	}
	sb := make([]byte, superSize)
	if _, err := r.ReadAt(sb, superOffset); err != nil {
		return nil, err
	}
	if string(sb[64:72]) != superMagic {
		return nil, volume.ErrUnknown
	}
	fs := &fileSystem{r: r}
	if err := fs.super(sb, size); err != nil {
		return nil, err
	}
	if err := fs.readChunks(sb); err != nil {
		return nil, err
	}
	return fs, fs.readAllocated()
}

// Name implements volume.FileSystem.
func (fs *fileSystem) Name() string { return "btrfs" }

// super reads the superblock.
func (fs *fileSystem) super(sb []byte, size int64) error {
	flags, incompat, readOnly := le.Uint64(sb[56:]), le.Uint64(sb[188:]), le.Uint64(sb[180:])
	total, devices := le.Uint64(sb[112:]), le.Uint64(sb[136:])
	fs.sector, fs.node = int64(le.Uint32(sb[144:])), int64(le.Uint32(sb[148:]))
	fs.now, fs.used = le.Uint64(sb[72:]), le.Uint64(sb[120:])
	switch sum := le.Uint16(sb[196:]); {
	case sum != 0:
		return refused("Btrfs with checksums of kind %d", sum)
	case crc32.Checksum(sb[32:], castagnoli) != le.Uint32(sb) || le.Uint64(sb[48:]) != superOffset:
		return damaged("the superblock's checksum is wrong")
	case incompat&^uint64(incompatKnown) != 0:
		return refused("Btrfs has features that are not known here (%#x)", incompat&^uint64(incompatKnown))
	case readOnly&^uint64(readOnlyKnown) != 0:
		return refused("Btrfs has features that are not known here (%#x, read-only)", readOnly&^uint64(readOnlyKnown))
	case devices != 1:
		return refused("Btrfs on %d devices", devices)
	case flags&flagSeeding != 0:
		return refused("Btrfs that others depend on")
	case le.Uint64(sb[96:]) != 0:
		return refused("Btrfs was not unmounted: its log must be replayed; start the virtual machine and shut it down")
	case !isPower(fs.sector, 4<<10, 64<<10) || !isPower(fs.node, fs.sector, 64<<10):
		return damaged("blocks of %d and %d bytes", fs.sector, fs.node)
	case total > uint64(size) || total < superOffset+superSize || le.Uint64(sb[201+8:]) != total:
		return damaged("%d bytes in %d", total, size)
	}
	fs.size = int64(total)
	fs.uuid = sb[32:48]
	if incompat&incompatMetadataUUID != 0 {
		fs.uuid = sb[571:587]
	}
	fs.root = branch{le.Uint64(sb[80:]), int(sb[198]), fs.now}
	return nil
}

func isPower(n, least, most int64) bool {
	return n >= least && n <= most && bits.OnesCount64(uint64(n)) == 1
}

// readChunks reads the chunks: some are in the superblock, so that the others can
// be found.
func (fs *fileSystem) readChunks(sb []byte) error {
	n := le.Uint32(sb[160:])
	if n > chunkArraySize {
		return damaged("%d bytes of chunks in the superblock", n)
	}
	for p := sb[chunkArrayAt : chunkArrayAt+n]; len(p) > 0; {
		if len(p) < keySize {
			return damaged("the chunks in the superblock are cut short")
		}
		k := readKey(p)
		used, err := fs.addChunk(k, p[keySize:])
		if err != nil {
			return err
		}
		p = p[keySize+used:]
	}
	if err := fs.sortChunks(); err != nil {
		return err
	}
	first := fs.chunks
	fs.chunks = slices.Clone(first)
	var more []chunk
	err := fs.walk(branch{le.Uint64(sb[88:]), int(sb[199]), le.Uint64(sb[164:])}, nil, func(k key, p []byte) error {
		if k.kind != chunkItem {
			return nil
		}
		all := fs.chunks
		fs.chunks = nil
		_, err := fs.addChunk(k, p)
		more = append(more, fs.chunks...)
		fs.chunks = all
		return err
	})
	if err != nil {
		return err
	}
	// The tree has those of the superblock as well.
	fs.chunks = more
	if err := fs.sortChunks(); err != nil {
		return err
	}
	used := uint64(0)
	for _, e := range fs.onDevice() {
		used += uint64(e.Length)
	}
	if want := le.Uint64(sb[201+16:]); used != want {
		return damaged("chunks of %d bytes, and %d by the superblock", used, want)
	}
	return nil
}

// addChunk reads a chunk and returns how many bytes describe it.
func (fs *fileSystem) addChunk(k key, p []byte) (int, error) {
	const head, stripe = 48, 32
	if k.kind != chunkItem || len(p) < head+stripe {
		return 0, damaged("a chunk that is none")
	}
	c := chunk{start: k.offset, length: le.Uint64(p)}
	kind, n := le.Uint64(p[24:]), int(le.Uint16(p[44:]))
	const once, twice = 0, 1 << 5
	switch profile := kind >> 3 << 3; {
	case profile == once && n == 1, profile == twice && n == 2:
	case profile == once || profile == twice || n == 0:
		return 0, damaged("a chunk with %d stripes", n)
	default:
		return 0, refused("Btrfs with data spread over devices (%#x)", profile)
	}
	if len(p) < head+n*stripe {
		return 0, damaged("a chunk of %d stripes is cut short", n)
	}
	for i := range n {
		at := le.Uint64(p[head+i*stripe+8:])
		if c.length == 0 || c.length%uint64(fs.sector) != 0 || c.start%uint64(fs.sector) != 0 || c.start > 1<<62 ||
			at > uint64(fs.size) || c.length > uint64(fs.size)-at {
			return 0, damaged("a chunk of %d bytes at %d", c.length, at)
		}
		c.places = append(c.places, int64(at))
	}
	fs.chunks = append(fs.chunks, c)
	return head + n*stripe, nil
}

// sortChunks sorts the chunks and sees that none overlap, neither in their
// addresses nor where they lie.
func (fs *fileSystem) sortChunks() error {
	slices.SortFunc(fs.chunks, func(a, b chunk) int { return compare(a.start, b.start) })
	for i := 1; i < len(fs.chunks); i++ {
		if a, b := fs.chunks[i-1], fs.chunks[i]; a.start+a.length > b.start {
			return damaged("chunks overlap")
		}
	}
	used := fs.onDevice()
	for i := 1; i < len(used); i++ {
		if used[i-1].End() > used[i].Offset {
			return damaged("chunks lie one over the other")
		}
	}
	return nil
}

// onDevice returns where all chunks lie, in ascending order.
func (fs *fileSystem) onDevice() (list []volume.Extent) {
	for _, c := range fs.chunks {
		for _, at := range c.places {
			list = append(list, volume.Extent{Offset: at, Length: int64(c.length)})
		}
	}
	slices.SortFunc(list, func(a, b volume.Extent) int { return compare(a.Offset, b.Offset) })
	return list
}

func compare[T int64 | uint64](a, b T) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// place returns where n bytes at a logical address lie first, and how many of them
// follow each other there.
func (fs *fileSystem) place(at, n uint64) (volume.Extent, error) {
	i, found := slices.BinarySearchFunc(fs.chunks, at, func(c chunk, at uint64) int { return compare(c.start, at) })
	if !found {
		i--
	}
	if i < 0 || at-fs.chunks[i].start >= fs.chunks[i].length {
		return volume.Extent{}, damaged("address %d is in no chunk", at)
	}
	c := &fs.chunks[i]
	in := at - c.start
	return volume.Extent{Offset: c.places[0] + int64(in), Length: int64(min(n, c.length-in))}, nil
}

// beginsChunk reports whether a chunk begins at a logical address.
func (fs *fileSystem) beginsChunk(at uint64) bool {
	_, found := slices.BinarySearchFunc(fs.chunks, at, func(c chunk, at uint64) int { return compare(c.start, at) })
	return found
}

// block reads a block of a tree and checks it.
func (fs *fileSystem) block(b branch, p []byte) error {
	e, err := fs.place(b.at, uint64(fs.node))
	if err != nil {
		return err
	}
	if e.Length < fs.node {
		return damaged("a block at %d that is cut", b.at)
	}
	if _, err := fs.r.ReadAt(p, e.Offset); err != nil {
		return err
	}
	if crc32.Checksum(p[32:], castagnoli) != le.Uint32(p) || le.Uint64(p[48:]) != b.at || !bytes.Equal(p[32:48], fs.uuid) ||
		int(p[100]) != b.level || le.Uint64(p[80:]) != b.generation {
		return damaged("the block at %d is not what it should be", b.at)
	}
	return nil
}

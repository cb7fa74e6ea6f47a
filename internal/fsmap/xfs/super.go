// Package xfs reads what XFS, versions 4 and 5, tells of its volume: which
// blocks are which file's, and which are free.
//
// It follows the "XFS Algorithms & Data Structures" that the developers of XFS
// publish. Where the volume says something twice, both must agree: no file may
// have a block that is free.
package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"prestage/internal/fsmap/volume"
)

var (
	be         = binary.BigEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	superSize  = 512 // bytes of the superblock that are read first
	superMagic = 0x58465342
	superSum   = 224 // where its checksum is

	leastBlock, mostBlock   = 512, 1 << 16
	leastSector, mostSector = 512, 1 << 15
	leastInode, mostInode   = 256, 2048
	leastGroup, mostGroup   = 64, 1 << 31 // blocks
	headers                 = 4           // sectors at the start of each group
)

// Features of version 4 that are asked for.
const (
	version4Shared    = 0x0200
	version4Unwritten = 0x1000 // extents say whether they were written
	version4Folders   = 0x2000 // directories of the second kind, the only one in use
	version4More      = 0x8000
	version4Known     = 0xffff &^ version4Shared
	more4Known        = 0x2 | 0x8 | 0x10 | 0x80 | 0x200 // counters, attributes, parents, projects, types
)

// Features of version 5.
const (
	roFreeInodes   = 0x1
	roReverse      = 0x2
	roReflink      = 0x4
	roInodeCounts  = 0x8
	roKnown        = roFreeInodes | roReverse | roReflink | roInodeCounts
	incompatTypes  = 0x1
	incompatSparse = 0x2
	incompatUUID   = 0x4 // metadata has another UUID than the volume
	incompatTime   = 0x8
	incompatRepair = 0x10
	incompatCounts = 0x20 // counts of extents are larger, and elsewhere
	incompatSwap   = 0x40 // ranges of files were exchanged: only the log knows
	incompatParent = 0x80
	incompatKnown  = incompatTypes | incompatSparse | incompatUUID | incompatTime | incompatCounts | incompatSwap | incompatParent
)

// fileSystem is a volume that was unmounted.
type fileSystem struct {
	r io.ReaderAt

	v5           bool
	block        int64 // bytes
	blocks       int64
	sector       int64
	groups       int64
	perGroup     int64 // blocks
	groupBits    uint  // of a block's number in its group
	inode        int64 // bytes
	inodeBits    uint  // of an inode's number in its group
	ro, incompat uint32
	logStart     int64 // block, or -1 if it is elsewhere
	logBlocks    int64
	uuid         [16]byte        // of the volume
	metaUUID     [16]byte        // of its metadata
	special      map[uint64]bool // inodes that are not files
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrRefused, fmt.Sprintf(format, args...))
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// Open reads the superblock of the file system in the first size bytes of r, and
// its log. The error wraps volume.ErrUnknown if there is none, volume.ErrRefused
// if it was not unmounted or has what is not known here, volume.ErrDamaged if it
// contradicts itself.
func Open(r io.ReaderAt, size int64) (volume.FileSystem, error) {
	sb := make([]byte, superSize)
	if size < superSize {
		return nil, volume.ErrUnknown
	}
	if _, err := r.ReadAt(sb, 0); err != nil {
		return nil, err
	}
	if be.Uint32(sb) != superMagic {
		return nil, volume.ErrUnknown
	}
	fs := &fileSystem{r: r}
	if err := fs.geometry(sb, size); err != nil {
		return nil, err
	}
	if err := fs.features(sb); err != nil {
		return nil, err
	}
	if err := fs.checkLog(); err != nil {
		return nil, err
	}
	return fs, nil
}

// geometry reads what is the same in both versions.
func (fs *fileSystem) geometry(sb []byte, size int64) error {
	fs.block, fs.sector, fs.inode = int64(be.Uint32(sb[4:])), int64(be.Uint16(sb[102:])), int64(be.Uint16(sb[104:]))
	fs.perGroup, fs.groups = int64(be.Uint32(sb[84:])), int64(be.Uint32(sb[88:]))
	blocks := be.Uint64(sb[8:])
	switch {
	case !isPower(fs.block, leastBlock, mostBlock) || sb[120] != log2(fs.block):
		return damaged("blocks of %d bytes", fs.block)
	case !isPower(fs.sector, leastSector, mostSector) || fs.sector > fs.block || sb[121] != log2(fs.sector):
		return damaged("sectors of %d bytes", fs.sector)
	case !isPower(fs.inode, leastInode, mostInode) || fs.inode > fs.block || sb[122] != log2(fs.inode):
		return damaged("inodes of %d bytes", fs.inode)
	case blocks == 0 || blocks > uint64(size/fs.block):
		return damaged("%d blocks of %d bytes in %d bytes", blocks, fs.block, size)
	case fs.perGroup < leastGroup || fs.perGroup > mostGroup || fs.groups == 0 ||
		int64(blocks) <= (fs.groups-1)*fs.perGroup || int64(blocks) > fs.groups*fs.perGroup:
		return damaged("%d blocks in %d groups of %d", blocks, fs.groups, fs.perGroup)
	}
	fs.blocks = int64(blocks)
	fs.groupBits = uint(bits.Len64(uint64(fs.perGroup - 1)))
	fs.inodeBits = fs.groupBits + uint(log2(fs.block/fs.inode))
	if uint(sb[124]) != fs.groupBits || fs.length(fs.groups-1)*fs.block < headers*fs.sector {
		return damaged("%d groups of %d blocks, of %d", fs.groups, fs.perGroup, fs.blocks)
	}
	return nil
}

// features sees that there is nothing unknown, and reads the rest.
func (fs *fileSystem) features(sb []byte) error {
	version := be.Uint16(sb[100:])
	fs.uuid = [16]byte(sb[32:48])
	fs.metaUUID = fs.uuid
	switch more := be.Uint32(sb[200:]); version & 0xf {
	case 4:
		if unknown := version &^ version4Known; unknown != 0 || version&version4Unwritten == 0 || version&version4Folders == 0 {
			return refused("XFS of a kind that is not known here (%#x)", version)
		}
		if version&version4More != 0 && more&^more4Known != 0 {
			return refused("XFS has features that are not known here (%#x)", more&^more4Known)
		}
	case 5:
		fs.v5 = true
		fs.ro, fs.incompat = be.Uint32(sb[212:]), be.Uint32(sb[216:])
		if err := fs.checkSuper(); err != nil {
			return err
		}
		if fs.incompat&incompatRepair != 0 {
			return refused("XFS has errors; have xfs_repair mend it")
		}
		if unknown := fs.incompat &^ incompatKnown; unknown != 0 {
			return refused("XFS has features that are not known here (%#x)", unknown)
		}
		if unknown := fs.ro &^ roKnown; unknown != 0 {
			return refused("XFS has features that are not known here (%#x, read-only)", unknown)
		}
		if be.Uint32(sb[220:]) != 0 {
			return errNotUnmounted
		}
		if fs.incompat&incompatUUID != 0 {
			fs.metaUUID = [16]byte(sb[248:264])
		}
	default:
		return refused("XFS of version %d", version&0xf)
	}
	if sb[126] != 0 {
		return refused("XFS was being made or enlarged; have xfs_repair mend it")
	}
	if be.Uint64(sb[16:]) != 0 || be.Uint64(sb[24:]) != 0 {
		return refused("XFS with a device for real-time data")
	}
	fs.special = map[uint64]bool{}
	for _, at := range []int{64, 72, 160, 168} { // bitmap, summary, quotas
		fs.special[be.Uint64(sb[at:])] = true
	}
	if fs.v5 {
		fs.special[be.Uint64(sb[232:])] = true
	}
	start := be.Uint64(sb[48:])
	if start == 0 {
		return refused("XFS has its log on another device")
	}
	fs.logBlocks = int64(be.Uint32(sb[96:]))
	var ok bool
	if fs.logStart, ok = fs.place(start, fs.logBlocks); !ok {
		return damaged("a log of %d blocks at %d", fs.logBlocks, start)
	}
	return nil
}

// checkSuper checks the checksum of the superblock.
func (fs *fileSystem) checkSuper() error {
	p := make([]byte, fs.sector)
	if _, err := fs.r.ReadAt(p, 0); err != nil {
		return err
	}
	if !summed(p, superSum) {
		return damaged("the superblock's checksum is wrong")
	}
	return nil
}

// Name implements volume.FileSystem.
func (fs *fileSystem) Name() string { return "xfs" }

// summed reports whether a checksum at a place is right, and changes p.
func summed(p []byte, at int) bool {
	want := binary.LittleEndian.Uint32(p[at:])
	clear(p[at : at+4])
	got := crc32.Checksum(p, castagnoli)
	binary.LittleEndian.PutUint32(p[at:], want)
	return got == want
}

func isPower(n, least, most int64) bool {
	return n >= least && n <= most && bits.OnesCount64(uint64(n)) == 1
}

func log2(n int64) byte { return byte(bits.TrailingZeros64(uint64(n))) }

// length returns the blocks of a group: the last one may have fewer.
func (fs *fileSystem) length(group int64) int64 {
	return min(fs.perGroup, fs.blocks-group*fs.perGroup)
}

// place returns the volume's block that a block number says, which consists of a
// group and a block in it, and whether n blocks from there on are in the group
// and after its headers.
func (fs *fileSystem) place(number uint64, n int64) (int64, bool) {
	group, b := int64(number>>fs.groupBits), int64(number&(1<<fs.groupBits-1))
	if group >= fs.groups || !fs.inGroup(group, b, n) {
		return 0, false
	}
	return group*fs.perGroup + b, true
}

// inGroup reports whether n blocks from b on are in a group and after its headers.
func (fs *fileSystem) inGroup(group, b, n int64) bool {
	return b*fs.block >= headers*fs.sector && n > 0 && n <= fs.length(group) && b <= fs.length(group)-n
}

// isOurs reports whether a UUID is that of the volume's metadata.
func (fs *fileSystem) isOurs(uuid []byte) bool { return bytes.Equal(uuid, fs.metaUUID[:]) }

// Package ext reads what ext2, ext3 and ext4 tell of their volume: which blocks
// are which file's, and which are free.
//
// It follows the Linux kernel's documentation of the layout ("ext4 Data
// Structures and Algorithms").
package ext

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"math/bits"

	"prestage/internal/fsmap/volume"
)

var (
	le         = binary.LittleEndian
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
)

const (
	superOffset = 1024
	superSize   = 1024
	magic       = 0xef53
)

// Features that a reader must know, and those that this one does.
const (
	incompatFileType  = 0x2
	incompatRecover   = 0x4
	incompatMetaBG    = 0x10
	incompatExtents   = 0x40
	incompat64Bit     = 0x80
	incompatMMP       = 0x100
	incompatFlexBG    = 0x200
	incompatEAInode   = 0x400
	incompatChecksum  = 0x2000 // the seed of checksums is stored
	incompatLargeDir  = 0x4000
	incompatInline    = 0x8000
	incompatEncrypt   = 0x10000
	incompatCasefold  = 0x20000
	incompatKnown     = incompatFileType | incompatMetaBG | incompatExtents | incompat64Bit | incompatMMP | incompatFlexBG | incompatEAInode | incompatChecksum | incompatLargeDir | incompatInline | incompatEncrypt | incompatCasefold
	roSparse          = 0x1
	roGroupChecksums  = 0x10
	roBigAlloc        = 0x200
	roChecksums       = 0x400
	roOrphansPresent  = 0x10000
	roKnown           = roSparse | 0x2 | 0x4 | 0x8 | roGroupChecksums | 0x20 | 0x40 | 0x100 | roBigAlloc | roChecksums | 0x1000 | 0x2000 | 0x4000 | 0x8000 | roOrphansPresent
	stateClean        = 0x1
	stateErrors       = 0x2
	groupNoInodes     = 0x1 // the group's inode table was never used
	groupNoBitmap     = 0x2 // the group's block bitmap was never written
	journalInode      = 8
	firstInodeInOld   = 11
	smallestDescBytes = 32
	mostGroups        = 1 << 22 // 512 TiB in groups of the usual size
)

// fileSystem is a volume that was unmounted.
type fileSystem struct {
	r io.ReaderAt

	name           string
	block          int64 // bytes
	blocks         int64
	firstBlock     int64
	perGroup       int64 // blocks
	inodesPerGroup int64
	inodes         int64
	inodeSize      int64
	firstInode     int64
	descSize       int64
	groups         int64
	incompat, ro   uint32
	metaGroup      int64 // the first group whose descriptors are in meta groups
	seed           uint32
	uuid           []byte
	special        map[int64]bool // inodes that are not files
	sparse         bool           // not every group has a copy of the superblock
	sparse2        [2]int64       // the groups that do, if these two are all
	reservedDescs  int64          // blocks for more group descriptors, behind them
	free           int64          // blocks, as the superblock says
	mmp            int64          // block that says who has it mounted; 0 if there is none
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrRefused, fmt.Sprintf(format, args...))
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// Open reads the superblock of the file system in the first size bytes of r. The
// error wraps volume.ErrUnknown if there is none, volume.ErrRefused if it was not
// unmounted or has what is not known here, volume.ErrDamaged if it contradicts
// itself.
func Open(r io.ReaderAt, size int64) (volume.FileSystem, error) {
	sb := make([]byte, superSize)
	if size < superOffset+superSize {
		return nil, volume.ErrUnknown
	}
	if _, err := r.ReadAt(sb, superOffset); err != nil {
		return nil, err
	}
	if le.Uint16(sb[0x38:]) != magic {
		return nil, volume.ErrUnknown
	}
	fs := &fileSystem{r: r, name: "ext2", inodeSize: 128, firstInode: firstInodeInOld, descSize: smallestDescBytes,
		incompat: le.Uint32(sb[0x60:]), ro: le.Uint32(sb[0x64:]), uuid: sb[0x68:0x78]}
	compat := le.Uint32(sb[0x5c:])
	if compat&0x4 != 0 {
		fs.name = "ext3"
	}
	if fs.incompat&(incompatExtents|incompat64Bit|incompatFlexBG) != 0 || fs.ro&(roGroupChecksums|roChecksums) != 0 {
		fs.name = "ext4"
	}
	if unknown := fs.incompat &^ incompatKnown; unknown&^incompatRecover != 0 {
		return nil, refused("%s has features that are not known here (%#x)", fs.name, unknown&^incompatRecover)
	}
	// Who does not know these must not write: blocks may be in use in ways of their own.
	if unknown := fs.ro &^ roKnown; unknown != 0 {
		return nil, refused("%s has features that are not known here (%#x, read-only)", fs.name, unknown)
	}
	if fs.ro&roChecksums != 0 {
		if crc(^uint32(0), sb[:0x3fc]) != le.Uint32(sb[0x3fc:]) {
			return nil, damaged("the superblock's checksum is wrong")
		}
	}
	if fs.incompat&incompatRecover != 0 || le.Uint16(sb[0x3a:])&stateClean == 0 || fs.ro&roOrphansPresent != 0 {
		return nil, refused("%s was not unmounted; start the virtual machine and shut it down", fs.name)
	}
	if le.Uint16(sb[0x3a:])&stateErrors != 0 {
		return nil, refused("%s has errors; have fsck mend it", fs.name)
	}
	if le.Uint32(sb[0xe8:]) != 0 {
		return nil, refused("%s has files that were being deleted; start the virtual machine and shut it down", fs.name)
	}
	if fs.ro&roBigAlloc != 0 {
		return nil, refused("%s with clusters of blocks (bigalloc)", fs.name)
	}
	if err := fs.geometry(sb, size); err != nil {
		return nil, err
	}
	fs.special = map[int64]bool{journalInode: true}
	for _, at := range []int{0xe0, 0x240, 0x244, 0x26c, 0x280} { // journal, quotas, project quota, orphan file
		if n := int64(le.Uint32(sb[at:])); n > 0 {
			fs.special[n] = true
		}
	}
	if fs.incompat&incompatMMP != 0 {
		fs.mmp = int64(le.Uint64(sb[0x168:]))
	}
	fs.seed = crc(^uint32(0), fs.uuid)
	if fs.incompat&incompatChecksum != 0 {
		fs.seed = le.Uint32(sb[0x270:])
	}
	return fs, nil
}

// crc is CRC-32C as ext4 has it: neither inverted before nor after.
func crc(seed uint32, p []byte) uint32 { return ^crc32.Update(^seed, castagnoli, p) }

func (fs *fileSystem) geometry(sb []byte, size int64) error {
	shift := le.Uint32(sb[0x18:])
	if shift > 6 {
		return damaged("blocks of 2^%d KiB", shift)
	}
	fs.block = 1024 << shift
	fs.blocks, fs.firstBlock = int64(le.Uint32(sb[0x4:])), int64(le.Uint32(sb[0x14:]))
	fs.perGroup, fs.inodesPerGroup, fs.inodes = int64(le.Uint32(sb[0x20:])), int64(le.Uint32(sb[0x28:])), int64(le.Uint32(sb))
	if le.Uint32(sb[0x4c:]) > 0 {
		fs.firstInode, fs.inodeSize = int64(le.Uint32(sb[0x54:])), int64(le.Uint16(sb[0x58:]))
	}
	if fs.incompat&incompat64Bit != 0 {
		fs.blocks |= int64(le.Uint32(sb[0x150:])) << 32
		fs.descSize = int64(le.Uint16(sb[0xfe:]))
	}
	fs.metaGroup = int64(le.Uint32(sb[0x104:]))
	fs.sparse, fs.reservedDescs = fs.ro&roSparse != 0, int64(le.Uint16(sb[0xce:]))
	if le.Uint32(sb[0x5c:])&0x200 != 0 {
		fs.sparse2 = [2]int64{int64(le.Uint32(sb[0x24c:])), int64(le.Uint32(sb[0x250:]))}
	}
	fs.free = int64(le.Uint32(sb[0xc:]))
	if fs.incompat&incompat64Bit != 0 {
		fs.free |= int64(le.Uint32(sb[0x158:])) << 32
	}
	switch {
	case fs.blocks <= fs.firstBlock || fs.blocks > size/fs.block || (fs.firstBlock == 1) != (fs.block == superOffset) || fs.firstBlock > 1:
		return damaged("%d blocks of %d bytes in %d bytes", fs.blocks, fs.block, size)
	case fs.perGroup < 8 || fs.perGroup > 8*fs.block || fs.inodesPerGroup < 1 || fs.inodesPerGroup > 8*fs.block:
		return damaged("%d blocks and %d inodes in a group", fs.perGroup, fs.inodesPerGroup)
	case fs.inodeSize < 128 || fs.inodeSize > fs.block || bits.OnesCount64(uint64(fs.inodeSize)) != 1:
		return damaged("inodes of %d bytes", fs.inodeSize)
	case fs.descSize < smallestDescBytes || fs.descSize > fs.block || bits.OnesCount64(uint64(fs.descSize)) != 1:
		return damaged("group descriptors of %d bytes", fs.descSize)
	}
	fs.groups = (fs.blocks - fs.firstBlock + fs.perGroup - 1) / fs.perGroup
	if fs.groups > mostGroups {
		return refused("%s in %d groups", fs.name, fs.groups)
	}
	if fs.groups*fs.inodesPerGroup != fs.inodes {
		return damaged("%d inodes in %d groups of %d", fs.inodes, fs.groups, fs.inodesPerGroup)
	}
	return nil
}

// Name implements volume.FileSystem.
func (fs *fileSystem) Name() string { return fs.name }

// isBlock reports whether n blocks from b on are of the volume.
func (fs *fileSystem) isBlock(b, n int64) bool {
	return b >= fs.firstBlock && n > 0 && b < fs.blocks && n <= fs.blocks-b
}

func (fs *fileSystem) readBlock(p []byte, b int64) error {
	if !fs.isBlock(b, 1) {
		return damaged("block %d is none", b)
	}
	_, err := fs.r.ReadAt(p[:fs.block], b*fs.block)
	return err
}

// hasSuper reports whether a group begins with a copy of the superblock.
func (fs *fileSystem) hasSuper(group int64) bool {
	switch {
	case group == 0:
		return true
	case fs.sparse2 != [2]int64{}:
		return group == fs.sparse2[0] || group == fs.sparse2[1]
	case group == 1 || !fs.sparse:
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// group is a block group's descriptor.
type group struct {
	number                          int64
	blockBitmap, inodeBitmap, table int64
	flags                           uint16
	unusedInodes                    int64 // at the end of the table
	bitmapSum, inodeSum             uint32
}

// group reads a descriptor.
func (fs *fileSystem) group(n int64) (*group, error) {
	perBlock := fs.block / fs.descSize
	metaBlock := n / perBlock
	at := (fs.firstBlock+1)*fs.block + n*fs.descSize
	if fs.incompat&incompatMetaBG != 0 && metaBlock >= fs.metaGroup {
		first := metaBlock * perBlock // the meta group's first group, which begins with the descriptors
		b := fs.firstBlock + first*fs.perGroup
		if fs.hasSuper(first) {
			b++
		}
		at = b*fs.block + n%perBlock*fs.descSize
	}
	d := make([]byte, fs.descSize)
	if at > fs.blocks*fs.block-fs.descSize {
		return nil, damaged("group descriptor %d lies outside", n)
	}
	if _, err := fs.r.ReadAt(d, at); err != nil {
		return nil, err
	}
	g := &group{number: n, blockBitmap: int64(le.Uint32(d)), inodeBitmap: int64(le.Uint32(d[4:])), table: int64(le.Uint32(d[8:])),
		flags: le.Uint16(d[0x12:]), unusedInodes: int64(le.Uint16(d[0x1c:])), bitmapSum: uint32(le.Uint16(d[0x18:])), inodeSum: uint32(le.Uint16(d[0x1a:]))}
	if fs.incompat&incompat64Bit != 0 && fs.descSize >= 64 {
		g.blockBitmap |= int64(le.Uint32(d[0x20:])) << 32
		g.inodeBitmap |= int64(le.Uint32(d[0x24:])) << 32
		g.table |= int64(le.Uint32(d[0x28:])) << 32
		g.unusedInodes |= int64(le.Uint16(d[0x32:])) << 16
		g.bitmapSum |= uint32(le.Uint16(d[0x38:])) << 16
		g.inodeSum |= uint32(le.Uint16(d[0x3a:])) << 16
	}
	if fs.ro&roChecksums != 0 {
		var number [4]byte
		le.PutUint32(number[:], uint32(n))
		want := le.Uint16(d[0x1e:])
		le.PutUint16(d[0x1e:], 0)
		if uint16(crc(crc(fs.seed, number[:]), d)) != want {
			return nil, damaged("the checksum of group %d is wrong", n)
		}
	}
	tableBlocks := (fs.inodesPerGroup*fs.inodeSize + fs.block - 1) / fs.block
	if !fs.isBlock(g.blockBitmap, 1) || !fs.isBlock(g.inodeBitmap, 1) || !fs.isBlock(g.table, tableBlocks) {
		return nil, damaged("the tables of group %d lie outside", n)
	}
	if fs.ro&(roGroupChecksums|roChecksums) == 0 {
		g.flags, g.unusedInodes = 0, 0
	}
	if g.unusedInodes > fs.inodesPerGroup {
		return nil, damaged("group %d has %d unused inodes", n, g.unusedInodes)
	}
	return g, nil
}

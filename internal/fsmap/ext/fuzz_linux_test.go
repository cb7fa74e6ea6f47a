package ext

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/testenv"
)

// sum puts the checksums of groups and of the superblock right, as the volume
// without changes has them.
func (fs *fileSystem) sum(m *fstest.Mutant, at int64) {
	seed := crc(^uint32(0), m.Bytes(superOffset+0x68, 16))
	if fs.incompat&incompatChecksum != 0 {
		seed = le.Uint32(m.Bytes(superOffset+0x270, 4))
	}
	sums := func(d []byte, low, high int, sum uint32) {
		le.PutUint16(d[low:], uint16(sum))
		if fs.descSize >= 64 {
			le.PutUint16(d[high:], uint16(sum>>16))
		}
	}
	for n := range fs.groups {
		d := m.Bytes((fs.firstBlock+1)*fs.block+n*fs.descSize, fs.descSize)
		for _, b := range []struct {
			at, low, high int
			n             int64
		}{{0, 0x18, 0x38, fs.perGroup}, {4, 0x1a, 0x3a, fs.inodesPerGroup}} {
			if block := int64(le.Uint32(d[b.at:])); block < fs.blocks {
				sums(d, b.low, b.high, crc(seed, m.Bytes(block*fs.block, b.n/8)))
			}
		}
		clear(d[0x1e:0x20])
		le.PutUint16(d[0x1e:], uint16(crc(crc(seed, binary.LittleEndian.AppendUint32(nil, uint32(n))), d)))
	}
	sb := m.Bytes(superOffset, superSize)
	le.PutUint32(sb[0x3fc:], crc(^uint32(0), sb[:0x3fc]))
}

// FuzzOpen changes real volumes.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "mkfs.ext4")
	tree := filepath.Join(f.TempDir(), "tree")
	if err := os.MkdirAll(filepath.Join(tree, "folder"), 0o755); err != nil {
		f.Fatal(err)
	}
	for name, size := range map[string]int{"small": 100, "folder/middle": 5000, "large": 300_000} {
		if err := os.WriteFile(filepath.Join(tree, name), testenv.Random(1, size), 0o644); err != nil {
			f.Fatal(err)
		}
	}
	if err := os.Symlink("a name that is so long that it does not fit into the inode itself", filepath.Join(tree, "link")); err != nil {
		f.Fatal(err)
	}
	pieces, err := os.Create(filepath.Join(tree, "pieces"))
	if err != nil {
		f.Fatal(err)
	}
	for i := range int64(350) { // so many that its extents need a tree of two levels
		if _, err := pieces.WriteAt(testenv.Random(byte(i), 1000), i*8192); err != nil {
			f.Fatal(err)
		}
	}
	if err := pieces.Close(); err != nil {
		f.Fatal(err)
	}
	var mutants []*fstest.Mutant
	for _, options := range [][]string{
		{"-t", "ext2"},
		{"-O", "^metadata_csum,uninit_bg"},
		{"-t", "ext4", "-g", "1024"},
		{"-t", "ext3", "-O", "meta_bg,^resize_inode", "-g", "256"},
	} {
		b, err := os.ReadFile(fstest.Make(f, 3<<20, append([]string{"mkfs.ext4", "-q", "-F", "-b", "1024", "-N", "32", "-J", "size=1", "-d", tree}, options...)...))
		if err != nil {
			f.Fatal(err)
		}
		var sum func(*fstest.Mutant, int64)
		if v, err := Open(fstest.Reader(b), int64(len(b))); err == nil && v.(*fileSystem).ro&roChecksums != 0 {
			sum = v.(*fileSystem).sum
		}
		mutants = append(mutants, fstest.MutantOf(f, b, Open, le, sum))
	}
	fstest.AddSeeds(f, len(mutants))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		fstest.Fuzz(t, mutants, which, changes, Open)
	})
}

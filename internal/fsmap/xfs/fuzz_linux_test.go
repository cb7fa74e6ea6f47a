package xfs

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/testenv"
)

// sums is where checksums are, by what a structure begins with.
var sums = map[string]int64{
	"XFSB": superSum, "XAGF": freeHeaderSum, "XAGI": inodeHeaderSum, "XAFL": listSum,
	"AB3B": treeSum, "AB3C": treeSum, "IAB3": treeSum, "FIB3": treeSum, "RMB3": treeSum, "R3FC": treeSum, "BMA3": mapSum,
}

// sum puts the checksum right of what is at a place of a volume of version 5.
func (fs *fileSystem) sum(m *fstest.Mutant, at int64) {
	for _, size := range []int64{fs.inode, fs.sector, fs.block} {
		from := at &^ (size - 1)
		where, ok := sums[string(m.Bytes(from, 4))]
		if size == fs.inode && !ok {
			where, ok = inodeSum, string(m.Bytes(from, 2)) == "IN"
		}
		if ok {
			p := m.Bytes(from, size)
			clear(p[where : where+4])
			binary.LittleEndian.PutUint32(p[where:], crc32.Checksum(p, castagnoli))
		}
	}
}

// cutLog leaves out what was never written of the log, which takes long to read.
func cutLog(t testing.TB, b []byte) {
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	fs := v.(*fileSystem)
	log := b[fs.logStart*fs.block:][:fs.logBlocks*fs.block]
	n := int64(len(bytes.TrimRight(log, "\x00")))/fs.block + 2
	be.PutUint32(b[96:], uint32(min(n, fs.logBlocks)))
	if fs.v5 {
		clear(b[superSum : superSum+4])
		binary.LittleEndian.PutUint32(b[superSum:], crc32.Checksum(b[:fs.sector], castagnoli))
	}
}

// fill makes files of all kinds: in pieces, shared, with attributes.
func fill(t testing.TB, dir string, reflink bool) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	path := func(name string) string { return filepath.Join(dir, name) }
	must(os.Mkdir(path("folder"), 0o755))
	for i := range 150 { // so many that the folder has blocks, and inodes several chunks
		must(os.WriteFile(path(fmt.Sprintf("folder/a name that is not short %d", i)), testenv.Random(byte(i), i*20), 0o644))
	}
	must(os.WriteFile(path("file"), testenv.Random(1, 60_000), 0o644))
	must(syscall.Setxattr(path("file"), "user.large", testenv.Random(2, 9000), 0))
	must(os.Symlink(strings.Repeat("long/", 150), path("link")))
	f, err := os.Create(path("pieces"))
	must(err)
	for i := range int64(300) {
		_, err := f.WriteAt(testenv.Random(byte(i), 1000), i*8192)
		must(err)
	}
	must(syscall.Fallocate(int(f.Fd()), 0, 3<<20, 1<<20))
	must(f.Close())
	if reflink {
		fstest.Run(t, "cp", "--reflink=always", path("file"), path("copy"))
	}
}

// FuzzOpen changes real volumes, and puts their checksums right.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "mkfs.xfs")
	testenv.NeedRoot(f)
	// Volumes this small are for tests alone, and mkfs.xfs asks for that.
	for _, v := range []string{"TEST_DIR", "TEST_DEV", "QA_CHECK_FS"} {
		f.Setenv(v, "x")
	}
	dir := f.TempDir()
	content, proto := filepath.Join(dir, "content"), filepath.Join(dir, "proto")
	if err := os.WriteFile(content, testenv.Random(1, 60_000), 0o644); err != nil {
		f.Fatal(err)
	}
	if err := os.WriteFile(proto, fmt.Appendf(nil, "/dev/null\n0 0\nd--755 0 0\nfile ---644 0 0 %[1]s\nother ---644 0 0 %[1]s\n$\n", content), 0o644); err != nil {
		f.Fatal(err)
	}
	var mutants []*fstest.Mutant
	for _, options := range [][]string{
		{"-m", "crc=0", "-b", "size=1024", "-p", proto}, // not every Linux mounts these any more
		{"-b", "size=1024", "-d", "agcount=2", "-m", "reflink=1"},
		{"-b", "size=4096", "-d", "agcount=2", "-m", "rmapbt=1,reflink=1"},
	} {
		image := fstest.Make(f, 32<<20, append([]string{"mkfs.xfs", "-q", "-f"}, options...)...)
		if options[1] != "crc=0" {
			fstest.Mounted(f, image, func(dir string) { fill(f, dir, true) })
		}
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		cutLog(f, b)
		v, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		var sum func(*fstest.Mutant, int64)
		if fs := v.(*fileSystem); fs.v5 {
			sum = fs.sum
		}
		mutants = append(mutants, fstest.MutantOf(f, b, Open, be, sum))
	}
	fstest.AddSeeds(f, len(mutants))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) { fstest.Fuzz(t, mutants, which, changes, Open) })
}

package xfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// sum puts the checksum right of what is at a place of a volume of version 5.
func (fs *fileSystem) sum(m *fstest.Mutant, at int64) {
	for _, s := range []struct {
		size  int64
		magic string
		sum   int64
	}{
		{fs.sector, "XFSB", superSum}, {fs.sector, "XAGF", freeHeaderSum}, {fs.sector, "XAGI", inodeHeaderSum}, {fs.sector, "XAFL", listSum},
		{fs.inode, "IN", inodeSum}, {fs.block, "BMA3", mapSum}, {fs.block, "AB3B", treeSum}, {fs.block, "AB3C", treeSum},
		{fs.block, "IAB3", treeSum}, {fs.block, "FIB3", treeSum}, {fs.block, "RMB3", treeSum}, {fs.block, "R3FC", treeSum},
	} {
		from := at &^ (s.size - 1)
		if string(m.Bytes(from, int64(len(s.magic)))) == s.magic {
			p := m.Bytes(from, s.size)
			clear(p[s.sum : s.sum+4])
			binary.LittleEndian.PutUint32(p[s.sum:], crc32.Checksum(p, castagnoli))
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
	for i := range int64(1500) { // a tree of several levels
		_, err := f.WriteAt(testenv.Random(byte(i), 1000), i*8192)
		must(err)
	}
	must(syscall.Fallocate(int(f.Fd()), 0, 13<<20, 1<<20))
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

// TestContradictions has each of a group's trees in a block that is free.
func TestContradictions(t *testing.T) {
	image := makeImage(t, "-m", "rmapbt=1,reflink=1,finobt=1")
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	open := func() (*fileSystem, error) {
		v, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		return v.(*fileSystem), v.Free(t.Context(), func(volume.Extent) error { return nil })
	}
	fs, err := open()
	if err != nil {
		t.Fatal(err)
	}
	free := int64(0) // a block of the first group
	if err := fs.Free(t.Context(), func(e volume.Extent) error {
		if end := e.End() / fs.block; end <= fs.perGroup {
			free = end - 1
		}
		return nil
	}); err != nil || free == 0 {
		t.Fatalf("no free block, %v", err)
	}
	for name, at := range map[string]int64{
		"free space": freeHeader<<16 | 16, "sizes": freeHeader<<16 | 20, "owners": freeHeader<<16 | 24, "references": freeHeader<<16 | 88,
		"inodes": inodeHeader<<16 | 20, "free inodes": inodeHeader<<16 | 328,
	} {
		m := fstest.NewMutant(b, nil, be, nil)
		header := at >> 16 * fs.sector
		root := m.Bytes(header+at&0xffff, 4)
		p := m.Bytes(free*fs.block, fs.block)
		copy(p, b[int64(be.Uint32(root))*fs.block:][:fs.block])
		be.PutUint64(p[16:], uint64(free*fs.block/512))
		be.PutUint32(root, uint32(free))
		fs.sum(m, free*fs.block)
		fs.sum(m, header)
		if _, err := open(); !errors.Is(err, volume.ErrDamaged) || !strings.Contains(err.Error(), "free and in use") {
			t.Errorf("%s: error %v", name, err)
		}
		m.Restore()
	}
}

package btrfs

import (
	"bytes"
	"hash/crc32"
	"os"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/testenv"
)

// sum puts the checksum of the block at a place right: hostile ones have them
// right.
func (fs *fileSystem) sum(m *fstest.Mutant, at int64) {
	size := fs.node
	if at < superOffset+superSize {
		size = superSize
	}
	p := m.Bytes(at&^(size-1), size)
	le.PutUint32(p, crc32.Checksum(p[32:], castagnoli))
}

// FuzzOpen changes real volumes, and puts their checksums right.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "mkfs.btrfs", "btrfs")
	testenv.NeedRoot(f)
	var mutants []*fstest.Mutant
	for _, options := range [][]string{
		{"--mixed", "-m", "single", "-d", "single", "-n", "4096"},
		{"-m", "dup", "-d", "single", "-n", "4096"},
	} {
		image := fstest.Make(f, 128<<20, append([]string{"mkfs.btrfs", "-q"}, options...)...)
		fstest.Mounted(f, image, func(dir string) {
			in := func(name string) string { return filepath.Join(dir, name) }
			fstest.Run(f, "btrfs", "subvolume", "create", in("a"))
			for name, n := range map[string]int{"a/small": 100, "a/middle": 5000, "a/large": 300_000, "file": 60_000} {
				if err := os.WriteFile(in(name), testenv.Random(1, n), 0o644); err != nil {
					f.Fatal(err)
				}
			}
			pieces, err := os.Create(in("a/pieces"))
			if err != nil {
				f.Fatal(err)
			}
			for i := range int64(100) { // so many that the tree has more levels
				if _, err := pieces.WriteAt(testenv.Random(byte(i), 4096), i*16384); err != nil {
					f.Fatal(err)
				}
			}
			if err := pieces.Close(); err != nil {
				f.Fatal(err)
			}
			fstest.Run(f, "btrfs", "subvolume", "snapshot", in("a"), in("b"))
			fstest.Run(f, "cp", "--reflink=always", in("a/large"), in("b/copy"))
			fstest.Run(f, "btrfs", "property", "set", in("file"), "compression", "zstd")
			if err := os.WriteFile(in("text"), testenv.Text(1, 200_000), 0o644); err != nil {
				f.Fatal(err)
			}
			fstest.Run(f, "btrfs", "filesystem", "defragment", "-czstd", in("text"))
		})
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		v, err := Open(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		mutants = append(mutants, fstest.MutantOf(f, b, Open, le, v.(*fileSystem).sum))
	}
	fstest.AddSeeds(f, len(mutants))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) { fstest.Fuzz(t, mutants, which, changes, Open) })
}

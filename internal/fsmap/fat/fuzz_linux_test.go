package fat

import (
	"os"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/testenv"
)

// sum puts the checksums right that exFAT has: of its boot sectors, and of the
// entries of the file at a place.
func (fs *fileSystem) sum(m *fstest.Mutant, at int64) {
	if boot := (bootSectors - 1) * fs.sector; at < boot {
		sum := uint32(0)
		for i, c := range m.Bytes(0, boot) {
			if i != 106 && i != 107 && i != 112 {
				sum = sum>>1 | sum<<31
				sum += uint32(c)
			}
		}
		for p := m.Bytes(boot, fs.sector); len(p) > 0; p = p[4:] {
			le.PutUint32(p, sum)
		}
		return
	}
	for e := at / entrySize * entrySize; e >= fs.data && e > at-20*entrySize; e -= entrySize {
		p := m.Bytes(e, entrySize)
		n := (int64(p[1]) + 1) * entrySize
		if p[0] != typeFile || n > 20*entrySize {
			continue
		}
		sum := uint16(0)
		for i, c := range m.Bytes(e, n) {
			if i != 2 && i != 3 {
				sum = sum>>1 | sum<<15
				sum += uint16(c)
			}
		}
		le.PutUint16(p[2:], sum)
		return
	}
}

// FuzzOpen changes real volumes, and puts their checksums right.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "mkfs.fat", "mkfs.exfat", "mcopy")
	tree := f.TempDir()
	fill(f, tree, 8)
	if err := os.WriteFile(filepath.Join(tree, "hiberfil.sys"), testenv.Random(9, 9000), 0o644); err != nil {
		f.Fatal(err)
	}
	var mutants []*fstest.Mutant
	for _, c := range []struct {
		size int64
		mkfs []string
	}{
		{1 << 20, []string{"mkfs.fat", "-F", "12", "-s", "1"}},
		{1 << 20, []string{"mkfs.fat", "-F", "12", "-s", "1", "-f", "1"}},
		{5 << 20, []string{"mkfs.fat", "-F", "16", "-s", "1", "-f", "1"}},
		{34 << 20, []string{"mkfs.fat", "-F", "32", "-s", "1", "-f", "1"}},
		{2 << 20, []string{"mkfs.exfat", "-c", "4096", "-b", "4096"}},
	} {
		image := fstest.Make(f, c.size, c.mkfs...)
		if c.mkfs[0] == "mkfs.fat" {
			f.Setenv("MTOOLS_SKIP_CHECK", "1")
			for _, name := range []string{"folder 0", "folder 1", "LARGE.BIN", "hiberfil.sys"} {
				fstest.Run(f, "mcopy", "-s", "-i", image, filepath.Join(tree, name), "::")
			}
			fstest.Run(f, "mdeltree", "-i", image, "::folder 0") // what comes next lies in pieces
			fstest.Run(f, "mcopy", "-s", "-i", image, filepath.Join(tree, "folder 2"), filepath.Join(tree, "folder 3"), "::")
		} else {
			mountedExFAT(f, image, func(mnt string) {
				fstest.Run(f, "cp", "-r", tree+"/.", mnt)
				fstest.Run(f, "rm", "-r", filepath.Join(mnt, "folder 0"))
				fstest.Run(f, "cp", filepath.Join(tree, "LARGE.BIN"), filepath.Join(mnt, "another"))
			})
		}
		b, err := os.ReadFile(image)
		if err != nil {
			f.Fatal(err)
		}
		v, err := Open(fstest.Reader(b), int64(len(b)))
		if err != nil {
			f.Fatal(err)
		}
		var sum func(*fstest.Mutant, int64)
		if fs := v.(*fileSystem); fs.name == "exFAT" {
			sum = fs.sum
		}
		mutants = append(mutants, fstest.MutantOf(f, b, Open, le, sum))
	}
	fstest.AddSeeds(f, len(mutants))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) { fstest.Fuzz(t, mutants, which, changes, Open) })
}

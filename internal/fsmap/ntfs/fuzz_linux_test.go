package ntfs

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// tiny returns real volumes of 3 MiB.
func tiny(f *testing.F) (images [][]byte) {
	for _, args := range [][]string{{"-c", "512"}, {"-c", "4096", "-s", "4096"}} {
		s := mkntfs(f, 3<<20, append(args, "-z", "1")...)
		s.mounted(f, "", func(dir string) {
			c := newContents()
			compressedDir(f, filepath.Join(dir, "packed"))
			c.write(f, dir, "packed/text", testenv.Text(1, 70_000))
			c.write(f, dir, "a/b/small", testenv.Random(2, 100))
			c.write(f, dir, "a/middle", testenv.Random(3, 30_000))
			c.write(f, dir, "a/middle:stream", testenv.Random(4, 5_000))
			c.write(f, dir, "pagefile.sys", testenv.Random(5, 9_000))
			c.write(f, dir, "hiberfil.sys", make([]byte, 9_000))
			// So many pieces that they are in several records.
			pieces, err := os.Create(filepath.Join(dir, "pieces"))
			if err != nil {
				f.Fatal(err)
			}
			for i := range int64(150) {
				if _, err := pieces.WriteAt(testenv.Random(byte(i), 512), i<<16); err != nil {
					f.Fatal(err)
				}
			}
			if err := pieces.Close(); err != nil {
				f.Fatal(err)
			}
			// So many names that they need an attribute list.
			for i := range 12 {
				if err := os.Link(filepath.Join(dir, "a/middle"), filepath.Join(dir, fmt.Sprintf("a/another name of it %d", i))); err != nil {
					f.Fatal(err)
				}
			}
		})
		// A log as Windows leaves it.
		v, _ := s.open(f)
		in, err := v.inode(recordLogFile)
		if err != nil {
			f.Fatal(err)
		}
		s.patch(f, in.find(typeData, "").runs[0].cluster*v.geometry.cluster, 8192, func(p []byte) {
			copy(p, restartPage(1, 7, noClient, logClean))
			copy(p[4096:], restartPage(1, 6, 0, 0))
		})
		b, err := os.ReadFile(s.image)
		if err != nil {
			f.Fatal(err)
		}
		if v, err := Open(bytes.NewReader(b), int64(len(b))); err != nil || len(files(f, v.(*fileSystem))) < 5 {
			f.Fatalf("a seed cannot be read: %v", err)
		}
		images = append(images, b)
	}
	return images
}

// FuzzOpen changes real volumes: whatever they then say, all extents lie inside,
// what is free ascends and is no file's, and there is an end to it.
func FuzzOpen(f *testing.F) {
	var mutants []*fstest.Mutant
	for _, b := range tiny(f) {
		mutants = append(mutants, fstest.MutantOf(f, b, Open, le, nil))
	}
	fstest.AddSeeds(f, len(mutants))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		fstest.Fuzz(t, mutants, which, changes, func(r io.ReaderAt, size int64) (volume.FileSystem, error) {
			v, err := Open(r, size)
			if err == nil {
				checkVolume(t, v.(*fileSystem), size)
			}
			return v, err
		})
	})
}

// checkVolume asks for everything, and checks what holds for every volume.
func checkVolume(t *testing.T, v *fileSystem, size int64) {
	inside := func(e volume.Extent) {
		if e.Offset < 0 || e.Length <= 0 || e.Length > size || e.Offset > size-e.Length {
			t.Fatalf("%v lies outside", e)
		}
	}
	var gap []volume.Extent
	last := int64(-1)
	err := v.Free(t.Context(), func(e volume.Extent) error {
		inside(e)
		if e.Offset <= last {
			t.Fatalf("%v comes after %d", e, last)
		}
		last = e.End()
		gap = append(gap, e)
		return nil
	})
	if err != nil {
		t.Fatalf("free space of a volume that was found whole: %v", err)
	}
	total := int64(0)
	err = v.Files(t.Context(), func(f *volume.File) error {
		checkFile(t, f, size, gap)
		for _, e := range f.Extents {
			inside(e)
			total += e.Length
		}
		return nil
	})
	if err != nil {
		t.Fatalf("files of a volume that was found whole: %v", err)
	}
	if total > size {
		t.Fatalf("files of %d bytes in %d", total, size)
	}
	err = v.Names(t.Context(), func(id uint64, path string) error {
		if id < firstUser || path == "" || len(path) > mostPath {
			t.Fatalf("file %d is called %q", id, path)
		}
		return nil
	})
	if err != nil {
		t.Fatalf("names of a volume that was found whole: %v", err)
	}
}

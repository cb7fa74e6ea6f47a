package ntfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// patch changes size bytes of the volume at off.
func (s system) patch(t testing.TB, off int64, size int, change func(p []byte)) {
	t.Helper()
	f, err := os.OpenFile(s.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, size)
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	change(p)
	if _, err := f.WriteAt(p, off); err != nil {
		t.Fatal(err)
	}
}

// protect is the opposite of fixUp.
func protect(p []byte) {
	at := int(le.Uint16(p[4:]))
	for i := 1; i < int(le.Uint16(p[6:])); i++ {
		copy(p[at+2*i:], p[i*stride-2:i*stride])
		copy(p[i*stride-2:], p[at:at+2])
	}
}

// patchRecord changes a record of a file table that is in one piece.
func (s system) patchRecord(t testing.TB, g geometry, number int64, change func(p []byte)) {
	t.Helper()
	s.patch(t, g.mft*g.cluster+number*g.record, int(g.record), func(p []byte) {
		if err := fixUp(p); err != nil {
			t.Fatal(err)
		}
		change(p)
		protect(p)
	})
}

// tryOpen opens the volume; it may fail.
func (s system) tryOpen(t testing.TB) (volume.FileSystem, error) {
	t.Helper()
	f, err := os.Open(s.image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return Open(f, info.Size())
}

func (s system) wantError(t testing.TB, want error, words string) {
	t.Helper()
	_, err := s.tryOpen(t)
	if !errors.Is(err, want) || !strings.Contains(fmt.Sprint(err), words) || strings.Contains(fmt.Sprint(err), "\n") {
		t.Errorf("the error is %v, should be %v, %q", err, want, words)
	}
}

// TestKinds has files whose names in the root directory say what they are for.
func TestKinds(t *testing.T) {
	s := mkntfs(t, 8<<20, "-c", "4096")
	wrote := newContents()
	s.mounted(t, "", func(dir string) {
		for i, path := range []string{"PageFile.sys", "swapfile.sys", "sub/pagefile.sys", "sub/hiberfil.sys", "pagefile.sys.txt"} {
			wrote.write(t, dir, path, testenv.Random(byte(i), 20_000))
		}
		wrote.write(t, dir, "hiberfil.sys", append(make([]byte, 8192), testenv.Random(9, 20_000)...))
		wrote.write(t, dir, "swapfile.sys:note", testenv.Random(8, 3000))
	})
	list := compare(t, s, wrote, 10)
	v, _ := s.open(t)
	path := map[uint64]string{}
	for p, id := range names(t, v) {
		path[id] = p
	}
	want := map[string]volume.Kind{"PageFile.sys": volume.PageFile, "swapfile.sys": volume.PageFile, "hiberfil.sys": volume.Hibernation}
	for _, f := range list {
		kind := want[path[f.ID]]
		if f.Stream != "" {
			kind = volume.Ordinary
		}
		if f.Kind != kind {
			t.Errorf("%s:%s is of kind %d, should be %d", path[f.ID], f.Stream, f.Kind, kind)
		}
	}
}

// TestCompressed has compressed files: units that are stored as they are, that
// are smaller, and that are nothing.
func TestCompressed(t *testing.T) {
	for _, cluster := range []int{512, 4096} {
		t.Run(fmt.Sprint(cluster), func(t *testing.T) {
			s := mkntfs(t, 16<<20, "-c", fmt.Sprint(cluster))
			wrote := newContents()
			s.mounted(t, "", func(dir string) {
				compressedDir(t, filepath.Join(dir, "packed"))
				text, random := testenv.Text(1, 300_001), testenv.Random(2, 200_000)
				for path, data := range map[string][]byte{
					"packed/text": text, "packed/random": random,
					"packed/mixed": bytes.Join([][]byte{text[:100_000], make([]byte, 150_000), random, text[:77]}, nil),
				} {
					wrote.write(t, dir, path, data)
					wrote.compressed[path] = true
				}
			})
			list := compare(t, s, wrote, 10)
			v, image := s.open(t)
			ids := names(t, v)
			for _, f := range list {
				stored := read(t, image, f.Extents)
				switch f.ID {
				case ids["packed/text"], ids["packed/mixed"]:
					if int64(len(stored)) >= f.Size || len(stored)%cluster != 0 {
						t.Errorf("%d bytes of %d are stored", len(stored), f.Size)
					}
				case ids["packed/random"]:
					// Whole units are as they are.
					if !bytes.HasPrefix(stored, testenv.Random(2, 16*cluster)) {
						t.Error("what cannot be compressed is not stored as it is")
					}
				}
			}
			if len(list) != 3 {
				t.Errorf("%d files, should be 3", len(list))
			}
		})
	}
}

// TestUnwritten has room that was given to files and never written to.
func TestUnwritten(t *testing.T) {
	s := mkntfs(t, 16<<20, "-c", "4096")
	wrote := newContents()
	s.mounted(t, "", func(dir string) {
		wrote.write(t, dir, "longer", testenv.Random(1, 10_000))
		wrote.write(t, dir, "same", testenv.Random(2, 10_000))
		wrote.write(t, dir, "none", testenv.Random(3, 3000))
	})
	command(t, "ntfsfallocate", "-f", "-l", "1000000", s.image, "longer")
	command(t, "ntfsfallocate", "-f", "-n", "-l", "1000000", s.image, "same")
	wrote.plain["longer"] = append(wrote.plain["longer"], make([]byte, 990_000)...)
	list := compare(t, s, wrote, 0)
	v, _ := s.open(t)
	ids := names(t, v)
	for _, f := range list {
		stored, room := int64(0), int64(0)
		for _, e := range f.Extents {
			stored += e.Length
		}
		for _, r := range s.dataRuns(t, f.ID)[0] {
			room += r.length * 4096
		}
		if (f.ID == ids["longer"] || f.ID == ids["same"]) && (stored != 10_000 || room < 1_000_000) {
			t.Errorf("file %d has %d bytes in %d, should have 10000", f.ID, stored, room)
		}
	}
}

// TestShortNames has files with a long and a short name.
func TestShortNames(t *testing.T) {
	s := mkntfs(t, 8<<20, "-c", "4096")
	wrote := newContents()
	s.mounted(t, "", func(dir string) {
		wrote.write(t, dir, "A long folder/A long name.text", testenv.Random(1, 5000))
		wrote.write(t, dir, "A long folder/other", testenv.Random(1, 5000))
		shortName(t, filepath.Join(dir, "A long folder"), "ALONG~1")
		shortName(t, filepath.Join(dir, "A long folder/A long name.text"), "ANAME~1.TEX")
	})
	compare(t, s, wrote, 10)
}

// TestLastSector has a volume whose last sector, the copy of the first, lies in
// a cluster that the bitmap calls free.
func TestLastSector(t *testing.T) {
	const size = 8 << 20
	s := mkntfs(t, size+512, "-c", "4096")
	v, _ := s.open(t)
	before := free(t, v)
	if last := before[len(before)-1]; last.End() != size {
		t.Fatalf("the last free range is %v, should end at %d", last, size)
	}
	if err := os.Truncate(s.image, size); err != nil {
		t.Fatal(err)
	}
	v, _ = s.open(t)
	after := free(t, v)
	if last := after[len(after)-1]; last.End() != size-512 {
		t.Errorf("the last free range is %v, should end at %d", last, size-512)
	}
}

// TestBadClusters has a cluster that belongs to $BadClus.
func TestBadClusters(t *testing.T) {
	s := mkntfs(t, 16<<20, "-c", "4096")
	v, _ := s.open(t)
	gap := free(t, v)
	bad := gap[len(gap)-1].Offset/4096 + 7
	s.patchRecord(t, v.geometry, 8, func(p []byte) {
		at, end := int(le.Uint16(p[0x14:])), 0
		for le.Uint32(p[at:]) != typeEnd {
			end = at
			at += int(le.Uint32(p[at+4:]))
		}
		if le.Uint32(p[end:]) != typeData || p[end+8] != 1 || v.geometry.clusters > 0x7FFF {
			t.Fatal("$Bad is not the last attribute of record 8")
		}
		pairs := int(le.Uint16(p[end+0x20:]))
		rest := v.geometry.clusters - bad - 1
		n := copy(p[end+pairs:], []byte{
			0x02, byte(bad), byte(bad >> 8),
			0x21, 1, byte(bad), byte(bad >> 8),
			0x02, byte(rest), byte(rest >> 8), 0,
		})
		length := (pairs + n + 7) / 8 * 8
		le.PutUint32(p[end+4:], uint32(length))
		le.PutUint32(p[end+length:], typeEnd)
		le.PutUint32(p[0x18:], uint32(end+length+8))
	})
	if got := fmt.Sprint(command(t, "ntfscluster", "-f", "-c", fmt.Sprint(bad), s.image)); len(got) == 0 {
		t.Error("ntfscluster does not know the bad cluster")
	}
	s.wantError(t, volume.ErrDamaged, fmt.Sprintf("cluster %d is in use, and free in the bitmap", bad))

	at := v.bitmap.runs[0].cluster*4096 + bad/8
	s.patch(t, at, 1, func(p []byte) { p[0] |= 1 << (bad % 8) })
	v, _ = s.open(t)
	if got := files(t, v); len(got) > 0 {
		t.Errorf("bad clusters are files: %v", got)
	}
	for _, e := range free(t, v) {
		if e.Offset <= bad*4096 && bad*4096 < e.End() {
			t.Errorf("%v is free, and has the bad cluster %d", e, bad)
		}
	}
}

package ntfs

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// holed fills a volume with files of size bytes and takes the content of every
// second one away, in the order in which they lie, so that no larger piece is
// free.
func holed(t *testing.T, s system, c *contents, size int) {
	t.Helper()
	s.mounted(t, "", func(dir string) {
		if err := os.Mkdir(filepath.Join(dir, "fill"), 0o755); err != nil {
			t.Fatal(err)
		}
		// The last ones are for what is left of pieces that were too small.
		for i, failed := 0, 0; failed < 2; i++ {
			data := testenv.Random(byte(i), size)
			path := fmt.Sprintf("fill/%05d", i)
			if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
				os.Remove(filepath.Join(dir, path))
				size = 900
				failed++
				continue
			}
			c.plain[path] = data
		}
	})
	v, _ := s.open(t)
	list := files(t, v)
	slices.SortFunc(list, func(a, b *volume.File) int { return cmp.Compare(a.Extents[0].Offset, b.Extents[0].Offset) })
	second := map[uint64]bool{}
	for i, f := range list {
		second[f.ID] = i%2 == 0 && len(f.Extents) == 1
	}
	s.mounted(t, "", func(dir string) {
		for path, id := range names(t, v) {
			if !second[id] {
				continue
			}
			if err := os.Truncate(filepath.Join(dir, path), 0); err != nil {
				t.Fatal(err)
			}
			c.plain[path] = nil
		}
	})
}

func TestFragmentedFiles(t *testing.T) {
	testenv.NeedTime(t)
	for _, c := range []struct {
		cluster int
		size    int64
	}{{512, 32 << 20}, {4096, 96 << 20}} {
		t.Run(fmt.Sprint(c.cluster), func(t *testing.T) {
			s := mkntfs(t, c.size, "-c", fmt.Sprint(c.cluster))
			wrote := newContents()
			holed(t, s, wrote, 2*c.cluster)
			s.mounted(t, "", func(dir string) {
				// Two files that grow in turn, one of them with a stream.
				open := map[string]*os.File{}
				for _, path := range []string{"big", "other", "other:stream"} {
					f, err := os.Create(filepath.Join(dir, path))
					if err != nil {
						t.Fatal(err)
					}
					open[path] = f
				}
				for i := range 1100 {
					for path, f := range open {
						p := testenv.Random(byte(i), 3*c.cluster)
						if _, err := f.Write(p); err != nil {
							t.Fatal(err)
						}
						wrote.plain[path] = append(wrote.plain[path], p...)
					}
				}
				for _, f := range open {
					f.Close()
				}
			})
			list := compare(t, s, wrote, 20)
			v, _ := s.open(t)
			id := names(t, v)["big"]
			compareAll(t, s, list, id, names(t, v)["other"])
			for _, f := range list {
				if f.ID != id {
					continue
				}
				// A run takes three bytes or more, and these are of one attribute.
				records := s.dataRecords(t, id)
				t.Logf("it is in %d pieces, %d bytes of runs at least, in %d records", len(f.Extents), 3*len(f.Extents), len(records))
				if 3*len(f.Extents) < 4096 || len(records) < 4 {
					t.Errorf("only %d pieces in %d records", len(f.Extents), len(records))
				}
			}
		})
	}
}

// compareAll compares the run lists of those files.
func compareAll(t *testing.T, s system, list []*volume.File, ids ...uint64) {
	t.Helper()
	cluster, _ := s.geometry(t)
	for _, id := range ids {
		var of []*volume.File
		for _, f := range list {
			if f.ID == id {
				of = append(of, f)
			}
		}
		compareRuns(t, s, id, of, cluster)
	}
}

// TestFragmentedTable makes the file table grow where no two records fit, until
// it needs an attribute list of its own.
func TestFragmentedTable(t *testing.T) {
	testenv.NeedTime(t)
	s := mkntfs(t, 16<<20, "-c", "512")
	wrote := newContents()
	holed(t, s, wrote, 1024)
	s.mounted(t, "", func(dir string) {
		// Up to where ntfs-3g finds no more room for the table.
		for i := 0; ; i++ {
			path := fmt.Sprintf("new%d", i)
			data := testenv.Text(byte(i), 300)
			if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
				os.Remove(filepath.Join(dir, path))
				break
			}
			wrote.plain[path] = data
		}
	})
	compare(t, s, wrote, 20)
	v, _ := s.open(t)
	records := s.dataRecords(t, recordMFT)
	t.Logf("the file table is in %d pieces, described in %d records", len(v.mft.runs), len(records))
	if len(v.mft.runs) < 100 || len(records) < 2 {
		t.Errorf("the file table is in %d pieces, described in %d records", len(v.mft.runs), len(records))
	}
	// Its own run list is what ntfscluster sees.
	var got []mapped
	for _, r := range v.mft.runs {
		got = append(got, mapped{r.virtual, r.cluster, r.length})
	}
	if want := s.dataRuns(t, recordMFT); len(want) != 1 || fmt.Sprint(got) != fmt.Sprint(want[0]) {
		t.Errorf("the file table is at %v, should be %v", got, want)
	}
}

// TestManyFiles has a file table of many records, of which some are free again.
func TestManyFiles(t *testing.T) {
	testenv.NeedTime(t)
	s := mkntfs(t, 96<<20, "-c", "4096")
	wrote := newContents()
	s.mounted(t, "", func(dir string) {
		for i := range 8000 {
			path := fmt.Sprintf("d%d/e%d/f%d", i%13, i%101, i)
			wrote.write(t, dir, path, testenv.Random(byte(i), 100+i%5000))
			if i%7 == 3 {
				old := fmt.Sprintf("d%d/e%d/f%d", (i-3)%13, (i-3)%101, i-3)
				if err := os.Remove(filepath.Join(dir, old)); err != nil {
					t.Fatal(err)
				}
				delete(wrote.plain, old)
			}
		}
	})
	compare(t, s, wrote, 50)
}

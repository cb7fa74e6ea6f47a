package ntfs

import (
	"bytes"
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
	s := mkntfs(t, 64<<20, "-c", "512")
	wrote := newContents()
	holed(t, s, wrote, 1024)
	s.mounted(t, "", func(dir string) {
		// Up to where ntfs-3g finds no more room for the table.
		for i := 0; ; i++ {
			path := fmt.Sprintf("new%d", i)
			data := testenv.Text(byte(i), 300)
			if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
				if os.Remove(filepath.Join(dir, path)) != nil {
					wrote.plain[path] = nil
				}
				break
			}
			wrote.plain[path] = data
		}
	})
	compare(t, s, wrote, 20)
	v, _ := s.open(t)
	records := s.dataRecords(t, recordMFT)
	t.Logf("the file table is in %d pieces, described in records %v", len(v.mft.runs), records)
	if len(v.mft.runs) < 100 || len(records) < 2 {
		t.Errorf("the file table is in %d pieces, described in %d records", len(v.mft.runs), len(records))
	}
	// Its own run list is what ntfscluster sees.
	var got []mapped
	for _, r := range v.mft.runs {
		got = append(got, mapped(r))
	}
	if want := s.dataRuns(t, recordMFT); len(want) != 1 || fmt.Sprint(got) != fmt.Sprint(want[0]) {
		t.Errorf("the file table is at %v, should be %v", got, want)
	}

	all := files(t, v)
	moveTablePart(t, s, v)
	moved, _ := s.open(t)
	if !slices.Equal(moved.mft.runs, v.mft.runs) {
		t.Errorf("with a record moved, the file table is at %v, should be %v", moved.mft.runs, v.mft.runs)
	}
	if got := files(t, moved); len(got) != len(all) {
		t.Errorf("with a record moved, there are %d files, should be %d", len(got), len(all))
	}
}

// moveTablePart moves the record that describes the last part of the file table
// into a part that another such record describes, as Windows may have it:
// ntfs-3g keeps all of them at the start. What was in the record it moves to is
// lost.
func moveTablePart(t *testing.T, s system, v *fileSystem) {
	t.Helper()
	f, err := os.OpenFile(s.image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	base := make([]byte, v.geometry.record)
	h, err := v.readRecord(recordMFT, base)
	if err != nil {
		t.Fatal(err)
	}
	var list attribute
	if err := h.eachAttribute(func(p []byte) error {
		if le.Uint32(p) == typeList {
			list, err = parseAttribute(p, v.geometry.clusters, nil)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	content := make([]byte, list.size)
	if err := v.content(&list, content, 0); err != nil {
		t.Fatal(err)
	}
	entries, err := parseList(content)
	if err != nil {
		t.Fatal(err)
	}
	entries = slices.DeleteFunc(entries, func(e listed) bool { return e.kind != typeData })
	last := entries[len(entries)-1]
	// Any in the second part.
	to := entries[1].first*v.geometry.cluster/v.geometry.record + 1
	at := func(number int64) int64 {
		for _, r := range v.mft.runs {
			if skip := number*v.geometry.record - r.virtual*v.geometry.cluster; skip >= 0 && skip < r.length*v.geometry.cluster {
				return r.cluster*v.geometry.cluster + skip
			}
		}
		t.Fatalf("no record %d", number)
		return 0
	}
	record := make([]byte, v.geometry.record)
	if _, err := f.ReadAt(record, at(last.record)); err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(make([]byte, len(record)), at(last.record)); err != nil {
		t.Fatal(err)
	}
	le.PutUint32(record[0x2C:], uint32(to))
	if _, err := f.WriteAt(record, at(to)); err != nil {
		t.Fatal(err)
	}
	old, now := make([]byte, 8), make([]byte, 8)
	le.PutUint64(old, uint64(last.record)|uint64(last.sequence)<<48)
	le.PutUint64(now, uint64(to)|uint64(last.sequence)<<48)
	i := bytes.LastIndex(content, old)
	if i < 0 || list.resident || len(list.runs) != 1 {
		t.Fatalf("no reference to record %d in the list", last.record)
	}
	if _, err := f.WriteAt(now, list.runs[0].cluster*v.geometry.cluster+int64(i)); err != nil {
		t.Fatal(err)
	}
	// The bitmap has the old record no more.
	if _, err := f.ReadAt(old[:1], v.inUse.runs[0].cluster*v.geometry.cluster+last.record/8); err != nil {
		t.Fatal(err)
	}
	old[0] &^= 1 << (last.record % 8)
	if _, err := f.WriteAt(old[:1], v.inUse.runs[0].cluster*v.geometry.cluster+last.record/8); err != nil {
		t.Fatal(err)
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

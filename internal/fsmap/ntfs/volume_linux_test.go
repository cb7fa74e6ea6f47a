package ntfs

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// contents is what a test wrote: the bytes at each path, path:stream for
// streams. Of compressed and encrypted ones nothing is stored as it is.
type contents struct {
	plain      map[string][]byte
	compressed map[string]bool
}

func newContents() *contents {
	return &contents{plain: map[string][]byte{}, compressed: map[string]bool{}}
}

func (c *contents) write(t testing.TB, dir, path string, data []byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, path)), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, path), data, 0o644); err != nil {
		t.Fatal(err)
	}
	c.plain[path] = data
}

// compressedDir makes a directory whose new files are compressed.
func compressedDir(t testing.TB, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(dir, "system.ntfs_attrib_be", []byte{0, 0, 0x08, 0x10}, 0); err != nil {
		t.Fatalf("compressing %s: %v", dir, err)
	}
}

// busy writes files of all kinds and sizes, some of them bit by bit and in turn,
// and removes some again.
func busy(t testing.TB, dir string, seed byte, budget int, cluster int64) *contents {
	t.Helper()
	c := newContents()
	r := rand.New(rand.NewChaCha8([32]byte{seed}))
	parts := []string{"a", "Program Files", "ünï", "日本", "🙂", "x y", "dot.", "UPPER", strings.Repeat("n", 60)}
	for i := 0; budget > 0; i++ {
		path := fmt.Sprintf("f%d.bin", i)
		for range r.IntN(4) {
			path = parts[r.IntN(len(parts))] + "/" + path
		}
		n := min(budget, []int{0, 1, 300, 700, 5000, int(cluster), 3*int(cluster) + 1, r.IntN(200_000)}[r.IntN(8)])
		budget -= n + 2000
		c.write(t, dir, path, testenv.Random(seed+byte(i), n))
		switch r.IntN(8) {
		case 0: // a stream, or two
			c.write(t, dir, path+":Zone.Identifier", testenv.Text(byte(i), r.IntN(500)))
			if r.IntN(2) == 0 {
				c.write(t, dir, path+":ström", testenv.Random(byte(i), 3000+r.IntN(100_000)))
			}
		case 1: // another name
			other := fmt.Sprintf("links/%s%d", strings.Repeat("l", r.IntN(240)), i)
			if err := os.MkdirAll(filepath.Join(dir, "links"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Link(filepath.Join(dir, path), filepath.Join(dir, other)); err != nil {
				t.Fatal(err)
			}
			c.plain[other] = c.plain[path]
		case 2: // away with it
			if err := os.Remove(filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
			delete(c.plain, path)
		case 3: // holes
			f, err := os.Create(filepath.Join(dir, path))
			if err != nil {
				t.Fatal(err)
			}
			size := 40*cluster + int64(r.IntN(5000))
			data := make([]byte, size)
			for range 4 {
				p := testenv.Random(byte(r.IntN(256)), 1+r.IntN(int(3*cluster)))
				off := r.Int64N(size - int64(len(p)))
				if _, err := f.WriteAt(p, off); err != nil {
					t.Fatal(err)
				}
				copy(data[off:], p)
			}
			if err := f.Truncate(size); err != nil {
				t.Fatal(err)
			}
			f.Close()
			c.plain[path] = data
		}
	}
	// Some that grow in turn.
	open := map[string]*os.File{}
	for i := range 60 {
		path := fmt.Sprintf("log%d", i%5)
		f := open[path]
		if f == nil {
			var err error
			if f, err = os.Create(filepath.Join(dir, path)); err != nil {
				t.Fatal(err)
			}
			open[path] = f
		}
		p := testenv.Random(seed^byte(i), 1+r.IntN(int(cluster)+500))
		if _, err := f.Write(p); err != nil {
			t.Fatal(err)
		}
		c.plain[path] = append(c.plain[path], p...)
	}
	for _, f := range open {
		f.Close()
	}
	return c
}

// compare holds all that the package says of a volume against what it holds,
// and, of up to sample files, against the run lists that ntfscluster shows.
func compare(t *testing.T, s system, c *contents, sample int) []*volume.File {
	t.Helper()
	v, image := s.open(t)
	cluster, clusters := s.geometry(t)
	if v.geometry.cluster != cluster || v.geometry.clusters != clusters {
		t.Fatalf("%d clusters of %d, should be %d of %d", v.geometry.clusters, v.geometry.cluster, clusters, cluster)
	}

	gap := free(t, v)
	if want := s.free(t, cluster, clusters); !slices.Equal(gap, want) {
		t.Errorf("free are %v, should be %v", gap, want)
	}
	list := files(t, v)
	byID := map[uint64][]*volume.File{}
	for _, f := range list {
		byID[f.ID] = append(byID[f.ID], f)
		checkFile(t, f, clusters*cluster, gap)
	}

	// The paths of the files are those that were written.
	found := names(t, v)
	want := map[string]bool{}
	for path := range c.plain {
		path, _, _ = strings.Cut(path, ":")
		want[path] = true
	}
	for path := range want {
		if _, ok := found[path]; !ok {
			t.Errorf("no name %q", path)
		}
	}
	for path := range found {
		if !want[path] {
			t.Errorf("a name %q that nobody gave", path)
		}
	}

	ids := numbers(t, s, want)
	for path, id := range ids {
		if found[path] != id {
			t.Errorf("%q is %d, should be %d", path, found[path], id)
		}
	}
	compareContents(t, image, c, found, byID, cluster)

	at := 0
	for id := range byID {
		if at++; at > sample {
			break
		}
		compareRuns(t, s, id, byID[id], cluster)
	}
	t.Logf("%d files with extents, %d names, %d free ranges", len(list), len(found), len(gap))
	return list
}

// checkFile checks what holds for every file.
func checkFile(t testing.TB, f *volume.File, end int64, gap []volume.Extent) {
	t.Helper()
	for i, e := range f.Extents {
		if e.Length <= 0 || e.Offset < 0 || e.End() > end {
			t.Errorf("file %d has extent %v", f.ID, e)
		}
		if i > 0 && f.Extents[i-1].End() == e.Offset {
			t.Errorf("file %d: extents %v and %v are one", f.ID, f.Extents[i-1], e)
		}
		at, _ := slices.BinarySearchFunc(gap, e.Offset, func(g volume.Extent, off int64) int { return cmp.Compare(g.End(), off+1) })
		if at < len(gap) && gap[at].Offset < e.End() {
			t.Errorf("file %d has extent %v, of which %v is free", f.ID, e, gap[at])
		}
	}
	if len(f.Extents) == 0 || f.ID < firstUser {
		t.Errorf("file %d has no place here", f.ID)
	}
}

// numbers returns the inode numbers that the mounted volume shows.
func numbers(t testing.TB, s system, paths map[string]bool) map[string]uint64 {
	t.Helper()
	ids := map[string]uint64{}
	s.mounted(t, "ro", func(dir string) {
		for path := range paths {
			info, err := os.Lstat(filepath.Join(dir, path))
			if err != nil {
				t.Error(err)
				continue
			}
			ids[path] = info.Sys().(*syscall.Stat_t).Ino
		}
		// Nothing else is there, either.
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			rel, _ := filepath.Rel(dir, path)
			if err == nil && d.Type().IsRegular() && !paths[rel] {
				t.Errorf("the volume holds %q", rel)
			}
			return err
		})
		if err != nil {
			t.Error(err)
		}
	})
	return ids
}

// compareContents compares the bytes that the extents lead to.
func compareContents(t testing.TB, image io.ReaderAt, c *contents, found map[string]uint64, byID map[uint64][]*volume.File, cluster int64) {
	t.Helper()
	for path, data := range c.plain {
		name, stream, _ := strings.Cut(path, ":")
		var f *volume.File
		for _, g := range byID[found[name]] {
			if g.Stream == stream {
				f = g
			}
		}
		if f == nil {
			// It lies in its record, or is nothing but holes.
			if len(data) > 4096 && len(bytes.Trim(data, "\x00")) > 0 {
				t.Errorf("%q, of %d bytes, lies nowhere", path, len(data))
			}
			continue
		}
		if f.Size != int64(len(data)) {
			t.Errorf("%q is of %d bytes, should be %d", path, f.Size, len(data))
		}
		if c.compressed[path] {
			continue
		}
		// Without holes: the clusters that were never written.
		stored := read(t, image, f.Extents)
		if !sameWithoutHoles(data, stored, int(cluster)) {
			t.Errorf("%q (file %d): its %d bytes are not the %d in %v", path, f.ID, len(data), len(stored), f.Extents)
		}
	}
}

// sameWithoutHoles tells whether stored is data without some of its clusters
// that are zero, and without zeros at its end.
func sameWithoutHoles(data, stored []byte, cluster int) bool {
	for len(data) > 0 {
		n := min(cluster, len(data))
		part := data[:n]
		if 0 < len(stored) && len(stored) < n && len(bytes.Trim(data[len(stored):], "\x00")) == 0 {
			return bytes.Equal(stored, part[:len(stored)])
		}
		if len(stored) >= n && bytes.Equal(stored[:n], part) {
			stored = stored[n:]
		} else if len(bytes.Trim(part, "\x00")) > 0 {
			return false
		}
		data = data[n:]
	}
	return len(stored) == 0
}

func read(t testing.TB, image io.ReaderAt, extents []volume.Extent) (p []byte) {
	t.Helper()
	for _, e := range extents {
		b := make([]byte, e.Length)
		if _, err := image.ReadAt(b, e.Offset); err != nil {
			t.Fatal(err)
		}
		p = append(p, b...)
	}
	return p
}

// compareRuns compares the streams of a file with the run lists that ntfscluster
// shows, which are not trimmed.
func compareRuns(t testing.TB, s system, id uint64, list []*volume.File, cluster int64) {
	t.Helper()
	at := 0
	for _, runs := range s.dataRuns(t, id) {
		var want []volume.Extent
		for _, p := range runs {
			if p.cluster < 0 {
				continue
			}
			if n := len(want) - 1; n >= 0 && want[n].End() == p.cluster*cluster {
				want[n].Length += p.length * cluster
			} else {
				want = append(want, volume.Extent{Offset: p.cluster * cluster, Length: p.length * cluster})
			}
		}
		if len(want) == 0 {
			continue
		}
		if at == len(list) {
			t.Errorf("file %d: ntfscluster has more streams", id)
			return
		}
		got := slices.Clone(list[at].Extents)
		at++
		last := len(got) - 1
		got[last].Length = (got[last].Length + cluster - 1) / cluster * cluster
		if !slices.Equal(got, want) {
			t.Errorf("file %d %q: extents %v, should be %v", id, list[at-1].Stream, got, want)
		}
	}
	if at != len(list) {
		t.Errorf("file %d: ntfscluster has %d streams, should be %d", id, at, len(list))
	}
}

func TestGeometries(t *testing.T) {
	testenv.NeedTime(t)
	for _, c := range []struct {
		name string
		size int64
		args []string
	}{
		{"sectors 512 clusters 512", 24 << 20, []string{"-c", "512"}},
		{"sectors 512 clusters 1024", 24 << 20, []string{"-c", "1024"}},
		{"sectors 512 clusters 4096", 24<<20 + 512*3, []string{"-c", "4096"}},
		{"sectors 1024 clusters 2048", 24 << 20, []string{"-s", "1024", "-c", "2048"}},
		{"sectors 4096 clusters 4096", 24 << 20, []string{"-s", "4096", "-c", "4096"}},
		{"sectors 512 clusters 65536", 64 << 20, []string{"-c", "65536"}},
		{"sectors 4096 clusters 65536", 64 << 20, []string{"-s", "4096", "-c", "65536"}},
		{"sectors 512 clusters 2097152", 1 << 30, []string{"-c", "2097152"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			s := mkntfs(t, c.size, c.args...)
			v, _ := s.open(t)
			if got := files(t, v); len(got) > 0 {
				t.Errorf("an empty volume has files: %v", got)
			}
			var wrote *contents
			cluster, _ := s.geometry(t)
			s.mounted(t, "", func(dir string) { wrote = busy(t, dir, 1, 5<<20, min(cluster, 64<<10)) })
			compare(t, s, wrote, 60)
		})
	}
}

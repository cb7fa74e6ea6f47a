package fsmap

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// memory is a disk in memory that lies in the second file of an image, in two
// parts that are the wrong way round: its first half in the file's second.
type memory []byte

func (m memory) ReadAt(p []byte, off int64) (int, error) { return bytes.NewReader(m).ReadAt(p, off) }
func (m memory) Name() string                            { return "disk" }
func (m memory) Size() int64                             { return int64(len(m)) }
func (m memory) half() int64                             { return int64(len(m) / 2) }
func (m memory) Map(off, length int64, yield func(Extent) error) error {
	if n := min(length, m.half()-off); n > 0 {
		if err := yield(Extent{1, m.half() + off, n}); err != nil {
			return err
		}
		off, length = off+n, length-n
	}
	if length == 0 {
		return nil
	}
	return yield(Extent{1, off - m.half(), length})
}

// inFile returns the file that the disk lies in.
func (m memory) inFile() []byte { return slices.Concat(m[m.half():], m[:m.half()]) }

// makeVolume makes an ext4 volume with files that it returns by their sizes.
func makeVolume(t *testing.T, size int64, seed byte) (v []byte, content map[int][]byte) {
	t.Helper()
	tree := t.TempDir()
	content = map[int][]byte{}
	for i := range 20 {
		p := testenv.Random(seed+byte(i), 5000+i*7919+int(seed))
		content[len(p)] = p
		if err := os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), p, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(fstest.Make(t, size, "mkfs.ext4", "-q", "-F", "-d", tree))
	if err != nil {
		t.Fatal(err)
	}
	return b, content
}

// read reads a disk and checks that it has just these files.
func read(t *testing.T, m memory, content map[int][]byte) *Map {
	t.Helper()
	got, err := Read(t.Context(), []Guest{m})
	if err != nil {
		t.Fatal(err)
	}
	file := m.inFile()
	found := 0
	for _, f := range got.Files {
		var p []byte
		for _, e := range f.Extents {
			if e.File != 1 {
				t.Fatalf("file %d of the image", e.File)
			}
			p = append(p, file[e.Offset:e.End()]...)
		}
		if f.Kind != volume.Ordinary {
			continue
		}
		found++
		if !bytes.Equal(content[len(p)], p) {
			t.Errorf("a file of %d bytes is not one of the volume's", len(p))
		}
	}
	if found != len(content) {
		t.Errorf("%d files, should be %d", found, len(content))
	}
	return got
}

func notes(t *testing.T, m *Map, want ...string) {
	t.Helper()
	if len(m.Notes) != len(want) {
		t.Errorf("notes %q, should be %q", m.Notes, want)
		return
	}
	for i := range want {
		if !strings.Contains(m.Notes[i], want[i]) {
			t.Errorf("note %q, should be %q", m.Notes[i], want[i])
		}
	}
}

func TestRead(t *testing.T) {
	testenv.Need(t, "sfdisk")
	v, content := makeVolume(t, 8<<20, 1)
	// A volume on the whole disk.
	notes(t, read(t, v, content))

	// Partitions: a volume, swap, LUKS, nothing, what nobody knows.
	m := make(memory, 32<<20)
	disk := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(disk, m, 0o644); err != nil {
		t.Fatal(err)
	}
	table := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(table, []byte("label: gpt\nstart=1MiB,size=8MiB\nstart=9MiB,size=4MiB\nstart=13MiB,size=1MiB\nstart=14MiB,size=1MiB\nstart=15MiB,size=1MiB\nstart=16MiB,size=8MiB\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	fstest.Run(t, "sh", "-c", "sfdisk --quiet \"$1\" < \"$2\"", "sh", disk, table)
	b, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	copy(m, b)
	copy(m[1<<20:], v)
	swap, err := os.ReadFile(fstest.Make(t, 4<<20, "mkswap", "-q"))
	if err != nil {
		t.Fatal(err)
	}
	copy(m[9<<20:], swap)
	copy(m[13<<20:], "LUKS\xba\xbe")
	copy(m[15<<20:], "what is this?")
	// The last one says the same of itself as the first, and is damaged.
	copy(m[16<<20:], v)
	m[16<<20+1024+8]++
	got := read(t, m, content)
	notes(t, got, "disk: partition 3: a LUKS volume is kept", "disk: partition 5: no file system", "disk: partition 6: ")
	if i := slices.IndexFunc(got.Files, func(f File) bool { return f.Kind == volume.Swap }); i < 0 {
		t.Error("the swap space was not found")
	} else if e := got.Files[i].Extents; e[len(e)-1].File != 1 {
		t.Errorf("swap in %v", e)
	}
	for _, e := range got.Free {
		if e.File != 1 || e.Offset < 0 || e.End() > int64(len(m)) {
			t.Errorf("%v is free", e)
		}
	}
	if len(got.Free) == 0 {
		t.Error("nothing is free")
	}
}

// TestSwapFile has a file that is swap space, and one that only looks large.
func TestSwapFile(t *testing.T) {
	testenv.Need(t, "mkswap")
	tree := t.TempDir()
	path := filepath.Join(tree, "swapfile")
	if err := os.WriteFile(path, testenv.Random(1, 3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	fstest.Run(t, "mkswap", "-q", path)
	if err := os.WriteFile(filepath.Join(tree, "other"), testenv.Random(2, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(fstest.Make(t, 16<<20, "mkfs.ext4", "-q", "-F", "-b", "4096", "-d", tree))
	if err != nil {
		t.Fatal(err)
	}
	m, err := Read(t.Context(), []Guest{memory(b)})
	if err != nil {
		t.Fatal(err)
	}
	sizes := map[volume.Kind][]int64{}
	for _, f := range m.Files {
		n := int64(0)
		for _, e := range f.Extents {
			n += e.Length
		}
		sizes[f.Kind] = append(sizes[f.Kind], n)
	}
	slices.Sort(sizes[volume.Ordinary])
	if want := []int64{4096, 2 << 20}; !slices.Equal(sizes[volume.Ordinary], want) || !slices.Equal(sizes[volume.Swap], []int64{3<<20 - 4096}) {
		t.Errorf("files of %v bytes", sizes)
	}
}

// TestLVM reads volumes in a volume, one of them in parts.
func TestLVM(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "lvm", "losetup")
	image := fstest.Make(t, 48<<20, "true")
	device := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", image))
	config := fmt.Sprintf(`devices{use_devicesfile=0 filter=["a|^%s$|","r|.*|"]} global{use_lvmpolld=0} backup{backup=0 archive=0}`, device)
	for _, c := range []string{
		"pvcreate " + device, "vgcreate -s 1M g " + device, "lvcreate -an -Zn -L 4M -n a g",
		"lvcreate -an -Zn -L 8M -n b g", "lvextend -L 8M g/a",
	} {
		args := strings.Fields(c)
		fstest.Run(t, append([]string{"lvm", args[0], "--config", config, "--driverloaded", "n", "--nolocking"}, args[1:]...)...)
	}
	fstest.Run(t, "losetup", "--detach", device)
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	m := memory(b)
	// Extents of 1 MiB from 1 MiB on: a has 0 to 3 and 12 to 15, b 4 to 11.
	va, content := makeVolume(t, 8<<20, 1)
	vb, more := makeVolume(t, 8<<20, 100)
	copy(m[1<<20:], va[:4<<20])
	copy(m[13<<20:], va[4<<20:])
	copy(m[5<<20:], vb)
	for n, p := range more {
		content[n] = p
	}
	notes(t, read(t, m, content))
}

// TestTwoKinds has traces of another file system.
func TestTwoKinds(t *testing.T) {
	testenv.Need(t, "mkfs.fat")
	v, _ := makeVolume(t, 8<<20, 1)
	fat, err := os.ReadFile(fstest.Make(t, 8<<20, "mkfs.fat"))
	if err != nil {
		t.Fatal(err)
	}
	copy(v, fat[:1024])
	got := read(t, v, nil)
	notes(t, got, "it looks like ext4 and like FAT")
	if len(got.Free) > 0 {
		t.Error("something is free there")
	}
}

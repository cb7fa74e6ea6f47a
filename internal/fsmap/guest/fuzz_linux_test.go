package guest

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// sumVHD puts the checksums of a dynamic VHD right.
func sumVHD(size int64) func(m *fstest.Mutant, at int64) {
	return func(m *fstest.Mutant, _ int64) {
		for _, s := range []struct{ at, n, sum int64 }{{0, 512, 64}, {512, 1024, 36}, {size - 512, 512, 64}} {
			p := m.Bytes(s.at, s.n)
			clear(p[s.sum : s.sum+4])
			sum := uint32(0)
			for _, c := range p {
				sum += uint32(c)
			}
			binary.BigEndian.PutUint32(p[s.sum:], ^sum)
		}
	}
}

// sumVHDX puts the checksums of a VHDX right, but for those of its log.
func sumVHDX(m *fstest.Mutant, at int64) {
	for _, s := range []struct{ at, n int64 }{
		{vhdxHeader1, vhdxHeaderSize}, {vhdxHeader2, vhdxHeaderSize}, {vhdxRegions1, vhdxRegionsSize}, {vhdxRegions2, vhdxRegionsSize}, {at &^ 4095, 4096},
	} {
		if at < s.at || at >= s.at+s.n {
			continue
		}
		p := m.Bytes(s.at, s.n)
		if s.at < vhdxUnit || bytes.HasPrefix(p, []byte("loge")) {
			clear(p[4:8])
			binary.LittleEndian.PutUint32(p[4:], crc32.Checksum(p, castagnoli))
		}
	}
}

// container is a file that is changed.
type container struct {
	*fstest.Mutant
	files []*disk.File
}

// newContainer makes a container of a raw disk. It is mapped into memory, so that
// changes are seen in the file without being written.
func newContainer(f *testing.F, options []string) container {
	dir := f.TempDir()
	raw, _ := makeRaw(f, dir, 300_000/512*512)
	out := filepath.Join(dir, "out."+strings.Replace(options[0], "vpc", "vhd", 1))
	fstest.Run(f, append(append([]string{"qemu-img", "convert", "-f", "raw", "-O"}, options...), raw, out)...)
	file, err := os.OpenFile(out, os.O_RDWR, 0)
	if err != nil {
		f.Fatal(err)
	}
	defer file.Close()
	files, err := disk.Open(out)
	if err != nil {
		f.Fatal(err)
	}
	b, err := unix.Mmap(int(file.Fd()), 0, int(files[0].Size), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		unix.Munmap(b)
		files[0].Close()
	})
	// What is not the guest's own matters.
	guests, notes := Open(files)
	if len(guests) != 1 {
		f.Fatalf("a seed cannot be read: %q", notes)
	}
	var list, matter []volume.Extent
	if err := guests[0].Map(0, guests[0].Size(), func(e fsmap.Extent) error {
		list = append(list, volume.Extent{Offset: e.Offset, Length: e.Length})
		return nil
	}); err != nil {
		f.Fatal(err)
	}
	slices.SortFunc(list, func(a, b volume.Extent) int { return int(a.Offset - b.Offset) })
	at := int64(0)
	for _, e := range append(list, volume.Extent{Offset: files[0].Size}) {
		matter = append(matter, volume.Extent{Offset: at, Length: e.Offset - at})
		at = e.End()
	}
	var sum func(*fstest.Mutant, int64)
	order := binary.ByteOrder(binary.LittleEndian)
	switch options[0] {
	case "vpc":
		sum, order = sumVHD(files[0].Size), binary.BigEndian
	case "vhdx":
		sum = sumVHDX
	case "qcow2":
		order = binary.BigEndian
	}
	return container{fstest.NewMutant(b, matter, order, sum), files}
}

// FuzzOpen changes real containers: what is said of a disk lies in the file, no two
// parts of it in the same place, and is what is read.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "qemu-img")
	var containers []container
	for _, options := range [][]string{
		{"qcow2", "-o", "cluster_size=512"},
		{"qcow2", "-c", "-o", "cluster_size=4096"},
		{"qcow2", "-c", "-o", "cluster_size=4096,compression_type=zstd"},
		{"vpc"},
		{"vhdx", "-o", "block_size=1M,log_size=1M"},
		{"vmdk"},
		{"vmdk", "-o", "subformat=streamOptimized"},
	} {
		containers = append(containers, newContainer(f, options))
	}
	fstest.AddSeeds(f, len(containers))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		c := containers[int(which)%len(containers)]
		defer c.Restore()
		c.Change(changes)
		fstest.Limits(t, c.files[0].Size, func() {
			guests, _ := Open(c.files)
			for _, g := range guests {
				c.check(t, g)
			}
		})
	})
}

// looked is how much of a disk is looked at.
const looked = 320 << 10

func (c container) check(t *testing.T, g fsmap.Guest) {
	size := c.files[0].Size
	if g.Size() < 0 {
		t.Fatalf("a disk of %d bytes", g.Size())
	}
	p, q := make([]byte, 64<<10), make([]byte, 64<<10)
	var list []fsmap.Extent
	for off := int64(0); off < min(g.Size(), looked); off += int64(len(p)) {
		n, readErr := g.ReadAt(p, off)
		if readErr == nil && n < len(p) || errors.Is(readErr, io.EOF) && off+int64(n) != g.Size() {
			t.Fatalf("%d bytes at %d: %v", n, off, readErr)
		}
		mapErr := g.Map(off, int64(len(p)), func(e fsmap.Extent) error {
			if e.File != 0 || e.Offset < 0 || e.Length <= 0 || e.Offset > size-e.Length {
				t.Fatalf("%v of %d", e, size)
			}
			if _, err := c.files[0].ReadAt(q[:e.Length], e.Offset); err != nil {
				t.Fatal(err)
			}
			if readErr == nil && !bytes.Contains(p, q[:e.Length]) {
				t.Fatalf("what is read at %d is not what lies at %v", off, e)
			}
			list = append(list, e)
			return nil
		})
		if mapErr != nil {
			return
		}
	}
	slices.SortFunc(list, func(a, b fsmap.Extent) int { return int(a.Offset - b.Offset) })
	for i := 1; i < len(list); i++ {
		if list[i-1].End() > list[i].Offset {
			t.Fatalf("%v and %v are in one place", list[i-1], list[i])
		}
	}
	g.ReadAt(p, g.Size()-1000)
	g.Map(g.Size()-1000, 1000, func(fsmap.Extent) error { return nil })
}

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

// sumVHDX puts the checksums of a VHDX of that size right.
func sumVHDX(size int64) func(m *fstest.Mutant, at int64) {
	put := func(m *fstest.Mutant, at, n int64) {
		p := m.Bytes(at, n)
		clear(p[4:8])
		binary.LittleEndian.PutUint32(p[4:], crc32.Checksum(p, castagnoli))
	}
	return func(m *fstest.Mutant, at int64) {
		for _, r := range []region{
			{vhdxHeader1, vhdxHeaderSize}, {vhdxHeader2, vhdxHeaderSize}, {vhdxRegions1, vhdxRegionsSize}, {vhdxRegions2, vhdxRegionsSize},
		} {
			if at >= r.offset && at < r.offset+r.length {
				put(m, r.offset, r.length)
			}
		}
		// An entry of the log may have begun some sectors before.
		for first := at / logSector * logSector; first >= vhdxUnit && first > at-64*logSector; first -= logSector {
			p := m.Bytes(first, logHeader)
			if n := int64(binary.LittleEndian.Uint32(p[8:])); bytes.HasPrefix(p, []byte("loge")) && n >= logSector && n <= vhdxUnit && n <= size-first {
				put(m, first, n)
				return
			}
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
	switch options[0] {
	case "vhdx": // what is written where nothing was is in its log
		fstest.Run(f, append(append([]string{"qemu-img", "create", "-f"}, options...), out, "4M")...)
		fstest.Run(f, "qemu-io", "-f", "vhdx", "-c", "write -P 5 0 200k", "-c", "write -P 6 2M 64k", out)
	default:
		fstest.Run(f, append(append([]string{"qemu-img", "convert", "-f", "raw", "-O"}, options...), raw, out)...)
	}
	if options[0] == "qcow2" { // some clusters are the snapshot's as well
		fstest.Run(f, "qemu-img", "snapshot", "-c", "before", out)
		fstest.Run(f, "qemu-io", "-f", "qcow2", "-c", "write -P 5 100k 40k", out)
	}
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
	if options[0] == "vhdx" {
		// QEMU takes its log out of force. Hyper-V leaves the last entry in it.
		if entry := bytes.LastIndex(b[:2*vhdxUnit], []byte("loge")); entry > 0 {
			for _, at := range []int{vhdxHeader1, vhdxHeader2} {
				h := b[at : at+vhdxHeaderSize]
				copy(h[48:64], b[entry+32:entry+48])
				clear(h[4:8])
				binary.LittleEndian.PutUint32(h[4:], crc32.Checksum(h, castagnoli))
			}
		}
	}
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
		sum = sumVHDX(files[0].Size)
	case "qcow2":
		order = binary.BigEndian
	}
	return container{fstest.NewMutant(b, matter, order, sum), files}
}

// FuzzOpen changes real containers: what is said of a disk lies in the file, no two
// parts of it in the same place, and is what is read.
func FuzzOpen(f *testing.F) {
	testenv.Need(f, "qemu-img", "qemu-io")
	var containers []container
	for _, options := range [][]string{
		{"qcow2", "-o", "cluster_size=512"},
		{"qcow2", "-c", "-o", "cluster_size=4096"},
		{"qcow2", "-c", "-o", "cluster_size=4096,compression_type=zstd"},
		{"vpc"},
		{"qcow2", "-o", "cluster_size=65536,compat=0.10"},
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
	near := max(0, g.Size()-1000)
	g.ReadAt(p, near)
	g.Map(near, 1000, func(fsmap.Extent) error { return nil })
}

// TestLog has logs of a VHDX that are full: of entries that follow each other, of
// two sequences, and of entries that are all as long as the log.
func TestLog(t *testing.T) {
	const sectors = 256
	id := bytes.Repeat([]byte{7}, 16)
	path := filepath.Join(t.TempDir(), "disk.vhdx")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer files[0].Close()
	empty := make([]byte, sectors*logSector)
	logOf := func(length, tail uint32, number func(i int) uint64) *vhdxLog {
		l := &vhdxLog{f: files[0], id: id, bytes: slices.Clone(empty), budget: 4*sectors*logSector + files[0].Size}
		for i := range sectors {
			p := l.bytes[i*logSector : (i+1)*logSector]
			copy(p, "loge")
			binary.LittleEndian.PutUint32(p[8:], length)
			binary.LittleEndian.PutUint32(p[12:], tail*logSector)
			binary.LittleEndian.PutUint64(p[16:], number(i))
			copy(p[32:], id)
			binary.LittleEndian.PutUint32(p[4:], crc32.Checksum(p, castagnoli))
		}
		return l
	}
	for name, c := range map[string]struct {
		log     *vhdxLog
		entries int
		last    uint64
	}{
		"one sequence": {logOf(logSector, 0, func(i int) uint64 { return uint64(i) + 1 }), sectors, sectors},
		"wraps around": {logOf(logSector, 156, func(i int) uint64 { return uint64(i+100)%sectors + 1 }), sectors, sectors},
		"two":          {logOf(logSector, 250, func(i int) uint64 { return uint64(i + i/250*1000) }), 6, 1255},
	} {
		got := c.log.sequence()
		if len(got) != c.entries || got[len(got)-1].number != c.last || c.log.budget < 0 {
			t.Errorf("%s: %d entries, %d bytes left", name, len(got), c.log.budget)
		}
	}
	if l := logOf(sectors*logSector, 0, func(int) uint64 { return 1 }); l.sequence() != nil || l.budget >= 0 {
		t.Errorf("entries as long as the log: %d bytes left", l.budget)
	}
}

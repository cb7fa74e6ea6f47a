package fsmap

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

var le = binary.LittleEndian

// Where things lie on the disk that is changed.
const (
	swapAt, swapSize = 4 << 10, 64 << 10
	fatAt, fatSize   = 128 << 10, 256 << 10
	lvmAt, lvmSize   = 512 << 10, 1 << 20
	diskSize         = 2 << 20

	label, area, text = lvmAt + 512, lvmAt + 4096, lvmAt + 4096 + 512
)

// metadata describes two volumes: FAT in two parts, and swap.
const metadata = `g { extent_size = 128 physical_volumes { pv0 { id = "00000000000000000000000000000000" pe_start = 128 } } logical_volumes {
fat { status = ["READ", "VISIBLE"] segment_count = 2 segment1 { start_extent = 0 extent_count = 1 type = "striped" stripes = ["pv0", 5] }
segment2 { start_extent = 1 extent_count = 3 type = "striped" stripes = ["pv0", 0] } }
swap { status = ["VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 1 type = "striped" stripes = ["pv0", 4] } } } }`

// makeDisk makes a disk with swap, FAT, and both of them in logical volumes.
func makeDisk(f *testing.F) []byte {
	b := make([]byte, diskSize)
	for i, p := range [][2]uint32{{swapAt, swapSize}, {fatAt, fatSize}, {lvmAt, lvmSize}} {
		e := b[446+16*i:]
		e[4] = 0x83
		le.PutUint32(e[8:], p[0]/512)
		le.PutUint32(e[12:], p[1]/512)
	}
	copy(b[510:], "\x55\xaa")
	image := fstest.Make(f, fatSize, "mkfs.fat", "-F", "12")
	for i := range 3 {
		file := filepath.Join(f.TempDir(), fmt.Sprint("file ", i))
		if err := os.WriteFile(file, testenv.Random(byte(i), 20_000*i), 0o644); err != nil {
			f.Fatal(err)
		}
		fstest.Run(f, "mcopy", "-i", image, file, "::")
	}
	fat, err := os.ReadFile(image)
	if err != nil {
		f.Fatal(err)
	}
	copy(b[fatAt:], fat)
	const extent, start = 64 << 10, lvmAt + 64<<10
	copy(b[start+5*extent:], fat[:extent])
	copy(b[start:], fat[extent:])
	for _, at := range []int{swapAt, start + 4*extent} {
		copy(b[at+4096-len(swapMagic):], swapMagic)
	}

	copy(b[label:], "LABELONE\x01")
	copy(b[label+20:], "\x20\x00\x00\x00LVM2 00100000000000000000000000000000000")
	le.PutUint64(b[label+64:], lvmSize)
	le.PutUint64(b[label+72:], 64<<10) // where data begin
	le.PutUint64(b[label+104:], area-lvmAt)
	le.PutUint64(b[label+112:], 60<<10)
	copy(b[area+4:], " LVM2 x[5A%r0N*>")
	le.PutUint64(b[area+40:], text-area)
	le.PutUint64(b[area+48:], uint64(len(metadata)))
	copy(b[text:], metadata)
	return b
}

// sumLVM puts the checksums of LVM's metadata right.
func sumLVM(m *fstest.Mutant, _ int64) {
	sum := func(p []byte) uint32 { return ^crc32.Update(^uint32(0xf597a6cf), crc32.IEEETable, p) }
	h := m.Bytes(area, 512)
	if n := int64(le.Uint64(h[48:])); n >= 0 && n < 60<<10-512 {
		le.PutUint32(h[56:], sum(m.Bytes(text, n)))
	}
	le.PutUint32(h, sum(h[4:]))
	l := m.Bytes(label, 512)
	le.PutUint32(l[16:], sum(l[20:]))
}

// FuzzRead changes a disk: whatever it says, all extents lie in the image's file,
// and nothing is free that a file has.
func FuzzRead(f *testing.F) {
	testenv.Need(f, "mkfs.fat", "mcopy")
	b := makeDisk(f)
	m := fstest.NewMutant(b, []volume.Extent{{Offset: 0, Length: fatAt + 64<<10}, {Offset: lvmAt, Length: lvmSize}}, le, nil)
	sumLVM(m, 0)
	if got, err := Read(f.Context(), []Guest{memory(b)}); err != nil || len(got.Files) != 6 || len(got.Notes) > 0 || len(got.Free) == 0 {
		f.Fatalf("the seed: %+v, %v", got, err)
	}
	m.Restore()
	fstest.AddSeeds(f, 1)
	f.Fuzz(func(t *testing.T, _ uint8, changes []byte) {
		defer m.Restore()
		b := memory(m.Change(changes))
		sumLVM(m, 0)
		fstest.Limits(t, diskSize, func() {
			got, err := Read(t.Context(), []Guest{b})
			if err != nil {
				t.Fatal(err)
			}
			inside := func(e Extent) {
				if e.File != 1 || e.Offset < 0 || e.Length <= 0 || e.Length > diskSize-e.Offset {
					t.Fatalf("%v lies outside", e)
				}
			}
			slices.SortFunc(got.Free, func(a, b Extent) int { return int(a.Offset - b.Offset) })
			for i, e := range got.Free {
				inside(e)
				if i > 0 && got.Free[i-1].End() > e.Offset {
					t.Fatalf("%v is free twice", e)
				}
			}
			for _, file := range got.Files {
				for _, e := range file.Extents {
					inside(e)
					for _, x := range got.Free {
						if x.Offset < e.End() && e.Offset < x.End() {
							t.Fatalf("%v is a file's, and %v is free", e, x)
						}
					}
				}
			}
		})
	})
}

package part

import (
	"hash/crc32"
	"os"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
)

// sum puts the checksums of both copies of a GPT right.
func sum(m *fstest.Mutant, _ int64) {
	for _, at := range []int64{512, size - 512} {
		h := m.Bytes(at, 512)
		first, count, width := int64(le.Uint32(h[72:])), int64(le.Uint32(h[80:])), int64(le.Uint32(h[84:]))
		if first < size/512 && count < 1<<12 && width < 1<<12 && count*width < size-first*512 {
			le.PutUint32(h[88:], crc32.ChecksumIEEE(m.Bytes(first*512, count*width)))
		}
		clear(h[16:20])
		le.PutUint32(h[16:], crc32.ChecksumIEEE(h[:min(512, le.Uint32(h[12:]))]))
	}
}

const size = 8 * mib

// FuzzRead changes tables: partitions lie on the disk, overlap neither each other
// nor the table, and ascend.
func FuzzRead(f *testing.F) {
	var mutants []*fstest.Mutant
	for _, script := range []string{
		"label: dos\nsize=1MiB\nsize=5MiB,type=5\n5: size=1MiB\n6: size=512KiB\n7: size=256KiB\n",
		"label: gpt\nsize=1MiB\nsize=1MiB\n4: size=2MiB\n",
	} {
		b, err := os.ReadFile(disk(f, size, script))
		if err != nil {
			f.Fatal(err)
		}
		s := sum
		if string(b[512:520]) != gptMagic {
			s = nil
		}
		mutants = append(mutants, fstest.NewMutant(b, []volume.Extent{{Offset: 0, Length: size}}, le, s))
	}
	fstest.AddSeeds(f, len(mutants))
	f.Fuzz(func(t *testing.T, which uint8, changes []byte) {
		m := mutants[int(which)%len(mutants)]
		defer m.Restore()
		b := m.Change(changes)
		fstest.Limits(t, size, func() {
			list, err := Read(fstest.Reader(b), size)
			if err != nil {
				return
			}
			last := int64(512)
			for _, p := range list {
				if p.Offset < last || p.Length <= 0 || p.Length > size-p.Offset || p.Number < 1 {
					t.Fatalf("%+v in %d bytes, after %d", p, size, last)
				}
				last = p.Offset + p.Length
			}
		})
	})
}

package part

import (
	"bytes"
	"encoding/json"
	"errors"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

const mib = 1 << 20

// disk makes a disk of size bytes with the partitions that the script describes.
func disk(t testing.TB, size int64, script string, args ...string) string {
	t.Helper()
	testenv.Need(t, "sfdisk")
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", append(args, image)...)
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	return image
}

// told is what sfdisk tells of a disk's partitions.
func told(t *testing.T, image string) map[Partition]bool {
	t.Helper()
	out, err := exec.Command("sfdisk", "--json", image).Output()
	if err != nil {
		t.Fatal(err)
	}
	var v struct {
		PartitionTable struct {
			SectorSize int64
			Partitions []struct {
				Node, Type  string
				Start, Size int64
			}
		}
	}
	if err := json.Unmarshal(out, &v); err != nil {
		t.Fatal(err)
	}
	list := make(map[Partition]bool)
	for _, p := range v.PartitionTable.Partitions {
		if p.Type == "5" || p.Type == "f" || p.Type == "85" {
			continue
		}
		number := 0
		for _, c := range strings.TrimPrefix(p.Node, image) {
			number = number*10 + int(c-'0')
		}
		list[Partition{number, p.Start * 512, p.Size * 512}] = true
	}
	return list
}

func open(t *testing.T, image string) ([]byte, []Partition, error) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	list, err := Read(bytes.NewReader(b), int64(len(b)))
	return b, list, err
}

func TestPartitions(t *testing.T) {
	many := "label: gpt\n"
	for range 100 {
		many += "size=64KiB\n"
	}
	for _, c := range []struct {
		name, script string
		want         int
	}{
		{"dos", "label: dos\nsize=8MiB,type=7,bootable\nsize=4MiB,type=82\n", 2},
		{"dos with logical ones", "label: dos\nsize=8MiB\nsize=40MiB,type=5\n5: size=2MiB\n6: size=3MiB\n7: size=1MiB\n8: size=1MiB,type=83\n", 5},
		{"dos with a gap", "label: dos\n3: start=16384,size=8MiB\n1: start=2048,size=2MiB\n", 2},
		{"gpt", "label: gpt\nsize=8MiB,type=uefi\nsize=10MiB\n7: size=5MiB\n", 3},
		{"gpt with many", many, 100},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := disk(t, 256*mib, c.script)
			_, list, err := open(t, image)
			if err != nil {
				t.Fatal(err)
			}
			want := told(t, image)
			if len(list) != c.want || len(want) != c.want {
				t.Fatalf("%d partitions, sfdisk has %d, %d were made", len(list), len(want), c.want)
			}
			for i, p := range list {
				if !want[p] {
					t.Errorf("%+v is not what sfdisk says: %v", p, want)
				}
				if i > 0 && p.Offset < list[i-1].Offset {
					t.Errorf("%+v comes late", p)
				}
			}
		})
	}
}

// A damaged table is read from its copy at the end of the disk.
func TestGPTBackup(t *testing.T) {
	b, want, err := open(t, disk(t, 16*mib, "label: gpt\nsize=2MiB\nsize=3MiB\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{512, 512 + 16, 1024 + 33} { // mark, checksum, an entry
		c := bytes.Clone(b)
		c[at] ^= 1
		list, err := Read(bytes.NewReader(c), int64(len(c)))
		if err != nil || len(list) != 2 || list[0] != want[0] || list[1] != want[1] {
			t.Errorf("damaged at %d: %v, %v", at, list, err)
		}
		c[len(c)-512+16] ^= 1
		if _, err := Read(bytes.NewReader(c), int64(len(c))); !errors.Is(err, volume.ErrDamaged) {
			t.Errorf("both damaged: error %v", err)
		}
	}
}

// Disks whose sectors have 4 KiB count in those.
func TestLargeSectors(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.Need(t, "losetup", "sfdisk")
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, make([]byte, 64*mib), 0o644); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", "--sector-size", "4096", image).CombinedOutput()
	if err != nil {
		t.Fatalf("losetup: %v\n%s", err, out)
	}
	device := strings.TrimSpace(string(out))
	cmd := exec.Command("sfdisk", "--no-reread", "--no-tell-kernel", device)
	cmd.Stdin = strings.NewReader("label: gpt\nstart=256,size=1024\nsize=2048\n")
	out, err = cmd.CombinedOutput()
	if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
		t.Errorf("losetup: %v\n%s", err, out)
	}
	if err != nil {
		t.Fatalf("sfdisk: %v\n%s", err, out)
	}
	_, list, err := open(t, image)
	if err != nil || len(list) != 2 || list[0] != (Partition{1, mib, 4 * mib}) || list[1].Length != 8*mib {
		t.Errorf("%v, %v", list, err)
	}
}

// What is no table is not taken for one, and what is wrong is refused.
func TestRefused(t *testing.T) {
	dos, _, _ := open(t, disk(t, 64*mib, "label: dos\nsize=8MiB\nsize=40MiB,type=5\n5: size=2MiB\n6: size=3MiB\n"))
	set := func(at int, to ...byte) []byte {
		b := bytes.Clone(dos)
		copy(b[at:], to)
		return b
	}
	second := bytes.LastIndex(dos, []byte{0x55, 0xaa}) - 510 // the last boot record
	for _, c := range []struct {
		name string
		b    []byte
		want error
	}{
		{"empty", nil, volume.ErrUnknown},
		{"zeros", make([]byte, mib), volume.ErrUnknown},
		{"no mark", set(510, 0), volume.ErrUnknown},
		{"code", set(446, 0x33), volume.ErrUnknown},
		{"starts outside", set(446+8, 0xff, 0xff, 0xff, 0xff), volume.ErrUnknown},
		{"ends outside", set(446+12, 0xff, 0xff, 0xff, 0xff), volume.ErrDamaged},
		{"overlaps", set(446+12, 0xff, 0xff, 0, 0), volume.ErrDamaged},
		{"a loop", set(second+446+16, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0, 1), volume.ErrDamaged},
		{"a broken chain", set(second+510, 0), volume.ErrDamaged},
	} {
		if list, err := Read(bytes.NewReader(c.b), int64(len(c.b))); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, error %v", c.name, list, err)
		}
	}
}

// A partition that has a part of the table itself is refused: what is free in it
// would be taken from the table.
func TestOverTable(t *testing.T) {
	dos, list, err := open(t, disk(t, 64*mib, "label: dos\nsize=8MiB\nsize=40MiB,type=5\n5: size=2MiB\n6: size=3MiB\n"))
	if err != nil {
		t.Fatal(err)
	}
	first := int64(le.Uint32(dos[446+16+8:])) * 512
	second := int64(bytes.LastIndex(dos, []byte{0x55, 0xaa})) - 510
	le.PutUint32(dos[first+446+12:], uint32((second+512-list[1].Offset)/512))
	if list, err := Read(bytes.NewReader(dos), int64(len(dos))); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("over a boot record: %v, error %v", list, err)
	}
	gpt, _, err := open(t, disk(t, 64*mib, "label: gpt\nsize=8MiB\n"))
	if err != nil {
		t.Fatal(err)
	}
	for from, want := range map[uint64]error{1: volume.ErrDamaged, 3: volume.ErrDamaged, 33: volume.ErrDamaged, 34: nil} {
		le.PutUint64(gpt[1024+32:], from)
		le.PutUint32(gpt[512+88:], crc32.ChecksumIEEE(gpt[1024:1024+128*128]))
		clear(gpt[512+16 : 512+20])
		le.PutUint32(gpt[512+16:], crc32.ChecksumIEEE(gpt[512:512+92]))
		if list, err := Read(bytes.NewReader(gpt), int64(len(gpt))); !errors.Is(err, want) {
			t.Errorf("from sector %d: %v, error %v", from, list, err)
		}
	}
}

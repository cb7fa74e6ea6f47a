package lvm

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// makeGroup makes a volume group and runs LVM's commands on it, {} for the device.
func makeGroup(t testing.TB, size int64, commands ...string) (image string, said []string) {
	t.Helper()
	if b, ok := t.(*testing.T); ok {
		testenv.NeedRoot(b)
	}
	testenv.Need(t, "lvm", "losetup")
	image = fstest.Make(t, size, "true")
	device := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", image))
	defer fstest.Run(t, "losetup", "--detach", device)
	config := fmt.Sprintf(`devices{use_devicesfile=0 filter=["a|^%s$|","r|.*|"]} global{locking_type=0 use_lvmpolld=0} activation{udev_sync=0 udev_rules=0} backup{backup=0 archive=0}`, device)
	for _, c := range commands {
		args := strings.Fields(strings.ReplaceAll(c, "{}", device))
		args = append([]string{"lvm", args[0], "--config", config, "--driverloaded", "n"}, args[1:]...)
		said = append(said, fstest.Run(t, args...))
	}
	fstest.Run(t, "sync", device)
	return image, said
}

func read(t *testing.T, image string) ([]Volume, error) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	return Read(bytes.NewReader(b), int64(len(b)))
}

func TestVolumes(t *testing.T) {
	image, said := makeGroup(t, 128<<20, "pvcreate {}", "vgcreate -s 1M group {}",
		"lvcreate -an -Zn -L 8M -n a group", "lvcreate -an -Zn -L 16M -n b-c_d group", "lvextend -L 12M group/a",
		"lvcreate -an -Zn -L 4M -n gone group", "lvextend -L 20M group/b-c_d", "lvremove -f group/gone", "lvextend -L 30M group/a",
		"lvs --noheadings --units b --nosuffix -o lv_name,seg_start,seg_size,seg_pe_ranges,vg_extent_size --segments group",
		"pvs --noheadings --units b --nosuffix -o pe_start {}")
	volumes, err := read(t, image)
	if err != nil {
		t.Fatal(err)
	}
	var start int64
	lines := strings.Fields(said[len(said)-1]) // after warnings
	if _, err := fmt.Sscan(lines[len(lines)-1], &start); err != nil {
		t.Fatalf("%q: %v", said[len(said)-1], err)
	}
	want := map[string][]volume.Extent{}
	for line := range strings.Lines(said[len(said)-2]) {
		f := strings.Fields(line)
		if len(f) != 5 || !strings.Contains(f[3], ":") {
			continue
		}
		_, ranges, _ := strings.Cut(f[3], ":")
		var first, last, extent int64
		if _, err := fmt.Sscanf(ranges+" "+f[4], "%d-%d %d", &first, &last, &extent); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		want["group/"+f[0]] = append(want["group/"+f[0]], volume.Extent{Offset: start + first*extent, Length: (last + 1 - first) * extent})
	}
	if len(volumes) != 2 || len(want) != 2 {
		t.Fatalf("%v, should be %v", volumes, want)
	}
	for _, v := range volumes {
		if v.Why != nil || !slices.Equal(v.Parts, want[v.Name]) || len(v.Parts) < 2 {
			t.Errorf("%s: %v, %v, should be %v", v.Name, v.Parts, v.Why, want[v.Name])
		}
	}
}

// TestRing has metadata that was written so often that it wraps around.
func TestRing(t *testing.T) {
	commands := []string{"pvcreate --metadatasize 64k {}", "vgcreate -s 1M group {}", "lvcreate -an -Zn -L 8M -n a group"}
	for i := range 60 {
		commands = append(commands, fmt.Sprintf("lvrename group a%s a%s", strings.Repeat("x", i%2), strings.Repeat("x", (i+1)%2)))
	}
	image, _ := makeGroup(t, 64<<20, commands...)
	if volumes, err := read(t, image); err != nil || len(volumes) != 1 || volumes[0].Name != "group/a" {
		t.Errorf("%v, %v", volumes, err)
	}
}

func TestRefused(t *testing.T) {
	const text = `g { extent_size = 8192 physical_volumes { pv0 { id = "a-b" pe_start = 2048 } pv1 { id = "c" pe_start = 2048 } }
logical_volumes { v { status = ["READ", "VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "%s" stripes = [%s] } } } }`
	for _, c := range [][3]string{
		{"striped", `"pv0", 3`, ""}, {"mirror", `"v_mimage_0", 0`, "of kind mirror"}, {"striped", `"pv0", 3, "pv1", 0`, "in stripes"}, {"striped", `"pv1", 0`, "on several disks"},
		{"striped", `"pv0", 300000`, "damaged"},
	} {
		volumes, err := readGroup(fmt.Appendf(nil, text, c[0], c[1]), "ab", 1<<30, nil)
		if err != nil || len(volumes) != 1 {
			t.Fatalf("%v: %v, %v", c, volumes, err)
		}
		if why := fmt.Sprint(volumes[0].Why); !strings.Contains(why, c[2]) || c[2] == "" && volumes[0].Why != nil {
			t.Errorf("%v: %s", c, why)
		}
	}
	image, _ := makeGroup(t, 64<<20, "pvcreate {}")
	if volumes, err := read(t, image); len(volumes) > 0 || !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("no group: %v, %v", volumes, err)
	}
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	b[512+50]++
	if _, err := Read(bytes.NewReader(b), int64(len(b))); !errors.Is(err, volume.ErrDamaged) {
		t.Errorf("a damaged label: %v", err)
	}
	if _, err := Read(bytes.NewReader(make([]byte, 8192)), 8192); !errors.Is(err, volume.ErrUnknown) {
		t.Errorf("nothing: %v", err)
	}
}

// TestContradictions has volumes that lie where something else does, or whose
// bytes are another one's too.
func TestContradictions(t *testing.T) {
	const text = `g { extent_size = 8 physical_volumes { pv0 { id = "ab" pe_start = %d } } logical_volumes {
a { status = ["VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "striped" stripes = ["pv0", 0] } }
b { status = [] segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "striped" stripes = ["pv0", %d] } } %s } }`
	own := []volume.Extent{{Offset: 0, Length: 2048}, {Offset: 4096, Length: 1 << 20}}
	for _, c := range []struct {
		start, at int
		more      string
		says      string
	}{
		{2056, 2, "", ""}, {2056, 1, "", "two volumes"}, {8, 2, "", "two volumes"}, {1, 2, "", "two volumes"}, {2056, 2, "a { }", "cannot be read"},
		{2056, 2, `snapshot0 { status = [] segment_count = 1 segment1 { type = "snapshot" origin = "a" cow_store = "b" } }`, "with snapshots"},
	} {
		volumes, err := readGroup(fmt.Appendf(nil, text, c.start, c.at, c.more), "ab", 1<<30, own)
		if err == nil && len(volumes) == 1 {
			err = volumes[0].Why
		}
		if says := fmt.Sprint(err); !strings.Contains(says, c.says) || c.says == "" && err != nil {
			t.Errorf("%+v: %s", c, says)
		}
	}
}

// FuzzParse reads arbitrary texts as metadata: volumes lie inside, and none where
// another one does.
func FuzzParse(f *testing.F) {
	f.Add(`g { extent_size = 8192 physical_volumes { pv0 { id = "abc" pe_start = 2048 } }
logical_volumes { a { status = ["READ", "VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 2
type = "striped" stripe_count = 1 stripes = ["pv0", 3] } } } } # end`)
	f.Add(`g { extent_size = 8 physical_volumes { pv0 { id = "a-bc" pe_start = 2048 } pv1 { id = "d" pe_start = 2048 } }
logical_volumes { a { status = ["VISIBLE"] segment_count = 2 segment1 { start_extent = 0 extent_count = 2 type = "striped" stripes = ["pv0", 0] }
segment2 { start_extent = 2 extent_count = 1 type = "striped" stripes = ["pv0", 9] } }
b { status = ["VISIBLE"] segment_count = 1 segment1 { start_extent = 0 extent_count = 2 type = "striped" stripes = ["pv1", 0] } }
snapshot0 { segment_count = 1 segment1 { type = "snapshot" origin = "a" cow_store = "b" } } } }`)
	f.Fuzz(func(t *testing.T, text string) {
		const size = 1 << 30
		own := []volume.Extent{{Offset: 0, Length: 2048}, {Offset: 4096, Length: 1000 << 10}}
		var parts []volume.Extent
		fstest.Limits(t, int64(len(text)), func() {
			volumes, err := readGroup([]byte(text), "abc", size, own)
			if err != nil {
				return
			}
			parts = own
			for _, v := range volumes {
				total := int64(0)
				for _, p := range v.Parts {
					if p.Offset < 0 || p.Length <= 0 || p.End() > size {
						t.Fatalf("%v", p)
					}
					total += p.Length
				}
				if v.Why == nil && total != v.Size || v.Why != nil && len(v.Parts) > 0 {
					t.Fatalf("%s has %d bytes of %d: %v", v.Name, total, v.Size, v.Why)
				}
				parts = append(parts, v.Parts...)
			}
		})
		slices.SortFunc(parts, func(a, b volume.Extent) int { return cmp.Compare(a.Offset, b.Offset) })
		for i := 1; i < len(parts); i++ {
			if parts[i-1].End() > parts[i].Offset {
				t.Fatalf("%v and %v overlap", parts[i-1], parts[i])
			}
		}
	})
}

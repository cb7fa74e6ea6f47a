package guest

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// makeRaw makes a raw disk with data, holes and an odd size.
func makeRaw(t testing.TB, dir string, size int64) (path string, content []byte) {
	t.Helper()
	content = make([]byte, size)
	for i := int64(0); i*300_000 < size; i++ {
		if i%3 != 2 {
			copy(content[i*300_000:min(size, i*300_000+200_000)], testenv.Text(byte(i), 200_000))
		}
	}
	copy(content[size-5000:], testenv.Random(7, 5000))
	path = filepath.Join(dir, "disk.raw")
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path, content
}

// open opens the only disk of an image.
func open(t testing.TB, path string) fsmap.Guest {
	t.Helper()
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, f := range files {
			f.Close()
		}
	})
	guests, notes := Open(files)
	if len(guests) != 1 || len(notes) != 0 {
		t.Fatalf("%d disks, notes %q", len(guests), notes)
	}
	return guests[0]
}

// compare holds a disk against what is in it, and its map against the files.
func compare(t testing.TB, path string, g fsmap.Guest, content []byte) (mapped int64) {
	t.Helper()
	if g.Size() < int64(len(content)) || g.Size() > int64(len(content))+1<<20 {
		t.Fatalf("the disk has %d bytes, should have %d", g.Size(), len(content))
	}
	got := make([]byte, g.Size())
	if n, err := g.ReadAt(got, 0); err != nil || n != len(got) {
		t.Fatalf("reading: %d, %v", n, err)
	}
	if !bytes.Equal(got[:len(content)], content) || !isZero(got[len(content):]) {
		t.Error("what is read is not what is in the disk")
	}
	for _, off := range []int64{0, 1, 511, 65_535, 200_001, 1_000_003, g.Size() - 100} {
		p := make([]byte, 70_001)
		n, err := g.ReadAt(p, off)
		if want := got[off:min(off+int64(len(p)), g.Size())]; !bytes.Equal(p[:n], want) || n < len(p) && !errors.Is(err, io.EOF) || n == len(p) && err != nil {
			t.Errorf("%d bytes at %d, %v", n, off, err)
		}
	}
	files, err := disk.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	// What is mapped has the bytes of the disk, in order; what is not is zero, or
	// is packed.
	for off := int64(0); off < g.Size(); off += 333_333 {
		n := min(333_333, g.Size()-off)
		var joined []byte
		if err := g.Map(off, n, func(e fsmap.Extent) error {
			p := make([]byte, e.Length)
			if _, err := files[e.File].ReadAt(p, e.Offset); err != nil {
				return err
			}
			joined = append(joined, p...)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		mapped += int64(len(joined))
		if strip := func(p []byte) []byte { return bytes.ReplaceAll(p, []byte{0}, nil) }; len(joined) > 0 && !bytes.Contains(strip(got[off:off+n]), strip(joined)) &&
			!bytes.Equal(strip(got[off:off+n]), strip(joined)) {
			t.Errorf("%d bytes that %d at %d are mapped to are others", len(joined), n, off)
		}
	}
	return mapped
}

func TestContainers(t *testing.T) {
	testenv.Need(t, "qemu-img")
	for name, options := range map[string][]string{
		"raw":                    {"raw"},
		"VHD":                    {"vpc"},
		"VHD, exact":             {"vpc", "-o", "force_size=on"},
		"VHD, fixed":             {"vpc", "-o", "subformat=fixed"},
		"VHDX":                   {"vhdx"},
		"VHDX, 1 MiB":            {"vhdx", "-o", "block_size=1M"},
		"VHDX, fixed":            {"vhdx", "-o", "subformat=fixed"},
		"qcow2":                  {"qcow2"},
		"qcow2 of old":           {"qcow2", "-o", "compat=0.10"},
		"qcow2, 512 bytes":       {"qcow2", "-o", "cluster_size=512"},
		"qcow2, 2 MiB":           {"qcow2", "-o", "cluster_size=2M"},
		"qcow2, preallocated":    {"qcow2", "-o", "preallocation=full"},
		"qcow2, compressed":      {"qcow2", "-c"},
		"qcow2, zstd":            {"qcow2", "-c", "-o", "compression_type=zstd"},
		"VMDK":                   {"vmdk"},
		"VMDK, zeroed grains":    {"vmdk", "-o", "zeroed_grain=on"},
		"VMDK, flat":             {"vmdk", "-o", "subformat=monolithicFlat"},
		"VMDK, split":            {"vmdk", "-o", "subformat=twoGbMaxExtentSparse"},
		"VMDK, split, flat":      {"vmdk", "-o", "subformat=twoGbMaxExtentFlat"},
		"VMDK, stream-optimized": {"vmdk", "-o", "subformat=streamOptimized"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw, content := makeRaw(t, t.TempDir(), 7<<20+512*3)
			suffix := map[string]string{"vpc": "vhd"}[options[0]]
			if suffix == "" {
				suffix = options[0]
			}
			out := filepath.Join(dir, "disk."+suffix)
			fstest.Run(t, append(append([]string{"qemu-img", "convert", "-f", "raw", "-O"}, options...), raw, out)...)
			g := open(t, dir)
			mapped := compare(t, dir, g, content)
			packed := strings.Contains(fmt.Sprint(options), "-c") || strings.Contains(name, "stream")
			if options[0] == "vhdx" { // of which qemu-img does not tell
				if mapped == 0 {
					t.Error("nothing is mapped")
				}
				return
			}
			if want := fromQEMU(t, options[0], out); mapped != want && !packed || packed && mapped != 0 {
				t.Errorf("%d bytes are mapped, qemu-img says %d", mapped, want)
			}
		})
	}
}

// fromQEMU returns how many bytes of a disk have a place in its files.
func fromQEMU(t *testing.T, format, image string) (n int64) {
	var list []struct {
		Length int64
		Data   bool
		Zero   bool
		Offset *int64
	}
	if err := json.Unmarshal([]byte(fstest.Run(t, "qemu-img", "map", "--output=json", "-f", format, image)), &list); err != nil {
		t.Fatal(err)
	}
	for _, e := range list {
		if e.Offset != nil && (e.Data || format == "raw" || !e.Zero) {
			n += e.Length
		} else if e.Offset != nil && e.Zero {
			n += e.Length // allocated, and zero where the file has a hole
		}
	}
	return n
}

// TestChanged has disks that were changed after they were made: snapshots, other
// sizes, more data.
func TestChanged(t *testing.T) {
	testenv.Need(t, "qemu-img", "qemu-io")
	for _, format := range []string{"qcow2", "vhdx", "vpc", "vmdk"} {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			raw, content := makeRaw(t, t.TempDir(), 8<<20)
			out := filepath.Join(dir, "disk."+strings.Replace(format, "vpc", "vhd", 1))
			options := []string{}
			if format == "vpc" {
				options = []string{"-o", "force_size=on"}
			}
			fstest.Run(t, append(append([]string{"qemu-img", "convert", "-f", "raw", "-O", format}, options...), raw, out)...)
			if format == "qcow2" {
				fstest.Run(t, "qemu-img", "snapshot", "-c", "before", out)
				fstest.Run(t, "qemu-img", "resize", out, "+3M")
				content = append(content, make([]byte, 3<<20)...)
			}
			for i, at := range []int{100_000, 2_500_000, 5_000_000} {
				fstest.Run(t, "qemu-io", "-f", format, "-c", fmt.Sprintf("write -P %d %d 70000", i+1, at&^511), out)
				copy(content[at&^511:], bytes.Repeat([]byte{byte(i + 1)}, 70000))
			}
			g := open(t, dir)
			compare(t, dir, g, content)
		})
	}
}

func TestRefused(t *testing.T) {
	testenv.Need(t, "qemu-img")
	for name, c := range map[string]struct {
		make func(t *testing.T, dir, raw string)
		want error
		says string
	}{
		"backing file": {func(t *testing.T, dir, raw string) {
			fstest.Run(t, "qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", raw, filepath.Join(dir, "d.qcow2"))
		}, volume.ErrRefused, `disk.raw": convert it`},
		"encrypted qcow2": {func(t *testing.T, dir, _ string) {
			fstest.Run(t, "qemu-img", "create", "-f", "qcow2", "--object", "secret,id=s,data=123456", "-o", "encrypt.format=aes,encrypt.key-secret=s", filepath.Join(dir, "d.qcow2"), "4M")
		}, volume.ErrRefused, "encrypted"},
		"subclusters": {func(t *testing.T, dir, _ string) {
			fstest.Run(t, "qemu-img", "create", "-f", "qcow2", "-o", "extended_l2=on", filepath.Join(dir, "d.qcow2"), "4M")
		}, volume.ErrRefused, "extended_l2"},
		"external data": {func(t *testing.T, dir, _ string) {
			fstest.Run(t, "qemu-img", "create", "-f", "qcow2", "-o", "data_file="+filepath.Join(t.TempDir(), "data"), filepath.Join(dir, "d.qcow2"), "4M")
		}, volume.ErrRefused, "another file"},
		"VMDK with parent": {func(t *testing.T, dir, raw string) {
			base := filepath.Join(t.TempDir(), "base.vmdk")
			fstest.Run(t, "qemu-img", "convert", "-O", "vmdk", raw, base)
			fstest.Run(t, "qemu-img", "create", "-f", "vmdk", "-F", "vmdk", "-b", base, filepath.Join(dir, "d.vmdk"))
		}, volume.ErrRefused, "snapshots"},
		"VMDK without extents": {func(t *testing.T, dir, raw string) {
			out := filepath.Join(dir, "d.vmdk")
			fstest.Run(t, "qemu-img", "convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", raw, out)
			fstest.Run(t, "rm", filepath.Join(dir, "d-flat.vmdk"))
		}, volume.ErrRefused, `"d-flat.vmdk" that is not in the image`},
		"differencing VHD": {func(t *testing.T, dir, _ string) { differencing(t, filepath.Join(dir, "d.vhd")) }, volume.ErrRefused, `"basis.vhd": merge`},
		"cut VHD": {func(t *testing.T, dir, raw string) {
			out := filepath.Join(dir, "d.vhd")
			fstest.Run(t, "qemu-img", "convert", "-O", "vpc", "-o", "subformat=fixed", raw, out)
			fstest.Run(t, "truncate", "-s", "-512", out)
		}, volume.ErrDamaged, "without its footer"},
		"cut VHDX": {func(t *testing.T, dir, raw string) {
			out := filepath.Join(dir, "d.vhdx")
			fstest.Run(t, "qemu-img", "convert", "-O", "vhdx", raw, out)
			fstest.Run(t, "truncate", "-s", "100K", out)
		}, volume.ErrDamaged, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			raw, _ := makeRaw(t, t.TempDir(), 4<<20)
			c.make(t, dir, raw)
			files, err := disk.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			o := opener{files: files, parts: map[int]bool{}}
			if _, err := o.open(0); !errors.Is(err, c.want) || !strings.Contains(fmt.Sprint(err), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// differencing makes a VHD that depends on another: qemu-img cannot, but its
// dynamic ones differ in a number, a name and two sums alone.
func differencing(t *testing.T, path string) {
	t.Helper()
	fstest.Run(t, "qemu-img", "create", "-f", "vpc", path, "4M")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	resum := func(p []byte, at int) {
		clear(p[at : at+4])
		sum := uint32(0)
		for _, c := range p {
			sum += uint32(c)
		}
		sum = ^sum
		copy(p[at:], []byte{byte(sum >> 24), byte(sum >> 16), byte(sum >> 8), byte(sum)})
	}
	for _, foot := range [][]byte{b[:512], b[len(b)-512:]} {
		foot[63] = vhdDifferencing
		resum(foot, 64)
	}
	for i, c := range "basis.vhd" {
		b[512+64+2*i+1] = byte(c)
	}
	resum(b[512:512+1024], 36)
	if err := os.WriteFile(path, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestLarge opens disks of many tebibytes, whose tables are not read at once.
func TestLarge(t *testing.T) {
	testenv.Need(t, "qemu-img", "qemu-io")
	for _, c := range [][]string{{"qcow2", "256T"}, {"vhdx", "60T"}, {"vpc", "2000G"}, {"vmdk", "10T"}} {
		t.Run(c[0], func(t *testing.T) {
			dir := t.TempDir()
			out := filepath.Join(dir, "disk."+strings.Replace(c[0], "vpc", "vhd", 1))
			options := []string{"-f", c[0]}
			if c[0] == "qcow2" {
				options = append(options, "-o", "cluster_size=2M")
			}
			fstest.Run(t, append(append([]string{"qemu-img", "create"}, options...), out, c[1])...)
			fstest.Run(t, "qemu-io", "-f", c[0], "-c", "write -P 1 1900G 64k", out)
			g := open(t, dir)
			p := make([]byte, 128<<10)
			if _, err := g.ReadAt(p, 1900<<30); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(p[:64<<10], bytes.Repeat([]byte{1}, 64<<10)) || !isZero(p[64<<10:]) {
				t.Error("other bytes than were written")
			}
		})
	}
}

// TestContradictions has disks of which two blocks are in one place, or one where
// a table is: what is free in one would be taken from the other.
func TestContradictions(t *testing.T) {
	testenv.Need(t, "qemu-img")
	for _, format := range []string{"qcow2", "vhdx", "vpc", "vmdk"} {
		t.Run(format, func(t *testing.T) {
			dir := t.TempDir()
			raw, _ := makeRaw(t, dir, 48<<20)
			out := filepath.Join(dir, "disk."+strings.Replace(format, "vpc", "vhd", 1))
			fstest.Run(t, "qemu-img", "convert", "-f", "raw", "-O", format, raw, out)
			open := func() (*guest, error) {
				files, err := disk.Open(out)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { files[0].Close() })
				o := opener{files: files, parts: map[int]bool{}}
				return o.open(0)
			}
			g, err := open()
			if err != nil {
				t.Fatal(err)
			}
			at, n := int64(0), int64(4) // where the places of blocks are, and bytes of each
			table := []byte{0, 0, 0, 1}
			switch l := g.layout.(type) {
			case *qcow2:
				p := make([]byte, 8)
				if _, err := g.files[0].ReadAt(p, l.l1); err != nil {
					t.Fatal(err)
				}
				at, n, table = int64(binary.BigEndian.Uint64(p)&qcowOffset), 8, p
			case *vhdx:
				at, n, table = l.table, 8, []byte{vhdxPresent, 0, 0x10, 0, 0, 0, 0, 0}
			case *vhd:
				at = l.table
			case *joined:
				v := l.parts[0].layout.(*vmdk)
				p := make([]byte, 4)
				if _, err := g.files[0].ReadAt(p, v.directory); err != nil {
					t.Fatal(err)
				}
				at, table = int64(binary.LittleEndian.Uint32(p))*sectorSize, p
			}
			b, err := os.ReadFile(out)
			if err != nil {
				t.Fatal(err)
			}
			for what, entry := range map[string][]byte{"a block": b[at : at+n], "a table": table} {
				c := bytes.Clone(b)
				copy(c[at+n:at+2*n], entry)
				if err := os.WriteFile(out, c, 0o644); err != nil {
					t.Fatal(err)
				}
				if _, err := open(); !errors.Is(err, volume.ErrDamaged) {
					t.Errorf("in the place of %s: error %v", what, err)
				}
			}
		})
	}
}

// TestSnapshot has a disk that shares clusters with a snapshot of it: they are
// read, and not said to be the disk's, of which they could be left out.
func TestSnapshot(t *testing.T) {
	testenv.Need(t, "qemu-img", "qemu-io")
	dir := t.TempDir()
	raw, content := makeRaw(t, t.TempDir(), 8<<20)
	out := filepath.Join(dir, "disk.qcow2")
	fstest.Run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, out)
	fstest.Run(t, "qemu-img", "snapshot", "-c", "before", out)
	if n := compare(t, dir, open(t, dir), content); n != 0 {
		t.Errorf("%d bytes are mapped", n)
	}
	fstest.Run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 128k", out)
	copy(content[1<<20:], bytes.Repeat([]byte{7}, 128<<10))
	if n := compare(t, dir, open(t, dir), content); n != 128<<10 {
		t.Errorf("%d bytes are mapped", n)
	}
}

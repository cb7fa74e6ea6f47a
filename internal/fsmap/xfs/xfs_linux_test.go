package xfs

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// freeBlocks returns what xfs_db says is free. Of each group it names the blocks
// first that are set aside for the trees of free space.
func freeBlocks(t *testing.T, image string) (list []volume.Extent) {
	number := func(where, what string) int64 {
		t.Helper()
		out := fstest.Run(t, "xfs_db", "-r", "-c", where, "-c", "print "+what, image)
		_, v, _ := strings.Cut(strings.TrimSpace(out), " = ")
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	block, perGroup := number("sb 0", "blocksize"), number("sb 0", "agblocks")
	aside := map[int64]int64{}
	for i := range number("sb 0", "agcount") {
		aside[i] = number(fmt.Sprint("agf ", i), "flcount")
	}
	for line := range strings.Lines(fstest.Run(t, "xfs_db", "-r", "-c", "freesp -d", image)) {
		f := strings.Fields(line)
		if len(f) != 3 || f[0] == "from" || f[0] == "agno" {
			continue
		}
		var n [3]int64
		for i := range n {
			var err error
			if n[i], err = strconv.ParseInt(f[i], 10, 64); err != nil {
				t.Fatal(line)
			}
		}
		if aside[n[0]] > 0 {
			aside[n[0]]--
		} else if n[2] > 0 {
			list = append(list, volume.Extent{Offset: (n[0]*perGroup + n[1]) * block, Length: n[2] * block})
		}
	}
	slices.SortFunc(list, func(a, b volume.Extent) int { return int(a.Offset - b.Offset) })
	return list
}

func makeImage(t *testing.T, options ...string) string {
	t.Helper()
	testenv.Need(t, "xfs_db")
	return fstest.Make(t, 320<<20, append([]string{"mkfs.xfs", "-q", "-f"}, options...)...)
}

func TestVolumes(t *testing.T) {
	for name, options := range map[string][]string{
		"default":       nil,
		"1 KiB":         {"-b", "size=1024"},
		"no reflinks":   {"-m", "reflink=0"},
		"reverse map":   {"-m", "rmapbt=1"},
		"dense inodes":  {"-i", "sparse=0"},
		"large inodes":  {"-i", "size=2048"},
		"no finobt":     {"-m", "finobt=0,reflink=0"},
		"large folders": {"-n", "size=65536"},
		"large sectors": {"-s", "size=4096"},
		"old times":     {"-m", "bigtime=0,inobtcount=0"},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, options...)
			fstest.Mounted(t, image, func(dir string) { fstest.Fill(t, dir, 600) })
			fstest.Compare(t, image, Open, freeBlocks(t, image))
		})
	}
}

// TestVersion4 has volumes that not every Linux mounts any more.
func TestVersion4(t *testing.T) {
	for name, options := range map[string][]string{
		"4 KiB":     {"-m", "crc=0"},
		"512 bytes": {"-m", "crc=0", "-b", "size=512"},
		"attr 1":    {"-m", "crc=0", "-i", "attr=1"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			content := map[int64][]byte{}
			proto := "/dev/null\n0 0\nd--755 0 0\n"
			for i := range 40 {
				p := testenv.Random(byte(i), 1+i*7777)
				content[int64(len(p))] = p
				path := filepath.Join(dir, strconv.Itoa(i))
				if err := os.WriteFile(path, p, 0o644); err != nil {
					t.Fatal(err)
				}
				proto += fmt.Sprintf("file%d ---644 0 0 %s\n", i, path)
			}
			list := filepath.Join(dir, "proto")
			if err := os.WriteFile(list, []byte(proto+"$\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			image := makeImage(t, append([]string{"-p", list}, options...)...)
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			v, err := Open(bytes.NewReader(b), int64(len(b)))
			if err != nil {
				t.Fatal(err)
			}
			if err := v.Files(t.Context(), func(f *volume.File) error {
				var got []byte
				for _, e := range f.Extents {
					got = append(got, b[e.Offset:e.End()]...)
				}
				if !bytes.Equal(got, content[f.Size]) {
					t.Errorf("a file of %d bytes has %d others", f.Size, len(got))
				}
				delete(content, f.Size)
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			if len(content) > 0 {
				t.Errorf("%d files were not found", len(content))
			}
			var free []volume.Extent
			if err := v.Free(t.Context(), func(e volume.Extent) error { free = append(free, e); return nil }); err != nil {
				t.Fatal(err)
			}
			if want := fstest.Join(freeBlocks(t, image)); !slices.Equal(free, want) {
				t.Errorf("%v is free, should be %v", free, want)
			}
		})
	}
}

// TestFragments has a file in so many pieces that its extents are in a tree.
func TestFragments(t *testing.T) {
	image := makeImage(t)
	fstest.Mounted(t, image, func(dir string) {
		f, err := os.Create(filepath.Join(dir, "file"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		for i := range int64(3000) {
			if _, err := f.WriteAt(testenv.Random(byte(i), 4096), i*12288); err != nil {
				t.Fatal(err)
			}
		}
	})
	fstest.Compare(t, image, Open, freeBlocks(t, image))
}

// TestShared has files that share their bytes.
func TestShared(t *testing.T) {
	image := makeImage(t)
	fstest.Mounted(t, image, func(dir string) {
		fstest.Fill(t, dir, 100)
		fstest.Run(t, "cp", "--reflink=always", filepath.Join(dir, "large"), filepath.Join(dir, "copy"))
	})
	fstest.Compare(t, image, Open, freeBlocks(t, image))
}

func TestRefused(t *testing.T) {
	set := func(what, value string) func(t *testing.T, image string) {
		return func(t *testing.T, image string) {
			fstest.Run(t, "xfs_db", "-x", "-c", "sb 0", "-c", "write -d "+what+" "+value, image)
		}
	}
	for name, c := range map[string]struct {
		change func(t *testing.T, image string)
		want   error
		says   string
	}{
		// A copy of a mounted volume is one of a machine that was not shut down.
		"mounted": {func(t *testing.T, image string) {
			fstest.Mounted(t, image, func(dir string) {
				fstest.Fill(t, dir, 20)
				fstest.Run(t, "sync", "-f", dir)
				fstest.Run(t, "cp", image, image+".copy")
			})
			fstest.Run(t, "mv", image+".copy", image)
		}, volume.ErrRefused, "was not unmounted"},
		"unknown feature": {set("features_incompat", "0x4000"), volume.ErrRefused, "not known here (0x4000)"},
		"unknown version": {set("versionnum", "0xb4a7"), volume.ErrRefused, "version 7"},
		"half made":       {set("inprogress", "1"), volume.ErrRefused, "xfs_repair"},
		"checksum": {func(t *testing.T, image string) {
			change(t, image, 48)
		}, volume.ErrDamaged, "checksum"},
		"none": {func(t *testing.T, image string) { change(t, image, 0) }, volume.ErrUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t)
			c.change(t, image)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, err = Open(f, 320<<20)
			if err == nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// change changes a byte.
func change(t *testing.T, image string, at int64) {
	t.Helper()
	f, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{0xa5}, at); err != nil {
		t.Fatal(err)
	}
}

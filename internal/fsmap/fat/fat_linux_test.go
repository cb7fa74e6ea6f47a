package fat

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// fill makes a tree of files.
func fill(t testing.TB, dir string, files int) {
	t.Helper()
	for i := range files {
		path := filepath.Join(dir, fmt.Sprintf("folder %d", i%5), "Sub", fmt.Sprintf("a long name of file ä%d.text", i))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, testenv.Random(byte(i), i*i*37%40_000), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "LARGE.BIN"), testenv.Random(99, 300_123), 0o644); err != nil {
		t.Fatal(err)
	}
}

// compare holds what is read of a volume against the files that were put there,
// and returns the number of free clusters.
func compare(t *testing.T, image, tree string) (free, clusters int64) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	names := map[uint64]string{}
	if err := v.(volume.Namer).Names(t.Context(), func(id uint64, path string) error { names[id] = path; return nil }); err != nil {
		t.Fatal(err)
	}
	content := map[string][]byte{}
	owner := map[int64]string{}
	cluster := v.(*fileSystem).cluster
	if err := v.Files(t.Context(), func(f *volume.File) error {
		var p []byte
		for _, e := range f.Extents {
			p = append(p, b[e.Offset:e.End()]...)
			for at := e.Offset; at < e.End(); at += cluster {
				owner[at] = names[f.ID]
			}
		}
		if int64(len(p)) != f.Size {
			t.Errorf("%s: %d of %d bytes", names[f.ID], len(p), f.Size)
		}
		content[names[f.ID]] = p
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(tree, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, _ := filepath.Rel(tree, p)
		want, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		if !bytes.Equal(content[rel], want) {
			t.Errorf("%s has %d bytes that are not its own", rel, len(content[rel]))
		}
		delete(content, rel)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range content {
		t.Errorf("there is no %s", name)
	}
	if err := v.Free(t.Context(), func(e volume.Extent) error {
		for at := e.Offset; at < e.End(); at += cluster {
			if owner[at] != "" {
				t.Errorf("%d is free, and of %s", at, owner[at])
			}
			free++
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return free, v.(*fileSystem).clusters
}

var clustersLine = regexp.MustCompile(`(\d+)/(\d+) clusters`)

func TestFAT(t *testing.T) {
	testenv.Need(t, "mkfs.fat", "fsck.fat", "mcopy", "mdel", "mdeltree")
	for name, c := range map[string]struct {
		size    int64
		options []string
	}{
		"FAT12":            {4 << 20, []string{"-F", "12"}},
		"FAT16":            {32 << 20, []string{"-F", "16"}},
		"FAT32":            {64 << 20, []string{"-F", "32"}},
		"FAT32, 4 KiB":     {300 << 20, []string{"-F", "32", "-S", "4096", "-s", "1"}},
		"FAT16, one table": {32 << 20, []string{"-F", "16", "-f", "1"}},
		"FAT32, 32 KiB":    {2200 << 20, []string{"-F", "32", "-s", "64"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("MTOOLS_SKIP_CHECK", "1")
			image := fstest.Make(t, c.size, append([]string{"mkfs.fat"}, c.options...)...)
			first, tree := t.TempDir(), t.TempDir()
			fill(t, first, 60)
			fill(t, tree, 35)
			list := func(dir string) (paths []string) {
				entries, err := os.ReadDir(dir)
				if err != nil {
					t.Fatal(err)
				}
				for _, e := range entries {
					paths = append(paths, filepath.Join(dir, e.Name()))
				}
				return paths
			}
			// Files come and go: what stays lies in pieces.
			fstest.Run(t, append(append([]string{"mcopy", "-s", "-i", image}, list(first)...), "::")...)
			fstest.Run(t, "mdeltree", "-i", image, "::folder 1", "::folder 3")
			fstest.Run(t, append(append([]string{"mcopy", "-s", "-o", "-D", "o", "-i", image}, list(tree)...), "::")...)
			fstest.Run(t, "mdeltree", "-i", image, "::folder 0", "::folder 2", "::folder 4")
			for _, f := range []string{"0", "2", "4"} {
				fstest.Run(t, "mcopy", "-s", "-i", image, filepath.Join(tree, "folder "+f), "::")
			}
			free, clusters := compare(t, image, tree)
			m := clustersLine.FindStringSubmatch(fstest.Run(t, "fsck.fat", "-n", image))
			if m == nil || m[1] != strconv.FormatInt(clusters-free, 10) || m[2] != strconv.FormatInt(clusters, 10) {
				t.Errorf("%d of %d clusters are free, fsck.fat says %q are used", free, clusters, m)
			}
		})
	}
}

// mountedExFAT calls fill with a volume mounted, and unmounts it.
func mountedExFAT(t testing.TB, image string, fill func(mnt string)) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "mount.exfat-fuse", "losetup", "umount")
	fstest.OwnMounts(t)
	mnt := t.TempDir()
	device := strings.TrimSpace(fstest.Run(t, "losetup", "--find", "--show", image))
	defer func() {
		fstest.Run(t, "losetup", "--detach", device)
		// The program behind it writes its last after the volume is unmounted.
		for end := time.Now().Add(time.Minute); fstest.Run(t, "losetup", "--associated", image) != ""; time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the volume is still in use")
			}
		}
	}()
	fstest.Run(t, "mount.exfat-fuse", device, mnt)
	defer fstest.Run(t, "umount", mnt)
	fill(mnt)
}

func TestExFAT(t *testing.T) {
	testenv.Need(t, "mkfs.exfat", "fsck.exfat", "dump.exfat")
	for name, options := range map[string][]string{
		"default":   nil,
		"512 bytes": {"-c", "512"},
		"64 KiB":    {"-c", "64K"},
	} {
		t.Run(name, func(t *testing.T) {
			image := fstest.Make(t, 64<<20, append([]string{"mkfs.exfat"}, options...)...)
			tree := t.TempDir()
			fill(t, tree, 35)
			mountedExFAT(t, image, func(mnt string) {
				fill(t, mnt, 60)
				fstest.Run(t, "rm", "-r", filepath.Join(mnt, "folder 1"), filepath.Join(mnt, "folder 3"))
				fstest.Run(t, "cp", "-r", tree+"/.", mnt)
				fstest.Run(t, "rm", "-r", filepath.Join(mnt, "folder 0"), filepath.Join(mnt, "folder 2"), filepath.Join(mnt, "folder 4"))
				fstest.Run(t, "cp", "-r", tree+"/.", mnt)
			})
			free, clusters := compare(t, image, tree)
			fstest.Run(t, "fsck.exfat", "-n", image)
			out := fstest.Run(t, "dump.exfat", image)
			if want := fmt.Sprintf("Free Clusters: %*d\n", 0, free); !strings.Contains(regexp.MustCompile(` +`).ReplaceAllString(strings.ReplaceAll(out, "\t", " "), " "), want) {
				t.Errorf("%d of %d clusters are free, dump.exfat says:\n%s", free, clusters, out)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	testenv.Need(t, "mkfs.fat", "mkfs.exfat")
	fat32 := []string{"mkfs.fat", "-F", "32"}
	for name, c := range map[string]struct {
		mkfs []string
		at   int64
		to   byte
		want error
		says string
	}{
		"mounted":       {fat32, 0x41, 1, volume.ErrRefused, "was not unmounted"},
		"errors":        {fat32, 0x41, 2, volume.ErrRefused, "has errors"},
		"dirty":         {fat32, 32*512 + 7, 0x07, volume.ErrRefused, "was not unmounted"},
		"copies":        {fat32, 32*512 + 400, 1, volume.ErrDamaged, "copies"},
		"version":       {fat32, 42, 1, volume.ErrRefused, "version"},
		"sectors":       {fat32, 35, 0xff, volume.ErrDamaged, ""},
		"none":          {fat32, 510, 0, volume.ErrUnknown, ""},
		"exFAT mounted": {[]string{"mkfs.exfat"}, 106, 2, volume.ErrRefused, "was not unmounted"},
		"exFAT broken":  {[]string{"mkfs.exfat"}, 106, 4, volume.ErrRefused, "has errors"},
		"exFAT sum":     {[]string{"mkfs.exfat"}, 100, 9, volume.ErrDamaged, "checksum"},
	} {
		t.Run(name, func(t *testing.T) {
			image := fstest.Make(t, 64<<20, c.mkfs...)
			f, err := os.OpenFile(image, os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err := f.WriteAt([]byte{c.to}, c.at); err != nil {
				t.Fatal(err)
			}
			if _, err = Open(f, 64<<20); err == nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

package ext

import (
	"bytes"
	"cmp"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

var (
	freeLine  = regexp.MustCompile(`(?m)^  Free blocks: (.*)$`)
	blockSize = regexp.MustCompile(`(?m)^Block size: +(\d+)$`)
)

// freeBlocks returns what dumpe2fs says is free.
func freeBlocks(t *testing.T, image string) (list []volume.Extent) {
	out := fstest.Run(t, "dumpe2fs", image)
	block, err := strconv.ParseInt(blockSize.FindStringSubmatch(out)[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range freeLine.FindAllStringSubmatch(out, -1) {
		for r := range strings.SplitSeq(m[1], ", ") {
			from, to, ok := strings.Cut(strings.TrimSpace(r), "-")
			if from == "" {
				continue
			}
			if !ok {
				to = from
			}
			a, err1 := strconv.ParseInt(from, 10, 64)
			z, err2 := strconv.ParseInt(to, 10, 64)
			if err1 != nil || err2 != nil {
				t.Fatalf("%q", r)
			}
			list = append(list, volume.Extent{Offset: a * block, Length: (z + 1 - a) * block})
		}
	}
	return list
}

func makeImage(t *testing.T, size int64, options ...string) string {
	t.Helper()
	testenv.Need(t, "dumpe2fs")
	return fstest.Make(t, size, append([]string{"mkfs.ext4", "-q", "-F"}, options...)...)
}

func TestVolumes(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad")
	if err := os.WriteFile(bad, []byte("9000\n9001\n12345\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, options := range map[string][]string{
		"ext4":          nil,
		"1 KiB":         {"-b", "1024"},
		"2 KiB":         {"-b", "2048"},
		"ext3":          {"-t", "ext3"},
		"ext2":          {"-t", "ext2"},
		"ext2, 1 KiB":   {"-t", "ext2", "-b", "1024"},
		"no checksums":  {"-O", "^metadata_csum,uninit_bg"},
		"32 bits":       {"-O", "^64bit"},
		"inline":        {"-O", "inline_data"},
		"meta_bg":       {"-O", "meta_bg,^resize_inode", "-b", "1024"},
		"sparse_super2": {"-O", "sparse_super2,^resize_inode"},
		"no flex_bg":    {"-O", "^flex_bg", "-b", "1024"},
		"128 bytes":     {"-I", "128"},
		"mmp":           {"-O", "mmp"},
		"orphan file":   {"-O", "orphan_file"},
		"bad blocks":    {"-b", "4096", "-l", bad},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, 64<<20, options...)
			fstest.Mounted(t, image, func(dir string) { fstest.Fill(t, dir, 400) })
			fstest.Compare(t, image, Open, freeBlocks(t, image))
		})
	}
}

// TestResized has a volume that became larger, and then smaller.
func TestResized(t *testing.T) {
	testenv.Need(t, "resize2fs", "e2fsck")
	image := makeImage(t, 256<<20, "-b", "1024")
	fstest.Run(t, "resize2fs", image, "40M")
	fstest.Mounted(t, image, func(dir string) { fstest.Fill(t, dir, 400) })
	for _, size := range []string{"250M", "60M"} {
		fstest.Run(t, "e2fsck", "-f", "-p", image)
		fstest.Run(t, "resize2fs", image, size)
		fstest.Compare(t, image, Open, freeBlocks(t, image))
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, image string)
		want   error
		says   string
	}{
		"journal": {func(t *testing.T, image string) {
			fstest.Run(t, "debugfs", "-w", "-R", "feature needs_recovery", image)
		}, volume.ErrRefused, "was not unmounted"},
		"errors":   {func(t *testing.T, image string) { fstest.Run(t, "debugfs", "-w", "-R", "ssv state 2", image) }, volume.ErrRefused, "unmounted"},
		"clusters": {func(t *testing.T, image string) { fstest.Run(t, "mkfs.ext4", "-q", "-F", "-O", "bigalloc", image) }, volume.ErrRefused, "bigalloc"},
		"unknown":  {func(t *testing.T, image string) { fstest.Run(t, "debugfs", "-w", "-R", "feature FEATURE_I30", image) }, volume.ErrRefused, "not known here"},
		"checksum": {func(t *testing.T, image string) {
			fstest.Run(t, "dd", "if=/dev/urandom", "of="+image, "bs=1", "count=4", "seek=1100", "conv=notrunc")
		}, nil, ""},
		"none": {func(t *testing.T, image string) {
			fstest.Run(t, "dd", "if=/dev/zero", "of="+image, "bs=4k", "count=1", "conv=notrunc")
		}, volume.ErrUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, 8<<20)
			c.change(t, image)
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			_, err = Open(f, 8<<20)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

// TestContradictions has blocks that are in use, and free in the bitmap.
func TestContradictions(t *testing.T) {
	const last = `(\d+) *\n$`
	for name, c := range map[string]struct {
		command, pattern string // of debugfs, to find the block that is freed
	}{
		"no change":    {},
		"file":         {"blocks /folder/file", last},
		"map of it":    {"stat /folder/file", `\(IND\):(\d+)`},
		"folder":       {"blocks /folder", last},
		"link":         {"blocks /link", last},
		"attributes":   {"stat /attributes", `File ACL: (\d+)`},
		"journal":      {"blocks <8>", last},
		"resize inode": {"blocks <7>", last},
		"descriptors":  {"stats", `()`}, // they are in block 1
	} {
		t.Run(name, func(t *testing.T) {
			tree := t.TempDir()
			if err := os.Mkdir(filepath.Join(tree, "folder"), 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range []string{"folder/file", "attributes"} {
				if err := os.WriteFile(filepath.Join(tree, name), testenv.Random(1, 300_000), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := syscall.Setxattr(filepath.Join(tree, "attributes"), "user.a", testenv.Random(2, 2000), 0); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(strings.Repeat("long/", 50), filepath.Join(tree, "link")); err != nil {
				t.Fatal(err)
			}
			image := makeImage(t, 8<<20, "-t", "ext3", "-b", "4096", "-d", tree)
			if c.command != "" {
				m := regexp.MustCompile(c.pattern).FindStringSubmatch(fstest.Run(t, "debugfs", "-R", c.command, image))
				if m == nil {
					t.Fatal("debugfs does not name the block")
				}
				fstest.Run(t, "debugfs", "-w", "-R", "freeb "+cmp.Or(m[1], "1"), image)
			}
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			v, err := Open(bytes.NewReader(b), int64(len(b)))
			if err == nil {
				err = v.Files(t.Context(), func(*volume.File) error { return nil })
			}
			if c.command == "" && err != nil || c.command != "" && (!errors.Is(err, volume.ErrDamaged) || !strings.Contains(err.Error(), "free")) {
				t.Errorf("error %v", err)
			}
		})
	}
}

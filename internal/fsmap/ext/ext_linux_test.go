package ext

import (
	"errors"
	"os"
	"regexp"
	"strconv"
	"strings"
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
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, 64<<20, options...)
			fstest.Mounted(t, image, func(dir string) { fstest.Fill(t, dir, 400) })
			fstest.Compare(t, image, Open, freeBlocks(t, image))
		})
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

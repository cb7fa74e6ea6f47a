package ext

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

func run(t *testing.T, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// mounted calls fill with the volume mounted, and unmounts it.
func mounted(t *testing.T, image string, fill func(dir string)) {
	t.Helper()
	dir := t.TempDir()
	run(t, "mount", "-o", "loop", image, dir)
	done := false
	unmount := func() {
		if !done {
			done = true
			run(t, "umount", dir)
		}
	}
	t.Cleanup(unmount)
	fill(dir)
	unmount()
}

// fill makes files of all kinds and sizes, in fragments.
func fill(t *testing.T, dir string, files int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	name := func(i int) string { return filepath.Join(dir, fmt.Sprintf("d%d", i%7), fmt.Sprintf("file %d", i)) }
	for i := range files {
		must(os.MkdirAll(filepath.Dir(name(i)), 0o755))
		must(os.WriteFile(name(i), testenv.Random(byte(i), 1+i*977%30_000), 0o644))
	}
	for i := 0; i < files; i += 2 {
		must(os.Remove(name(i)))
	}
	must(os.WriteFile(filepath.Join(dir, "large"), testenv.Random(1, 5<<20+123), 0o644)) // in what the others left
	must(os.WriteFile(filepath.Join(dir, "empty"), nil, 0o644))
	must(os.WriteFile(filepath.Join(dir, "tiny"), []byte("tiny"), 0o644))
	must(os.Symlink(strings.Repeat("long/", 50), filepath.Join(dir, "link")))
	must(os.Link(name(1), filepath.Join(dir, "hard link")))
	f, err := os.Create(filepath.Join(dir, "sparse"))
	must(err)
	for _, at := range []int64{0, 100_000, 9 << 20} {
		_, err = f.WriteAt(testenv.Random(byte(at), 10_000), at)
		must(err)
	}
	must(f.Truncate(20 << 20))
	must(f.Close())
	f, err = os.Create(filepath.Join(dir, "allocated"))
	must(err)
	if err := syscall.Fallocate(int(f.Fd()), 0, 0, 1<<20); err == nil {
		_, err = f.WriteAt(testenv.Random(77, 100_000), 50_000)
		must(err)
	} else if !errors.Is(err, syscall.EOPNOTSUPP) {
		t.Fatal(err)
	}
	must(f.Close())
}

// compare holds what is read against the files as the system shows them, and
// against what dumpe2fs says is free.
func compare(t *testing.T, image string) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	found := map[uint64]*volume.File{}
	if err := v.Files(t.Context(), func(f *volume.File) error { found[f.ID] = f; return nil }); err != nil {
		t.Fatal(err)
	}
	seen := map[uint64]bool{}
	mounted(t, image, func(dir string) {
		err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			st, err := os.Stat(p)
			if err != nil {
				return err
			}
			id := st.Sys().(*syscall.Stat_t).Ino
			content, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			f := found[id]
			seen[id] = true
			if f == nil {
				if len(bytes.Trim(content, "\x00")) > 200 { // more than an inode holds
					t.Errorf("%s was not found", p)
				}
				return nil
			}
			// What is not stored is zero: the stored bytes in order are the content
			// without some zeros.
			var stored []byte
			for _, e := range f.Extents {
				stored = append(stored, b[e.Offset:e.End()]...)
			}
			if f.Size != int64(len(content)) || !bytes.Equal(nonZero(stored), nonZero(content)) || len(stored) > len(content) {
				t.Errorf("%s: %d bytes in %d extents of %d bytes are not its content", p, len(stored), len(f.Extents), f.Size)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	})
	for id := range found {
		if !seen[id] {
			t.Errorf("inode %d is no file", id)
		}
	}
	var got []string
	block := v.(*fileSystem).block
	if err := v.Free(t.Context(), func(e volume.Extent) error {
		for i := range e.Length / block {
			got = append(got, strconv.FormatInt(e.Offset/block+i, 10))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := freeBlocks(t, run(t, "dumpe2fs", image)); strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%d blocks are free, dumpe2fs says %d", len(got), len(want))
	}
}

func nonZero(p []byte) []byte { return bytes.ReplaceAll(p, []byte{0}, nil) }

var freeLine = regexp.MustCompile(`(?m)^  Free blocks: (.*)$`)

func freeBlocks(t *testing.T, out string) (list []string) {
	for _, m := range freeLine.FindAllStringSubmatch(out, -1) {
		for r := range strings.SplitSeq(m[1], ", ") {
			from, to, ok := strings.Cut(strings.TrimSpace(r), "-")
			if from == "" {
				continue
			}
			if !ok {
				to = from
			}
			a, err1 := strconv.Atoi(from)
			z, err2 := strconv.Atoi(to)
			if err1 != nil || err2 != nil {
				t.Fatalf("%q", r)
			}
			for ; a <= z; a++ {
				list = append(list, strconv.Itoa(a))
			}
		}
	}
	return list
}

func makeImage(t *testing.T, size int64, options ...string) string {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "mkfs.ext4", "dumpe2fs", "mount")
	image := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(image, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	run(t, append(append([]string{"mkfs.ext4", "-q", "-F"}, options...), image)...)
	return image
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
			mounted(t, image, func(dir string) { fill(t, dir, 400) })
			compare(t, image)
		})
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, image string)
		want   error
		says   string
	}{
		"journal": {func(t *testing.T, image string) { run(t, "debugfs", "-w", "-R", "feature needs_recovery", image) }, volume.ErrRefused, "was not unmounted"},
		"errors":  {func(t *testing.T, image string) { run(t, "debugfs", "-w", "-R", "ssv state 2", image) }, volume.ErrRefused, "unmounted"},
		"unknown": {func(t *testing.T, image string) { run(t, "debugfs", "-w", "-R", "feature FEATURE_I30", image) }, volume.ErrRefused, "not known here"},
		"checksum": {func(t *testing.T, image string) {
			run(t, "dd", "if=/dev/urandom", "of="+image, "bs=1", "count=4", "seek=1100", "conv=notrunc")
		}, nil, ""},
		"none": {func(t *testing.T, image string) {
			run(t, "dd", "if=/dev/zero", "of="+image, "bs=4k", "count=1", "conv=notrunc")
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

package btrfs

import (
	"bytes"
	"errors"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

const size = 256 << 20

func makeImage(t testing.TB, options ...string) string {
	t.Helper()
	testenv.Need(t, "btrfs")
	return fstest.Make(t, size, append([]string{"mkfs.btrfs", "-q"}, options...)...)
}

// check holds what is read against the files as the system shows them; writes over
// all that is said to be free, and sees that nothing is missing then. How much is in
// use must be what the superblock says.
func check(t *testing.T, image string, compressed bool) {
	t.Helper()
	b, err := os.ReadFile(image)
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	nonZero := func(p []byte) []byte { return bytes.ReplaceAll(p, []byte{0}, nil) }
	found := map[string]bool{}
	if err := v.Files(t.Context(), func(f *volume.File) error {
		var p []byte
		for _, e := range f.Extents {
			p = append(p, b[e.Offset:e.End()]...)
		}
		found[string(nonZero(p))] = true
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(found) < 100 {
		t.Errorf("%d files were found", len(found))
	}
	content := map[string][]byte{}
	fstest.Mounted(t, image, func(dir string) {
		walk(t, dir, func(path string, p []byte) {
			content[path] = p
			if len(p) > 4096 && !compressed && !found[string(nonZero(p))] {
				t.Errorf("%s of %d bytes was not found", path, len(p))
			}
		})
	})
	if b, err = os.ReadFile(image); err != nil {
		t.Fatal(err)
	}
	if v, err = Open(bytes.NewReader(b), int64(len(b))); err != nil {
		t.Fatal(err)
	}
	last := int64(-1)
	if err := v.Free(t.Context(), func(e volume.Extent) error {
		if e.Offset <= last {
			t.Errorf("%v follows %d", e, last)
		}
		last = e.End()
		for i := range b[e.Offset:e.End()] {
			b[e.Offset+int64(i)] = 0xa5
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, b, 0o644); err != nil {
		t.Fatal(err)
	}
	fstest.Run(t, "btrfs", "check", "--readonly", "--check-data-csum", image)
	fstest.Mounted(t, image, func(dir string) {
		n := 0
		walk(t, dir, func(path string, p []byte) {
			n++
			if !bytes.Equal(p, content[path]) {
				t.Errorf("%s is not what it was", path)
			}
		})
		if n != len(content) {
			t.Errorf("%d files of %d", n, len(content))
		}
	})
}

func walk(t *testing.T, dir string, yield func(path string, p []byte)) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		p, err := os.ReadFile(path)
		rel, _ := filepath.Rel(dir, path)
		yield(rel, p)
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

func TestVolumes(t *testing.T) {
	for name, options := range map[string][]string{
		"default":      nil,
		"single":       {"-m", "single", "-d", "single"},
		"dup":          {"-m", "dup", "-d", "dup"},
		"mixed":        {"--mixed"},
		"4 KiB nodes":  {"-n", "4096"},
		"64 KiB nodes": {"-n", "65536"},
		"no free tree": {"-R", "^free-space-tree"},
		"fat metadata": {"-O", "^skinny-metadata"},
		"old holes":    {"-O", "^no-holes"},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, options...)
			fstest.Mounted(t, image, func(dir string) { fstest.Fill(t, dir, 600) })
			check(t, image, false)
		})
	}
}

// TestSubvolumes has snapshots, shared files, and a subvolume that is gone.
func TestSubvolumes(t *testing.T) {
	image := makeImage(t)
	fstest.Mounted(t, image, func(dir string) {
		in := func(name string) string { return filepath.Join(dir, name) }
		for _, name := range []string{"a", "gone"} {
			fstest.Run(t, "btrfs", "subvolume", "create", in(name))
			fstest.Fill(t, in(name), 200)
		}
		fstest.Run(t, "btrfs", "subvolume", "snapshot", in("a"), in("b"))
		if err := os.Mkdir(in("b/more"), 0o755); err != nil {
			t.Fatal(err)
		}
		fstest.Fill(t, in("b/more"), 300)
		fstest.Run(t, "cp", "--reflink=always", in("a/large"), in("a/copy"))
		fstest.Run(t, "sync", "-f", dir)
		fstest.Run(t, "btrfs", "subvolume", "delete", "-c", in("gone"))
		fstest.Run(t, "btrfs", "subvolume", "sync", dir)
	})
	check(t, image, false)
}

func TestCompressed(t *testing.T) {
	for _, how := range []string{"zstd", "lzo", "zlib"} {
		t.Run(how, func(t *testing.T) {
			image := makeImage(t)
			fstest.Mounted(t, image, func(dir string) {
				fstest.Run(t, "btrfs", "property", "set", dir, "compression", how)
				fstest.Fill(t, dir, 400)
				if err := os.WriteFile(filepath.Join(dir, "text"), testenv.Text(1, 5<<20), 0o644); err != nil {
					t.Fatal(err)
				}
			})
			check(t, image, true)
		})
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		options []string
		change  func(t *testing.T, image string)
		want    error
		says    string
	}{
		"two devices": {nil, func(t *testing.T, image string) {
			other := filepath.Join(t.TempDir(), "other")
			fstest.Run(t, "truncate", "-s", "256M", other)
			fstest.Run(t, "mkfs.btrfs", "-q", "-f", image, other)
		}, volume.ErrRefused, "2 devices"},
		"checksums": {[]string{"--csum", "xxhash"}, nil, volume.ErrRefused, "checksums of kind 1"},
		"log": {nil, func(t *testing.T, image string) {
			fstest.Mounted(t, image, func(dir string) {
				fstest.Run(t, "dd", "if=/dev/urandom", "of="+filepath.Join(dir, "f"), "bs=64k", "count=1")
				fstest.Run(t, "sync", "-f", dir)
				fstest.Run(t, "dd", "if=/dev/urandom", "of="+filepath.Join(dir, "g"), "bs=64k", "count=1", "conv=fsync")
				fstest.Run(t, "cp", image, image+".copy")
			})
			fstest.Run(t, "mv", image+".copy", image)
		}, volume.ErrRefused, "was not unmounted"},
		"superblock": {nil, func(t *testing.T, image string) { change(t, image, superOffset+300) }, volume.ErrDamaged, "checksum"},
		"none":       {nil, func(t *testing.T, image string) { change(t, image, superOffset+64) }, volume.ErrUnknown, ""},
	} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, c.options...)
			if c.change != nil {
				c.change(t, image)
			}
			f, err := os.Open(image)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			if _, err = Open(f, size); err == nil || !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("error %v", err)
			}
		})
	}
}

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

// TestContradictions moves what the tree of extents says is in use, so that
// something that is in use is free.
func TestContradictions(t *testing.T) {
	for name, kind := range map[string]byte{"tree": metadataItem, "data": extentItem, "none": 0} {
		t.Run(name, func(t *testing.T) {
			image := makeImage(t, "-n", "4096", "--mixed")
			fstest.Mounted(t, image, func(dir string) { fstest.Fill(t, dir, 100) })
			b, err := os.ReadFile(image)
			if err != nil {
				t.Fatal(err)
			}
			v, err := Open(bytes.NewReader(b), size)
			if err != nil {
				t.Fatal(err)
			}
			fs := v.(*fileSystem)
			moved := false
			// All leaves of trees of extents, of which one is in force.
			for at := int64(superOffset + superSize); at+fs.node <= size; at += fs.node {
				p := b[at : at+fs.node]
				n := int64(le.Uint32(p[96:]))
				if !bytes.Equal(p[32:48], fs.uuid) || p[100] != 0 || le.Uint64(p[88:]) != 2 || n > fs.node/itemSize {
					continue
				}
				for i := int64(1); i+1 < n; i++ {
					e := p[headerSize+i*itemSize:]
					k, next := readKey(e), readKey(e[itemSize:])
					if k.kind == kind && next.object >= k.object+2*uint64(fs.node) && !fs.isAllocated(k.object+uint64(fs.node), 1) && (kind == metadataItem || k.offset == uint64(fs.node)) {
						le.PutUint64(e, k.object+uint64(fs.node))
						moved = true
					}
				}
				le.PutUint32(p, crc32.Checksum(p[32:], castagnoli))
			}
			if moved != (kind != 0) {
				t.Fatal("nothing can be moved")
			}
			v, err = Open(bytes.NewReader(b), size)
			if err == nil {
				err = v.Files(t.Context(), func(*volume.File) error { return nil })
			}
			if moved && !errors.Is(err, volume.ErrDamaged) || !moved && err != nil {
				t.Errorf("error %v", err)
			} else if moved && !strings.Contains(err.Error(), "not in use") {
				t.Errorf("error %v", err)
			}
		})
	}
}

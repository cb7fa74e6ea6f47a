package ntfs

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"prestage/internal/fsmap/fstest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

// system is what ntfs-3g, which is nothing of ours, says of a volume.
type system struct{ image string }

func command(t testing.TB, program string, args ...string) []byte {
	t.Helper()
	path, err := testenv.Look(program)
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Env = append(os.Environ(), "LC_ALL=C.UTF-8")
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s%s", program, args, err, out.Bytes(), errs.Bytes())
	}
	return out.Bytes()
}

// mkntfs makes an empty volume.
func mkntfs(t testing.TB, size int64, args ...string) system {
	t.Helper()
	testenv.Need(t, "mkntfs", "ntfs-3g", "ntfscluster", "ntfscat")
	testenv.NeedRoot(t)
	image := filepath.Join(t.TempDir(), "ntfs.img")
	f, err := os.Create(image)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	f.Close()
	command(t, "mkntfs", slices.Concat([]string{"-F", "-Q", "-q", "-p", "0", "-H", "16", "-S", "63"}, args, []string{image})...)
	return system{image}
}

// mounted does something with the volume mounted at dir.
func (s system) mounted(t testing.TB, options string, do func(dir string)) {
	t.Helper()
	fstest.OwnMounts(t)
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	path, err := testenv.Look("ntfs-3g")
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	// In the foreground, so that its end tells that everything is written.
	cmd := exec.Command(path, "-o", "no_detach,streams_interface=windows,locale=C.UTF-8,"+options, s.image, dir)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	is := func() bool {
		p, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			t.Fatal(err)
		}
		return bytes.Contains(p, []byte(" "+dir+" "))
	}
	unmount := func() {
		// Lazily only if somebody is still in it, as after a test that failed.
		if exec.Command("umount", dir).Run() != nil {
			exec.Command("umount", "-l", dir).Run()
		}
	}
	t.Cleanup(func() {
		if is() {
			unmount()
		}
	})
	for deadline := time.Now().Add(30 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		select {
		case err := <-ended:
			t.Fatalf("ntfs-3g: %v\n%s", err, log.Bytes())
		default:
		}
		if time.Now().After(deadline) {
			cmd.Process.Kill()
			t.Fatal("ntfs-3g does not mount")
		}
	}
	do(dir)
	unmount()
	select {
	case err := <-ended:
		if err != nil {
			t.Fatalf("ntfs-3g: %v\n%s", err, log.Bytes())
		}
	case <-time.After(2 * time.Minute):
		cmd.Process.Kill()
		t.Fatal("ntfs-3g does not end")
	}
}

// mapped is a line of a run list: cluster -1 is a hole, -2 what another part of
// the attribute says.
type mapped struct{ virtual, cluster, length int64 }

func (m mapped) end() int64 { return m.virtual + m.length }

// dataRuns returns the run lists of the non-resident data attributes of a file,
// in their order, as ntfscluster shows them.
func (s system) dataRuns(t testing.TB, number uint64) (lists [][]mapped) {
	t.Helper()
	in := false
	for line := range strings.Lines(string(command(t, "ntfscluster", "-f", "-I", strconv.FormatUint(number, 10), s.image))) {
		f := strings.Fields(line)
		if len(f) == 3 && f[1] == "-" {
			in = f[0] == "0x80" && f[2] == "non-resident"
			continue
		}
		if !in || len(f) != 3 || f[0] == "VCN" {
			continue
		}
		var p mapped
		if _, err := fmt.Sscan(line, &p.virtual, &p.cluster, &p.length); err != nil {
			t.Fatalf("ntfscluster says %q", line)
		}
		if p.cluster == -2 {
			continue
		}
		// It shows each part of an attribute by itself.
		if p.virtual == 0 {
			lists = append(lists, nil)
		}
		n := len(lists) - 1
		if last := len(lists[n]) - 1; p.virtual > 0 && lists[n][last].end() != p.virtual {
			t.Fatalf("ntfscluster shows %v after %v", p, lists[n][last])
		}
		lists[n] = append(lists[n], p)
	}
	return lists
}

// dataRecords returns the records that the attribute list of a file names for
// its data, as ntfsinfo shows them.
func (s system) dataRecords(t testing.TB, number uint64) map[string]bool {
	t.Helper()
	records := map[string]bool{}
	kind, list := "", false
	for line := range strings.Lines(string(command(t, "ntfsinfo", "-f", "-v", "-i", strconv.FormatUint(number, 10), s.image))) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		value = strings.TrimSpace(value)
		switch {
		case key == "Dumping attribute list":
			list = true
		case strings.HasPrefix(key, "Dumping attribute $"):
			list = false
		case list && key == "Attribute type":
			kind = value
		case list && key == "MFT reference" && kind == "0x80":
			records[value] = true
		}
	}
	return records
}

// free returns the free ranges after the volume's bitmap, read by ntfscat.
func (s system) free(t testing.TB, cluster, clusters int64) (list []volume.Extent) {
	t.Helper()
	p := command(t, "ntfscat", "-f", "-i", "6", s.image)
	for i := range clusters {
		if p[i/8]&(1<<(i%8)) != 0 {
			continue
		}
		if n := len(list) - 1; n >= 0 && list[n].End() == i*cluster {
			list[n].Length += cluster
		} else {
			list = append(list, volume.Extent{Offset: i * cluster, Length: cluster})
		}
	}
	return list
}

// open opens the volume with the package that is tested.
func (s system) open(t testing.TB) (*fileSystem, *os.File) {
	t.Helper()
	f, err := os.Open(s.image)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	info, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	v, err := Open(f, info.Size())
	if err != nil {
		t.Fatal(err)
	}
	return v.(*fileSystem), f
}

// files returns what Files yields, in order.
func files(t testing.TB, fs *fileSystem) (list []*volume.File) {
	t.Helper()
	if err := fs.Files(context.Background(), func(f *volume.File) error {
		list = append(list, f)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func free(t testing.TB, fs *fileSystem) (list []volume.Extent) {
	t.Helper()
	if err := fs.Free(context.Background(), func(e volume.Extent) error {
		list = append(list, e)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return list
}

func names(t testing.TB, fs *fileSystem) map[string]uint64 {
	t.Helper()
	m := make(map[string]uint64)
	if err := fs.Names(context.Background(), func(id uint64, path string) error {
		if other, twice := m[path]; twice {
			t.Errorf("%q is %d and %d", path, other, id)
		}
		m[path] = id
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	return m
}

// geometry returns what ntfsinfo says of the geometry.
func (s system) geometry(t testing.TB) (cluster, clusters int64) {
	t.Helper()
	for sc := bufio.NewScanner(bytes.NewReader(command(t, "ntfsinfo", "-f", "-m", s.image))); sc.Scan(); {
		key, value, _ := strings.Cut(strings.TrimSpace(sc.Text()), ": ")
		n, _ := strconv.ParseInt(strings.TrimSpace(value), 10, 64)
		switch key {
		case "Cluster Size":
			cluster = n
		case "Volume Size in Clusters":
			clusters = n
		}
	}
	return cluster, clusters
}

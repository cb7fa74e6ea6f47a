package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"prestage/internal/testenv"
)

// TestInside runs testdata/inside: what is packed when the machine inside is
// known, held against the file systems' own tools.
func TestInside(t *testing.T) {
	testenv.NeedTime(t)
	testenv.Need(t, "mkfs.ext4", "debugfs", "e2fsck", "mkntfs", "ntfscp", "ntfscat", "ntfsfix", "sfdisk", "mkswap", "swaplabel", "qemu-img")
	p := scriptParams(t, "testdata/inside")
	p.Cmds["disk"] = makeDisk
	p.Cmds["partition"] = cutPartition
	testscript.Run(t, p)
}

// The partitions of makeDisk, in MiB.
var partitions = []struct{ start, size int }{{1, 64}, {65, 32}, {97, 16}, {113, 8}}

// makeDisk FILE makes a disk as machines have them: with a partition table,
// ext4 (the file "kept" is there, "deleted" was), NTFS (likewise), swap that
// was in use, and a LUKS volume.
func makeDisk(ts *testscript.TestScript, _ bool, args []string) {
	disk := ts.MkAbs(args[0])
	tmp, err := os.MkdirTemp(ts.Getenv("WORK"), "disk")
	ts.Check(err)
	in := func(name string) string { return filepath.Join(tmp, name) }
	ts.Check(os.WriteFile(disk, nil, 0o644))
	ts.Check(os.Truncate(disk, 122<<20))
	table := "label: gpt\n"
	for _, p := range partitions {
		table += fmt.Sprintf("start=%dMiB, size=%dMiB\n", p.start, p.size)
	}
	cmd := exec.Command("sfdisk", "--quiet", disk)
	cmd.Stdin = strings.NewReader(table)
	if out, err := cmd.CombinedOutput(); err != nil {
		ts.Fatalf("sfdisk: %v\n%s", err, out)
	}
	tree := in("tree")
	ts.Check(os.Mkdir(tree, 0o755))
	for i := range 40 {
		ts.Check(os.WriteFile(filepath.Join(tree, fmt.Sprint(i)), testenv.Text(byte(i), 50_000+i*977), 0o644))
	}
	ts.Check(os.WriteFile(filepath.Join(tree, "kept"), testenv.Random(1, 5<<20+1), 0o644))
	ts.Check(os.WriteFile(filepath.Join(tree, "deleted"), testenv.Random(2, 20<<20), 0o644))
	volume := func(i int) string {
		name := in(fmt.Sprint("volume", i))
		ts.Check(os.WriteFile(name, nil, 0o644))
		ts.Check(os.Truncate(name, int64(partitions[i].size)<<20))
		return name
	}
	ext4, ntfs, swap, luks := volume(0), volume(1), volume(2), volume(3)
	ts.Check(ts.Exec("mkfs.ext4", "-q", "-F", "-d", tree, ext4))
	ts.Check(ts.Exec("debugfs", "-w", "-R", "rm /deleted", ext4))
	ts.Check(ts.Exec("mkntfs", "-q", "-F", "-Q", "-p", "2048", "-H", "255", "-S", "63", ntfs))
	ts.Check(ts.Exec("ntfscp", "-q", ntfs, filepath.Join(tree, "kept"), "kept"))
	ts.Check(ts.Exec("mkswap", "-q", "-L", "paging", swap))
	f, err := os.OpenFile(swap, os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt(testenv.Random(3, 8<<20), 1<<20)
	ts.Check(err)
	ts.Check(f.Close())
	ts.Check(os.WriteFile(luks, append([]byte("LUKS\xba\xbe\x00\x02"), testenv.Random(4, 1<<20)...), 0o644))
	f, err = os.OpenFile(disk, os.O_WRONLY, 0)
	ts.Check(err)
	for i, p := range partitions {
		b, err := os.ReadFile(in(fmt.Sprint("volume", i)))
		ts.Check(err)
		_, err = f.WriteAt(b, int64(p.start)<<20)
		ts.Check(err)
	}
	ts.Check(f.Close())
	ts.Check(os.RemoveAll(tmp))
}

// cutPartition DISK NUMBER FILE copies a partition of makeDisk's to a file.
func cutPartition(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	p := partitions[args[1][0]-'1']
	ts.Check(os.WriteFile(ts.MkAbs(args[2]), b[p.start<<20:(p.start+p.size)<<20], 0o644))
}

//go:build linux

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// chunkers are the bytes that others would fetch: new chunks and the new index.
type chunkers struct{ desync, casync int64 }

// seeded finds out what desync and, if all are asked, casync would fetch: what
// their stores grow by.
func (b *bench) seeded(c change) (found chunkers, err error) {
	if b.desync != "" {
		if found.desync, err = b.growth("desync", c, func(store, index, image string) []string {
			return []string{b.desync, "make", "-s", store, index, image}
		}); err != nil {
			return found, err
		}
	}
	if b.casync != "" && c.all {
		found.casync, err = b.growth("casync", c, func(store, index, image string) []string {
			return []string{b.casync, "make", "--store=" + store, index, image}
		})
	}
	return found, err
}

// growth returns how much a program's store grows by a version, and its index. The
// store of the old version is kept for the next one.
func (b *bench) growth(name string, c change, argv func(store, index, image string) []string) (int64, error) {
	store, base, index := b.path(name+".grown"), b.path(name+"."+c.from), b.path("grown.caibx")
	defer removeAll([]string{store, index})
	make := func(store, version string) error {
		path, err := b.version(version)
		if err != nil {
			return err
		}
		b.say("%s, %s", name, version)
		_, err = b.output(argv(store, index, path)...)
		return err
	}
	if _, err := os.Stat(base); err != nil {
		if err := os.Mkdir(base, 0o755); err != nil {
			return 0, err
		}
		if err := make(base, c.from); err != nil {
			return 0, err
		}
	}
	before, err := treeSize(base)
	if err != nil {
		return 0, err
	}
	if _, err := b.output("cp", "-rl", base, store); err != nil {
		return 0, err
	}
	if err := make(store, c.to); err != nil {
		return 0, err
	}
	after, err := treeSize(store)
	if err != nil {
		return 0, err
	}
	st, err := os.Stat(index)
	if err != nil {
		return 0, err
	}
	return after - before + st.Size(), nil
}

var rsyncBytes = regexp.MustCompile(`Total bytes (?:sent|received): ([\d,]+)`)

// rsync returns the bytes that rsync sends and receives to turn the old version
// into another; 0 if there is no rsync.
func (b *bench) rsync(c change) (int64, error) {
	rsync := lookPath("rsync")
	if rsync == "" {
		return 0, nil
	}
	copied := b.path("rsync.raw")
	defer os.Remove(copied)
	b.say("rsync, %s", c.to)
	if _, err := b.output("cp", "--sparse=always", b.versionFile(c.from), copied); err != nil {
		return 0, err
	}
	out, err := b.output(rsync, "--no-whole-file", "--inplace", "--ignore-times", "--compress", "--compress-choice=zstd", "--stats",
		b.versionFile(c.to), copied)
	if err != nil {
		return 0, err
	}
	total := int64(0)
	for _, m := range rsyncBytes.FindAllSubmatch(out, -1) {
		n, err := strconv.ParseInt(strings.ReplaceAll(string(m[1]), ",", ""), 10, 64)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// zsyncMost is how long zsync may take: servers that it does not understand it asks
// for ever.
const zsyncMost = "20m"

// zsync returns the bytes that zsync fetches to turn the old version into another;
// 0 if there is no zsync, or no nginx, whose answers with several ranges it reads.
func (b *bench) zsync(c change) (int64, error) {
	zsync, makes := lookPath("zsync"), lookPath("zsyncmake")
	nginx := lookPath("nginx")
	if zsync == "" || makes == "" || nginx == "" {
		return 0, nil
	}
	dir := b.path("zsync")
	defer removeAll([]string{dir})
	if err := os.Mkdir(dir, 0o755); err != nil {
		return 0, err
	}
	if err := os.Symlink(b.versionFile(c.to), filepath.Join(dir, "disk.raw")); err != nil {
		return 0, err
	}
	b.say("zsync, %s", c.to)
	control := filepath.Join(dir, "disk.zsync")
	if _, err := b.output(makes, "-u", "disk.raw", "-o", control, b.versionFile(c.to)); err != nil {
		return 0, err
	}
	web, err := b.nginx(nginx, dir)
	if err != nil {
		return 0, err
	}
	// It leaves files in the folder that it is started in.
	_, err = b.output("env", "-C", dir, "timeout", zsyncMost, zsync, "-q", "-i", b.versionFile(c.from), "-o", filepath.Join(dir, "new.raw"), web.url+"disk.zsync")
	n, stopErr := web.stop()
	if err != nil {
		b.say("zsync has failed: %v", err)
		return 0, stopErr
	}
	return n, stopErr
}

// floor returns how many bytes the files take that another version adds or
// changes, by zstd -3 in one stream; 0 if it cannot be found out.
func (b *bench) floor(c change) (int64, error) {
	if b.zstd == "" || os.Geteuid() != 0 {
		return 0, nil
	}
	b.say("files of %s", c.to)
	const script = `set -euo pipefail
cd "$1"; mkdir -p old new
trap 'umount old new 2>/dev/null || true' EXIT
mount -o loop,ro,noload "$2" old
mount -o loop,ro,noload "$3" new
(cd new && find . -xdev -type f -print0) | while IFS= read -r -d '' f; do
	cmp -s "old/$f" "new/$f" || printf '%s\0' "$f"
done >changed
(cd new && tar -c --null -T ../changed) | "$4" -q -3 -T0 -c | wc -c`
	out, err := b.output("bash", "-c", script, "bash", b.work, b.versionFile(c.from), b.versionFile(c.to), b.zstd)
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
}

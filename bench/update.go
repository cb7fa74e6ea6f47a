//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// change is an update that is measured: two files of the folder of versions. What
// ends in .vhdx is made of the raw one.
type change struct {
	from, to, work string
	budget         float64 // against desync
	all            bool    // against rsync and the floor, too
}

const (
	oldVersion = "v1.raw"
	rebuilt    = "rebuilt.raw"
)

var changes = []change{
	{oldVersion, "patched.raw", "update, patches in place", 0.38, true},
	{oldVersion, "later.raw", "update, patches and programs in place", 0, true},
	{oldVersion, rebuilt, "update, rebuilt image", 0.58, true},
	{"ntfs-v1.raw", "ntfs-later.raw", "update, NTFS, in place", 0.58, false},
	{"ntfs-v1.raw", "ntfs-rebuilt.raw", "update, NTFS, rebuilt image", 0.58, false},
	{"v1.vhdx", "rebuilt.vhdx", "update, VHDX, rebuilt image", 0.58, false},
}

const (
	desyncSeed = "desync, the old image as seed"
	casyncSeed = "casync, the old image as seed"
	rsyncName  = "rsync --compress-choice=zstd"
	floorName  = "zstd -3 of added and changed files"
)

// updates measures what it takes to bring an installed image to a later version.
func (b *bench) updates() ([]row, error) {
	if b.versionsDir == "" {
		return []row{{work: "update", against: desyncSeed, missing: "not measured: the versions of the image could not be built"}}, nil
	}
	theirs := map[change]chunkers{}
	var rows []row
	for _, c := range changes {
		work := c.work + ", --discard-free"
		if _, err := os.Stat(b.versionFile(c.from)); err != nil {
			rows = append(rows, row{work: work, against: desyncSeed, budget: c.budget, missing: "not measured: " + c.from + " could not be built"})
			continue
		}
		ours, err := b.update(c, "--discard-free")
		if err != nil {
			return nil, err
		}
		if theirs[c], err = b.seeded(c); err != nil {
			return nil, err
		}
		add := func(against string, budget float64, n int64) {
			if n > 0 {
				rows = append(rows, byteRow(work, against, budget, ours, n))
			} else {
				rows = append(rows, row{work: work, against: against, budget: budget, missing: "not measured: a program is missing"})
			}
		}
		add(desyncSeed, c.budget, theirs[c].desync)
		if !c.all {
			continue
		}
		add(casyncSeed, 0, theirs[c].casync)
		rsync, err := b.rsync(c)
		if err != nil {
			return nil, err
		}
		add(rsyncName, 0, rsync)
		floor, err := b.floor(c)
		if err != nil {
			return nil, err
		}
		add(floorName, 1.15, floor)
	}
	exact := changes[2]
	ours, err := b.update(exact)
	if err != nil {
		return nil, err
	}
	if n := theirs[exact].desync; n > 0 {
		rows = append(rows, byteRow(exact.work+", bit-exact", desyncSeed, 0, ours, n))
	}
	timed, err := b.updateTime()
	if err != nil {
		return nil, err
	}
	own, err := b.ownFiles()
	return append(append(rows, timed...), own...), err
}

// versionFile returns the raw file that a version is, or is made of.
func (b *bench) versionFile(name string) string {
	return filepath.Join(b.versionsDir, strings.TrimSuffix(name, filepath.Ext(name))+".raw")
}

// version makes the file that packing reads one version of the image: it has the
// same name in all of them.
func (b *bench) version(name string) (string, error) {
	path := b.path("disk" + filepath.Ext(name))
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	if filepath.Ext(name) == ".vhdx" {
		b.say("%s", name)
		_, err := b.output("qemu-img", "convert", "-f", "raw", "-O", "vhdx", b.versionFile(name), path)
		return path, err
	}
	return path, os.Symlink(b.versionFile(name), path)
}

// packVersions packs versions, one after the other, into a new folder.
func (b *bench) packVersions(images string, versions []string, flags ...string) error {
	if err := removeAll([]string{images}); err != nil {
		return err
	}
	if err := os.Mkdir(images, 0o755); err != nil {
		return err
	}
	for _, v := range versions {
		path, err := b.version(v)
		if err != nil {
			return err
		}
		b.say("pack %s", v)
		if _, err := b.output(b.our(append([]string{"pack", path, "--name", imageName, "--images", images}, flags...)...)...); err != nil {
			return err
		}
	}
	return nil
}

// update updates the installed old version and returns the bytes that were
// fetched, with the INDEX.
func (b *bench) update(c change, flags ...string) (int64, error) {
	images, store := b.path("images.update"), b.path("vms.update")
	defer removeAll([]string{images, store})
	if err := b.packVersions(images, []string{c.from, c.to}, flags...); err != nil {
		return 0, err
	}
	if _, err := b.output(b.our("install", imageName+":1", "--images", images, "--store", store)...); err != nil {
		return 0, err
	}
	b.say("update to %s", c.to)
	out, err := b.output(b.our("update", imageName, "--images", images, "--store", store, "--json")...)
	if err != nil {
		return 0, err
	}
	if len(flags) == 0 {
		got, err := b.findImage(filepath.Join(store, imageName, "2"))
		if err != nil {
			return 0, err
		}
		if err := sameContent(b.versionFile(c.to), got); err != nil {
			return 0, err
		}
	}
	var done struct{ Fetch, Index int64 }
	if err := json.Unmarshal(out, &done); err != nil {
		return 0, err
	}
	if done.Index == 0 {
		return 0, fmt.Errorf("update does not say how large the INDEX is: %s", out)
	}
	return done.Fetch + done.Index, nil
}

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

// updateTime compares how long an update and a full installation take, and
// desync's, all from this machine's disk.
func (b *bench) updateTime() ([]row, error) {
	images, store, target := b.path("images.update"), b.path("vms.update"), b.path("target.raw")
	defer removeAll([]string{images, store, target})
	if err := b.packVersions(images, []string{oldVersion, rebuilt}); err != nil {
		return nil, err
	}
	if _, err := b.output(b.our("install", imageName+":1", "--images", images, "--store", store)...); err != nil {
		return nil, err
	}
	fresh := []string{filepath.Join(store, imageName, "2"), filepath.Join(store, imageName, "2.index")}
	sides := []side{
		{name: "prestage update", argv: b.our("update", imageName, "--images", images, "--store", store), fresh: fresh},
		{name: "prestage update --full", argv: b.our("update", imageName, "--full", "--images", images, "--store", store), fresh: fresh},
	}
	if b.desync != "" {
		chunks, index, old := b.path("chunks"), b.path("rebuilt.caibx"), b.path("v1.caibx")
		defer removeAll([]string{chunks, index, old})
		if err := os.Mkdir(chunks, 0o755); err != nil {
			return nil, err
		}
		image := b.versionFile(oldVersion)
		for _, argv := range [][]string{
			{b.desync, "make", "-s", chunks, old, image},
			{b.desync, "make", "-s", chunks, index, b.versionFile(rebuilt)},
		} {
			if _, err := b.output(argv...); err != nil {
				return nil, err
			}
		}
		// desync finds a seed's image beside its index, by its name.
		if err := os.Symlink(image, b.path("v1")); err != nil {
			return nil, err
		}
		defer os.Remove(b.path("v1"))
		sides = append(sides, side{name: desyncSeed, argv: []string{b.desync, "extract", "-s", chunks, "--seed", old, index, target}, fresh: []string{target}})
	}
	all, err := b.race("update", sides)
	if err != nil {
		return nil, err
	}
	return b.timeRows("update, rebuilt image, time", sides, all, []bid{
		{"prestage update --full", 1, "prestage cannot install in full"},
		{desyncSeed, 0, "desync is missing"},
	}), nil
}

// ownFiles measures a first installation on this machine, with its own files.
func (b *bench) ownFiles() ([]row, error) {
	images, store := b.path("images.update"), b.path("vms.update")
	defer removeAll([]string{images, store})
	if err := b.packVersions(images, []string{oldVersion}, "--discard-free"); err != nil {
		return nil, err
	}
	b.say("install with the files of /usr")
	out, err := b.output(b.our("install", imageName, "--images", images, "--store", store, "--seed", "/usr", "--json")...)
	if err != nil {
		return nil, err
	}
	var done struct {
		Sources []struct{ Bytes int64 }
	}
	if err := json.Unmarshal(out, &done); err != nil {
		return nil, err
	}
	ours := int64(0)
	for _, s := range done.Sources {
		ours += s.Bytes
	}
	all, err := packageSize(images)
	if err != nil {
		return nil, err
	}
	return []row{byteRow("first install, bytes, --seed /usr of this machine", "the package", 0, ours, all)}, nil
}

func (b *bench) updateFacts() string {
	return b.facts() + "The old version is the release as it came out; the others have its updates, or some more programs too.\n"
}

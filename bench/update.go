//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	{oldVersion, "minor.raw", "update, patches in place, browser held", 0.38, true},
	{oldVersion, "patched.raw", "update, patches in place", 0.38, true},
	{oldVersion, "later.raw", "update, patches and programs in place", 0, false},
	{oldVersion, rebuilt, "update, rebuilt image", 0.58, true},
	{"ntfs-v1.raw", "ntfs-minor.raw", "update, NTFS, patches in place, browser held", 0.38, false},
	{"ntfs-v1.raw", "ntfs-later.raw", "update, NTFS, patches and programs in place", 0, false},
	{"ntfs-v1.raw", "ntfs-rebuilt.raw", "update, NTFS, rebuilt image", 0.58, false},
	{"v1.vhdx", "rebuilt.vhdx", "update, VHDX, rebuilt image", 0.58, false},
}

const (
	desyncSeed = "desync, the old image as seed"
	casyncSeed = "casync, the old image as seed"
	zsyncSeed  = "zsync, the old image as seed"
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
		ours, frames, err := b.update(c, "--discard-free")
		if err != nil {
			return nil, err
		}
		if theirs[c], err = b.seeded(c); err != nil {
			return nil, err
		}
		b.say("%s: %d bytes, %d requests; without the patch %d; desync %d", c.to, ours.bytes, ours.requests, frames.bytes, theirs[c].desync)
		add := func(against string, budget float64, n int64) {
			if n > 0 {
				rows = append(rows, byteRow(work, against, budget, ours.bytes, n))
			} else {
				rows = append(rows, row{work: work, against: against, budget: budget, missing: "not measured: a program is missing"})
			}
		}
		add(desyncSeed, c.budget, theirs[c].desync)
		rows = append(rows, byteRow(work+", without the patch", desyncSeed, 0, frames.bytes, theirs[c].desync))
		rows = append(rows, countRow(work+", requests", "MiB moved", 1, ours.requests, max(1, ours.bytes/mib)),
			byteRow(work+", peak memory", "192 MiB", 1, ours.rss, 192*mib))
		if !c.all {
			continue
		}
		add(casyncSeed, 0, theirs[c].casync)
		if c.to == rebuilt { // it takes minutes
			zsync, err := b.zsync(c)
			if err != nil {
				return nil, err
			}
			add(zsyncSeed, 0, zsync)
		}
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
	exact := changes[slices.IndexFunc(changes, func(c change) bool { return c.to == rebuilt })]
	ours, _, err := b.update(exact)
	if err != nil {
		return nil, err
	}
	if n := theirs[exact].desync; n > 0 {
		rows = append(rows, byteRow(exact.work+", bit-exact", desyncSeed, 0, ours.bytes, n))
	}
	timed, err := b.updateTime()
	if err != nil {
		return nil, err
	}
	own, err := b.ownFiles()
	if err != nil {
		return nil, err
	}
	packages, err := b.usedPackages()
	return slices.Concat(rows, timed, own, packages), err
}

// used are versions whose free space holds what was deleted.
var used = []string{oldVersion, "ntfs-used.raw", "v1.vhdx"}

// usedPackages compares packages that leave free space out with desync's stores.
func (b *bench) usedPackages() (rows []row, err error) {
	images, store, index := b.path("images.used"), b.path("desync.used"), b.path("used.caibx")
	defer removeAll([]string{images, store, index})
	for _, v := range used {
		r := row{work: "package bytes of " + v + ", --discard-free", against: "desync's store", budget: 0.60}
		if _, err := os.Stat(b.versionFile(v)); err != nil || b.desync == "" {
			r.missing = "not measured: desync, or the version, is missing"
			rows = append(rows, r)
			continue
		}
		if err := b.packVersions(images, []string{v}, "--discard-free"); err != nil {
			return nil, err
		}
		path, err := b.version(v)
		if err != nil {
			return nil, err
		}
		if err := removeAll([]string{store, index}); err != nil {
			return nil, err
		}
		if err := os.Mkdir(store, 0o755); err != nil {
			return nil, err
		}
		b.say("desync, %s", v)
		if _, err := b.output(b.desync, "make", "-s", store, index, path); err != nil {
			return nil, err
		}
		ours, err := packageSize(images)
		if err != nil {
			return nil, err
		}
		theirs, err := treeSize(store)
		if err != nil {
			return nil, err
		}
		rows = append(rows, byteRow(r.work, r.against, r.budget, ours, theirs))
	}
	return rows, nil
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
		if err := b.packVersion(images, v, flags...); err != nil {
			return err
		}
	}
	return nil
}

// packVersion packs a version of the image.
func (b *bench) packVersion(images, version string, flags ...string) error {
	path, err := b.version(version)
	if err != nil {
		return err
	}
	b.say("pack %s", version)
	_, err = b.output(b.our(append([]string{"pack", path, "--name", imageName, "--images", images}, flags...)...)...)
	return err
}

// moved is what an update took.
type moved struct {
	bytes, requests int64 // that a web server answered with, and was asked for
	rss             int64 // peak memory, bytes
}

// base packs and installs the version that is updated, once, and returns the
// folders of packages and of images.
func (b *bench) base(version string, flags []string) (images, store string, err error) {
	name := version + strings.Join(flags, "")
	images, store = b.path("images."+name), b.path("vms."+name)
	if _, err := os.Stat(store); err == nil {
		return images, store, nil
	}
	if err := b.packVersions(images, []string{version}, flags...); err != nil {
		return "", "", err
	}
	_, err = b.output(b.our("install", imageName, "--images", images, "--store", store)...)
	return images, store, err
}

// update updates the installed old version from a web server, with the patch and
// without.
func (b *bench) update(c change, flags ...string) (with, without moved, err error) {
	base, store, err := b.base(c.from, flags)
	if err != nil {
		return with, without, err
	}
	images := b.path("images.update")
	defer removeAll([]string{images})
	if _, err := b.output("cp", "-rl", base, images); err != nil {
		return with, without, err
	}
	if err := b.packVersion(images, c.to, flags...); err != nil {
		return with, without, err
	}
	if with, err = b.updateFrom(images, store, c, len(flags) == 0); err != nil {
		return with, without, err
	}
	if err := removeAll([]string{filepath.Join(images, imageName+"_2.patch")}); err != nil {
		return with, without, err
	}
	without, err = b.updateFrom(images, store, c, false)
	return with, without, err
}

// updateFrom updates an image, compares it with what it should be if that is
// asked for, and goes back to the old version.
func (b *bench) updateFrom(images, store string, c change, compare bool) (m moved, err error) {
	image := filepath.Join(store, imageName, "2")
	defer removeAll([]string{image, image + ".index"})
	web, err := newWebServer(images)
	if err != nil {
		return m, err
	}
	defer web.Close()
	b.say("update to %s", c.to)
	x, err := b.timed(b.our("update", imageName, "--images", web.url, "--store", store))
	if err != nil {
		return m, err
	}
	if compare {
		got, err := b.findImage(image)
		if err != nil {
			return m, err
		}
		if err := sameContent(b.versionFile(c.to), got); err != nil {
			return m, err
		}
	}
	return moved{bytes: web.bytes.Load(), requests: web.requests.Load(), rss: x.rss}, nil
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

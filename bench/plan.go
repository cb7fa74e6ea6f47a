//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// bench is one run of all measurements.
type bench struct {
	options
	ctx context.Context
	env []string // what commands find in their environment besides ours
}

const (
	imageName = "bench"
	ckmFile   = imageName + "_1.ckm"
	indexFile = imageName + "_1.index"

	mib = 1 << 20
)

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.log, "bench: "+format+"\n", args...)
}

func (b *bench) path(name string) string { return filepath.Join(b.work, name) }

// our is a prestage command line with a settings file of its own, so that
// neither the machine's settings are used nor changed.
func (b *bench) our(args ...string) []string {
	return append([]string{b.prestage, "--config", b.path("prestage.toml"), "--quiet"}, args...)
}

// local measures what one machine does by itself and returns the rows of its
// table.
func (b *bench) local() ([]row, error) {
	// The page cache is warm for every run; the first is not to pay for it.
	b.say("reading the image once")
	if err := readAll(b.image); err != nil {
		return nil, err
	}

	var rows []row
	packed, packRows, err := b.pack()
	if err != nil {
		return nil, err
	}
	rows = append(rows, packRows...)
	sizeRows, err := b.sizes()
	if err != nil {
		return nil, err
	}
	rows = append(rows, sizeRows...)
	installed, installRows, err := b.install()
	if err != nil {
		return nil, err
	}
	rows = append(rows, installRows...)
	verified, verifyRows, err := b.verify()
	if err != nil {
		return nil, err
	}
	rows = append(rows, verifyRows...)
	rows = append(rows, b.memory(packed, installed, verified)...)

	return rows, nil
}

// pack measures packing bit-exactly. The packages stay for what follows.
func (b *bench) pack() (samples, []row, error) {
	images := b.path("images")
	sides := []side{{
		name:  "prestage pack",
		argv:  b.our("pack", b.image, "--name", imageName, "--images", images),
		fresh: []string{images},
		// A name that was packed before gets a next version: a new folder
		// makes each round the first.
		before: func() error { return os.Mkdir(images, 0o755) },
		keep:   true,
	}}
	if b.zstd != "" {
		out := b.path("image.zst")
		sides = append(sides, side{
			name:  zstdName,
			argv:  []string{b.zstd, "-q", "-3", "-T0", "-o", out, b.image},
			fresh: []string{out},
		})
	}
	if b.desync != "" {
		store, index := b.path("desync.store"), b.path("desync.caibx")
		sides = append(sides, side{
			name:   desyncMake,
			argv:   []string{b.desync, "make", "-s", store, index, b.image},
			fresh:  []string{store, index},
			before: func() error { return os.Mkdir(store, 0o755) },
			keep:   true,
		})
	}
	if b.casync != "" {
		store, index := b.path("casync.store"), b.path("casync.caibx")
		sides = append(sides, side{
			name:   casyncMake,
			argv:   []string{b.casync, "make", "--store=" + store, index, b.image},
			fresh:  []string{store, index},
			before: func() error { return os.Mkdir(store, 0o755) },
			keep:   true,
		})
	}
	all, err := b.race("pack", sides)
	if err != nil {
		return nil, nil, err
	}
	return all[0], b.timeRows("pack, bit-exact", sides, all, []bid{
		{zstdName, 1.0, "zstd is missing"},
		{desyncMake, 0.30, "desync is missing"},
		{casyncMake, 0, "casync is missing"},
	}), nil
}

const (
	zstdName      = "zstd -3 -T0"
	desyncMake    = "desync make"
	casyncMake    = "casync make"
	copyName      = "cp --sparse=always"
	copySyncName  = "cp --sparse=always, then sync FILE"
	desyncExtract = "desync extract"
	casyncExtract = "casync extract"
	sha256Name    = "sha256sum"
)

// sizes compares what the packages weigh: both our files, the index included,
// against the sum of the files in desync's store, its index not included.
func (b *bench) sizes() ([]row, error) {
	const work = "package bytes"
	ours, err := packageSize(b.path("images"))
	if err != nil {
		return nil, err
	}
	var theirs int64
	if b.desync == "" {
		return []row{{work: work, against: "desync's store", budget: 0.95, missing: "not measured: desync is missing"}}, nil
	}
	if theirs, err = treeSize(b.path("desync.store")); err != nil {
		return nil, err
	}
	rows := []row{byteRow(work, "desync's store", 0.95, ours, theirs)}
	free, err := b.discardFree(theirs)
	return append(rows, free...), err
}

// discardFree compares packages that leave free space out. Sizes do not vary,
// so one run is enough.
func (b *bench) discardFree(store int64) ([]row, error) {
	const work = "package bytes, --discard-free"
	const copied = "partclone, zstd -3"
	// A prestage that cannot do it yet says so by its usage, and its row too.
	help, _ := b.output(b.prestage, "pack", "--help")
	if !strings.Contains(string(help), "--discard-free") {
		return []row{{work: work, against: "desync's store", budget: 0.60, missing: "not measured: prestage pack has no --discard-free yet"}}, nil
	}
	images := b.path("images.free")
	if err := os.Mkdir(images, 0o755); err != nil {
		return nil, err
	}
	defer os.RemoveAll(images)
	b.say("pack --discard-free")
	if _, err := b.output(b.our("pack", b.image, "--name", imageName, "--images", images, "--discard-free")...); err != nil {
		return nil, err
	}
	ours, err := packageSize(images)
	if err != nil {
		return nil, err
	}
	rows := []row{byteRow(work, "desync's store", 0.60, ours, store)}
	if b.partclone == "" || b.zstd == "" {
		return append(rows, row{work: work, against: copied, missing: "not measured: partclone or zstd is missing"}), nil
	}
	b.say("%s", copied)
	out := b.path("partclone.zst")
	defer os.Remove(out)
	const pipe = `set -o pipefail; "$1" -c -s "$2" -o - -L /dev/null 2>/dev/null | "$3" -q -3 -T0 -o "$4"`
	if _, err := b.output("bash", "-c", pipe, "bash", b.partclone, b.image, b.zstd, out); err != nil {
		return append(rows, row{work: work, against: copied, missing: "not measured: partclone cannot read this image"}), nil
	}
	theirs, err := treeSize(out)
	if err != nil {
		return nil, err
	}
	return append(rows, byteRow(work, copied, 0, ours, theirs)), nil
}

// install measures writing the image from what lies on this machine.
func (b *bench) install() (samples, []row, error) {
	parent := b.path("staged")
	if err := os.Mkdir(parent, 0o755); err != nil {
		return nil, nil, err
	}
	b.say("stage")
	for _, argv := range [][]string{
		b.our("setup", parent),
		b.our("push", imageName, "--images", b.path("images")),
	} {
		if _, err := b.output(argv...); err != nil {
			return nil, nil, err
		}
	}

	// Every program's result is compared once with the image.
	check := func(find func() (string, error)) func(int) error {
		return func(round int) error {
			if round > 0 {
				return nil
			}
			got, err := find()
			if err != nil {
				return err
			}
			return sameContent(b.image, got)
		}
	}
	at := func(path string) func() (string, error) { return func() (string, error) { return path, nil } }

	store, target := b.path("vms"), b.path("target.raw")
	sides := []side{{
		name:  "prestage install",
		argv:  b.our("install", imageName, "--store", store, "--offline"),
		fresh: []string{store},
		after: check(func() (string, error) { return b.findImage(store) }),
	}, {
		name: copyName,
		// On a file system that can share blocks, a copy would otherwise
		// write nothing at all.
		argv:  []string{"cp", "--sparse=always", "--reflink=never", b.image, target},
		fresh: []string{target},
		after: check(at(target)),
	}, {
		name:  copySyncName,
		argv:  []string{"sh", "-c", `cp --sparse=always --reflink=never "$1" "$2" && sync "$2"`, "sh", b.image, target},
		fresh: []string{target},
	}}
	if b.desync != "" {
		sides = append(sides, side{
			name:  desyncExtract,
			argv:  []string{b.desync, "extract", "-s", b.path("desync.store"), b.path("desync.caibx"), target},
			fresh: []string{target},
			after: check(at(target)),
		})
	}
	if b.casync != "" {
		sides = append(sides, side{
			name:  casyncExtract,
			argv:  []string{b.casync, "extract", "--store=" + b.path("casync.store"), b.path("casync.caibx"), target},
			fresh: []string{target},
			after: check(at(target)),
		})
	}
	all, err := b.race("install", sides)
	if err != nil {
		return nil, nil, err
	}
	return all[0], b.timeRows("install, pre-staged", sides, all, []bid{
		{copyName, 1.1, ""},
		{copySyncName, 0, ""},
		{desyncExtract, 0.5, "desync is missing"},
		{casyncExtract, 0, "casync is missing"},
	}), nil
}

// verify measures checking a package where the packer left it.
func (b *bench) verify() (samples, []row, error) {
	ckm := filepath.Join(b.path("images"), ckmFile)
	if err := readAll(ckm); err != nil {
		return nil, nil, err
	}
	sides := []side{
		{name: "prestage verify", argv: b.our("verify", filepath.Join(b.path("images"), indexFile))},
		{name: sha256Name, argv: []string{"sha256sum", ckm}},
	}
	all, err := b.race("verify", sides)
	if err != nil {
		return nil, nil, err
	}
	return all[0], b.timeRows("verify a package", sides, all, []bid{{sha256Name, 0.4, ""}}), nil
}

// memory holds each work's peak against the limit.
func (b *bench) memory(packed, installed, verified samples) []row {
	limit, against := b.memoryLimit()
	var rows []row
	for _, x := range []struct {
		work string
		samples
	}{{"pack", packed}, {"install", installed}, {"verify", verified}} {
		rows = append(rows, byteRow("peak memory, "+x.work, against, 1, x.rss(), limit))
	}
	return rows
}

// memoryLimit is what one of ours may take at most, and in words.
func (b *bench) memoryLimit() (limit int64, against string) {
	const each, base = 48, 192 * mib
	chunks := b.chunks()
	if chunks == 0 {
		// Not knowing the count makes the limit stricter, never laxer.
		return base, "192 MiB (number of chunks unknown)"
	}
	return base + each*chunks, fmt.Sprintf("192 MiB + 48 bytes × %d chunks", chunks)
}

// chunks asks prestage how many chunks the package has; 0 if it does not say.
func (b *bench) chunks() int64 {
	out, err := b.output(b.prestage, "--json", "inspect", filepath.Join(b.path("images"), indexFile))
	if err != nil {
		return 0
	}
	var v any
	if json.Unmarshal(out, &v) != nil {
		return 0
	}
	return findCount(v, "chunks")
}

// findCount finds a number, or the length of a list, by its name, at whatever
// depth of a JSON value.
func findCount(v any, name string) int64 {
	switch v := v.(type) {
	case map[string]any:
		switch x := v[name].(type) {
		case float64:
			return int64(x)
		case []any:
			return int64(len(x))
		}
		for _, x := range v {
			if n := findCount(x, name); n != 0 {
				return n
			}
		}
	case []any:
		for _, x := range v {
			if n := findCount(x, name); n != 0 {
				return n
			}
		}
	}
	return 0
}

// findImage finds the installed image: the one file of the image's size.
func (b *bench) findImage(store string) (string, error) {
	want, err := os.Stat(b.image)
	if err != nil {
		return "", err
	}
	found := ""
	err = filepath.WalkDir(store, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if info, err := d.Info(); err != nil || info.Size() != want.Size() {
			return err
		}
		found = path
		return fs.SkipAll
	})
	if err == nil && found == "" {
		err = fmt.Errorf("no file of %d bytes in %s", want.Size(), store)
	}
	return found, err
}

// A bid is a budget against one side; 0 for a comparison that informs only.
type bid struct {
	against string
	budget  float64
	missing string // what to say when that side did not run
}

// timeRows makes the rows for a race, whose first side is ours.
func (b *bench) timeRows(work string, sides []side, all []samples, bids []bid) []row {
	var rows []row
	for _, d := range bids {
		i := slices.IndexFunc(sides, func(s side) bool { return s.name == d.against })
		if i < 0 {
			rows = append(rows, row{work: work, against: d.against, budget: d.budget, missing: "not measured: " + d.missing})
			continue
		}
		rows = append(rows, timeRow(work, d.against, d.budget, all[0], all[i]))
	}
	return rows
}

// packageSize is the sum of both files of the package in a folder.
func packageSize(folder string) (int64, error) {
	ckm, errC := treeSize(filepath.Join(folder, ckmFile))
	index, errI := treeSize(filepath.Join(folder, indexFile))
	return ckm + index, errors.Join(errC, errI)
}

// treeSize is the sum of the sizes of all files at or below a path.
func treeSize(path string) (int64, error) {
	var sum int64
	err := filepath.WalkDir(path, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			sum += info.Size()
		}
		return err
	})
	return sum, err
}

// readAll reads a file to its end, so that it lies in the page cache.
func readAll(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyBuffer(io.Discard, struct{ io.Reader }{f}, make([]byte, mib))
	return err
}

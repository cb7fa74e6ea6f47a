package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/client"
	"prestage/internal/disk"
	"prestage/internal/fsmap"
	"prestage/internal/fsmap/guest"
	"prestage/internal/fsmap/volume"
	"prestage/internal/pack"
	"prestage/internal/patch"
	"prestage/internal/repo"
)

func (a *app) packCommand() *cobra.Command {
	var f packFlags
	cmd := &cobra.Command{
		Use:   "pack SOURCE --name NAME",
		Short: "Pack a disk image, or a folder of disks, as the next version of an image",
		Args:  exactly(1, "one SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pack(cmd.Context(), args[0], f)
		},
	}
	cmd.Flags().StringVar(&f.name, "name", "", "name of the image")
	cmd.Flags().StringVar(&f.level, "level", "default", "compression: fast, default or best")
	cmd.Flags().BoolVar(&f.discardFree, "discard-free", false, "leave out what no file of the machine inside uses; it comes back as zeros")
	cmd.Flags().StringSliceVar(&f.discard, "discard", nil, "leave out the content of swap, pagefile, hiberfil; it comes back as zeros")
	cmd.Flags().BoolVar(&f.trim, "trim-transfer", true, "let machines build the image from what they have and fetch the rest; false: all of it is fetched")
	cmd.Flags().StringSliceVar(&f.seedFolders, "seed-folder", nil, "folders of the machines whose files have parts of the image; fewer bytes are fetched then")
	cmd.Flags().BoolVar(&f.patch, "patch", true, "make a patch too, with which updates from the version before move less")
	cmd.Flags().BoolVar(&f.opaque, "opaque", false, "do not look for the files of the machine inside")
	cmd.Flags().StringVar(&f.sign, "sign", "", "a file with a secret key to sign the package with (prestage key new)")
	imagesFlag(cmd, &f.images)
	return cmd
}

type packFlags struct {
	name, images, level, sign        string
	discardFree, opaque, trim, patch bool
	discard, seedFolders             []string
}

// options returns how the packer is to pack, but for what depends on the image.
func (f *packFlags) options() (o pack.Options, err error) {
	if o.Level, err = ckm.ParseLevel(f.level); err != nil {
		return o, err
	}
	o.Discard = pack.Discard{Free: f.discardFree, Files: make(map[volume.Kind]bool)}
	for _, name := range f.discard {
		i := slices.IndexFunc(discardable, func(k volume.Kind) bool { return k.String() == name })
		if i < 0 {
			return o, fmt.Errorf("--discard takes swap, pagefile and hiberfil, and not %q", name)
		}
		o.Discard.Files[discardable[i]] = true
	}
	for _, folder := range f.seedFolders {
		if folder == "" || strings.Contains(folder, "|") {
			return o, fmt.Errorf("--seed-folder takes a folder, and not %q", folder)
		}
	}
	if a := client.SeedFoldersAttribute(f.seedFolders); len(a.Value) > ckm.MaxAttributeValue {
		return o, fmt.Errorf("--seed-folder: %d bytes of folders are more than the %d that a package can name", len(a.Value), ckm.MaxAttributeValue)
	}
	if f.opaque && (f.discardFree || len(f.discard) > 0) {
		return o, fmt.Errorf("--opaque does not look for what could be discarded; leave out one of them")
	}
	return o, nil
}

// discardable are the kinds of files whose content nobody needs.
var discardable = []volume.Kind{volume.Swap, volume.PageFile, volume.Hibernation}

// packed is what pack reports.
type packed struct {
	repo.Entry
	Files   int     `json:"files"`
	Data    uint64  `json:"data_size"` // bytes of the image that are not holes
	Chunks  int     `json:"chunks"`
	Frames  int     `json:"frames"`
	Ratio   float64 `json:"ratio"` // of the package to the image's data
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"rate"` // bytes of data a second
	Folder  string  `json:"folder"`

	Guest  int              `json:"guest_files"` // that chunks follow
	Opaque []string         `json:"opaque,omitempty"`
	Unused map[string]int64 `json:"unused,omitempty"` // about how many bytes of the package could be discarded

	Update int64 `json:"update_size,omitempty"` // bytes of frames that the version before lacks
	Patch  int64 `json:"patch_size,omitempty"`  // bytes of the patch
	Saved  int64 `json:"patch_saves,omitempty"` // bytes less that an update moves with it
}

// inside fills in what was found out about the machine inside.
func (p *packed) inside(m *fsmap.Map, k *pack.Kept) {
	if m == nil {
		return
	}
	p.Guest, p.Opaque = len(m.Files), m.Notes
	p.Unused = make(map[string]int64)
	if k.Free > 0 {
		p.Unused["free"] = k.Free
	}
	for kind, n := range k.Files {
		p.Unused[kind.String()] = n
	}
}

func (p *packed) print(w io.Writer) {
	fmt.Fprintf(w, "packed %s into %s\n", repo.ImageName(p.Name, p.Version), p.Folder)
	fmt.Fprintf(w, "  image    %s (%s of data, %s)\n", size(p.ImageSize), size(p.Data), count(p.Files, "file"))
	if p.Guest > 0 {
		fmt.Fprintf(w, "  inside   %s, which chunks follow\n", count(p.Guest, "file"))
	}
	for _, line := range p.Opaque {
		fmt.Fprintf(w, "  opaque   %s\n", line)
	}
	fmt.Fprintf(w, "  package  %s (%.2f of the data), INDEX %s\n", size(p.FileSize), p.Ratio, size(p.IndexSize))
	// What is less than a hundredth is not worth a line.
	worth := func(n int64) bool { return n > 0 && uint64(n) >= p.FileSize/100 }
	if n := p.Unused["free"]; worth(n) {
		fmt.Fprintf(w, "  unused   about %s of the package are free space; --discard-free leaves them out\n", size(n))
	}
	for _, k := range discardable {
		if n := p.Unused[k.String()]; worth(n) {
			fmt.Fprintf(w, "  unused   about %s of the package are %s; --discard %s leaves them out\n", size(n), k, k)
		}
	}
	if p.Update > 0 {
		fmt.Fprintf(w, "  update   %s are new since the version before", size(p.Update))
		if p.Patch > 0 {
			fmt.Fprintf(w, "; with the patch, %s", size(p.Update-p.Saved))
		}
		fmt.Fprintln(w)
	}
	fmt.Fprintf(w, "  chunks   %d in %s\n", p.Chunks, count(p.Frames, "frame"))
	fmt.Fprintf(w, "  time     %.1f s, %s/s\n", p.Seconds, size(int64(p.Rate)))
}

func (a *app) pack(ctx context.Context, source string, f packFlags) error {
	if f.name == "" {
		return usageError{fmt.Errorf("name the image with --name NAME")}
	}
	if err := ckm.CheckName(f.name); err != nil {
		return usageError{err}
	}
	o, err := f.options()
	if err != nil {
		return usageError{err}
	}
	created, err := creationTime()
	if err != nil {
		return err
	}
	r, err := a.folder(f.images)
	if err != nil {
		return err
	}
	if err := checkApart(source, r); err != nil {
		return err
	}
	var signature func(x *ckm.Index) error
	if f.sign != "" { // its password is better asked for before hours of packing
		if signature, err = signer(ctx, f.sign, created); err != nil {
			return err
		}
	}
	files, err := disk.Open(source)
	if err != nil {
		return err
	}
	for _, f := range files {
		defer f.Close()
	}
	start := time.Now()
	if !f.opaque {
		guests, opaque := guest.Open(files)
		if o.Map, err = fsmap.Read(ctx, guests); err != nil {
			return err
		}
		o.Map.Notes = append(opaque, o.Map.Notes...)
	}
	o.Meter, o.Kept = a.meter, &pack.Kept{}
	var previous *ckm.Index
	x, encoded, err := r.AddSigned(ctx, f.name, func(w io.Writer) (*ckm.Index, error) {
		o := o
		var err error
		if previous, err = a.previous(ctx, r, f.name); err != nil {
			return nil, err
		}
		o.Previous = previous
		x, err := pack.Write(ctx, w, files, o)
		if err == nil {
			x.Created, x.Creator = created, "prestage "+version
			if len(f.seedFolders) > 0 {
				x.Attributes = append(x.Attributes, client.SeedFoldersAttribute(f.seedFolders))
			}
			if !f.trim {
				x.Attributes = append(x.Attributes, ckm.Attribute{Key: client.TrimTransfer, Value: client.TrimTransferOff})
			}
		}
		return x, err
	}, signature)
	if err = a.exceptCatalog(err, "packed", x, r); err != nil {
		return err
	}
	var made patch.Made
	if f.trim && f.patch {
		if made, err = a.patch(ctx, r, x, previous); err != nil {
			return err
		}
	}
	took := time.Since(start).Seconds()
	p := packed{Entry: entryOf(x, encoded), Files: len(x.Files), Data: x.PlacedSize(),
		Chunks: x.Chunks(), Frames: x.Frames(), Seconds: took, Folder: r.String()}
	p.Rate = float64(p.Data) / took
	if p.Data > 0 {
		p.Ratio = float64(p.FileSize) / float64(p.Data)
	}
	p.inside(o.Map, o.Kept)
	p.Update, p.Patch, p.Saved = made.Update, made.Bytes, made.Saved
	return a.report(p, p.print)
}

// exceptCatalog tells of an error that leaves the package as it should be, and
// returns any other.
func (a *app) exceptCatalog(err error, done string, x *ckm.Index, r *repo.Folder) error {
	var catalog repo.CatalogError
	if errors.As(err, &catalog) {
		a.meter.Warn("%s is %s, but %v; run \"prestage catalog %s\"", repo.ImageName(x.Name, x.Version), done, err, r)
		return nil
	}
	return err
}

// checkApart refuses a folder of packages that lies inside the image: it would
// be packed with it.
func checkApart(source string, r *repo.Folder) error {
	image, err := os.Stat(source)
	if err != nil {
		return err
	}
	dir, err := filepath.Abs(r.String())
	if err != nil {
		return err
	}
	// Of a folder that is still to be made, what there is of the way to it.
	real, err := filepath.EvalSymlinks(dir)
	for errors.Is(err, fs.ErrNotExist) && dir != filepath.Dir(dir) {
		dir = filepath.Dir(dir)
		real, err = filepath.EvalSymlinks(dir)
	}
	if err != nil {
		return err
	}
	for above := ""; above != real; real = filepath.Dir(real) {
		above = real
		if st, err := os.Stat(real); err == nil && os.SameFile(st, image) {
			return fmt.Errorf("the folder of packages %q lies inside the image %q; name one elsewhere with --images", r, source)
		}
	}
	return nil
}

// previous returns the index of the image's latest version, which tells the
// packer how to group chunks. One that cannot be read is no reason to fail.
func (a *app) previous(ctx context.Context, r *repo.Folder, name string) (*ckm.Index, error) {
	e, err := repo.Find(ctx, r, name, 0)
	if err != nil {
		return nil, ctx.Err()
	}
	x, err := repo.ReadIndex(ctx, r, name, e.Version)
	if err != nil {
		a.meter.Warn("the version before cannot be read and is left out of account: %v", err)
		return nil, ctx.Err()
	}
	return x, nil
}

// patch makes the patch beside a package that was just packed. The package is
// whole without it, so that what goes wrong is not a reason to fail.
func (a *app) patch(ctx context.Context, r *repo.Folder, x, previous *ckm.Index) (made patch.Made, err error) {
	if previous == nil {
		return made, nil
	}
	open := func(x *ckm.Index) (patch.Package, error) {
		data, err := r.Data(ctx, x.Name, x.Version)
		return patch.Package{Index: x, Data: data}, err
	}
	old, err := open(previous)
	if err == nil {
		defer old.Data.Close()
		var pkg patch.Package
		if pkg, err = open(x); err == nil {
			defer pkg.Data.Close()
			err = r.AddPatch(ctx, x.Name, x.Version, func(w io.Writer, scratch *os.File) (err error) {
				made, err = patch.Write(ctx, w, scratch, old, pkg, a.meter)
				return err
			})
		}
	}
	if errors.Is(err, patch.ErrNotWorth) {
		return patch.Made{Update: made.Update}, nil
	}
	if err != nil && ctx.Err() == nil {
		a.meter.Warn("%s is packed, but has no patch: %v", repo.ImageName(x.Name, x.Version), err)
		return patch.Made{Update: made.Update}, nil
	}
	return made, err
}

// creationTime is now, or what SOURCE_DATE_EPOCH says, for builds that must
// come out the same.
func creationTime() (int64, error) {
	s := os.Getenv("SOURCE_DATE_EPOCH")
	if s == "" {
		return time.Now().Unix(), nil
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("SOURCE_DATE_EPOCH is %q and must be a number of seconds", s)
	}
	return n, nil
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

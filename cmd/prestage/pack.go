package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/pack"
	"prestage/internal/repo"
)

func (a *app) packCommand() *cobra.Command {
	var name, images, level string
	cmd := &cobra.Command{
		Use:   "pack SOURCE --name NAME",
		Short: "Pack a disk image, or a folder of disks, as the next version of an image",
		Args:  exactly(1, "one SOURCE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.pack(cmd.Context(), args[0], name, images, level)
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "name of the image")
	cmd.Flags().StringVar(&level, "level", "default", "compression: fast, default or best")
	imagesFlag(cmd, &images)
	return cmd
}

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
}

func (a *app) pack(ctx context.Context, source, name, images, levelName string) error {
	if name == "" {
		return usageError{fmt.Errorf("name the image with --name NAME")}
	}
	if err := ckm.CheckName(name); err != nil {
		return usageError{err}
	}
	level, err := ckm.ParseLevel(levelName)
	if err != nil {
		return usageError{err}
	}
	created, err := creationTime()
	if err != nil {
		return err
	}
	r, err := a.folder(images)
	if err != nil {
		return err
	}
	if err := checkApart(source, r); err != nil {
		return err
	}
	files, err := disk.Open(source)
	if err != nil {
		return err
	}
	for _, f := range files {
		defer f.Close()
	}
	start := time.Now()
	x, encoded, err := r.Add(ctx, name, func(w io.Writer) (*ckm.Index, error) {
		previous, err := a.previous(ctx, r, name)
		if err != nil {
			return nil, err
		}
		x, err := pack.Write(ctx, w, files, pack.Options{Level: level, Previous: previous, Meter: a.meter})
		if err == nil {
			x.Created, x.Creator = created, "prestage "+version
		}
		return x, err
	})
	var catalog repo.CatalogError
	if errors.As(err, &catalog) {
		a.meter.Warn("%s is packed, but %v; run \"prestage catalog %s\"", repo.ImageName(x.Name, x.Version), err, r)
	} else if err != nil {
		return err
	}
	took := time.Since(start).Seconds()
	p := packed{Entry: repo.NewEntry(&x.Info, x.Digest(), uint64(len(encoded))), Files: len(x.Files), Data: x.PlacedSize(),
		Chunks: x.Chunks(), Frames: x.Frames(), Seconds: took, Folder: r.String()}
	p.Rate = float64(p.Data) / took
	if p.Data > 0 {
		p.Ratio = float64(p.FileSize) / float64(p.Data)
	}
	return a.report(p, func(w io.Writer) {
		fmt.Fprintf(w, "packed %s into %s\n", repo.ImageName(p.Name, p.Version), p.Folder)
		fmt.Fprintf(w, "  image    %s (%s of data, %s)\n", size(p.ImageSize), size(p.Data), count(p.Files, "file"))
		fmt.Fprintf(w, "  package  %s (%.2f of the data), INDEX %s\n", size(p.FileSize), p.Ratio, size(p.IndexSize))
		fmt.Fprintf(w, "  chunks   %d in %s\n", p.Chunks, count(p.Frames, "frame"))
		fmt.Fprintf(w, "  time     %.1f s, %s/s\n", p.Seconds, size(int64(p.Rate)))
	})
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

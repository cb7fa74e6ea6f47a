package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"

	"prestage/internal/bundle"
	"prestage/internal/repo"
)

// bundleFlags are the flags of bundle.
type bundleFlags struct {
	out, client, program, vmsFolder, server, medium, from string
	images                                                []string
}

func (a *app) bundleCommand() *cobra.Command {
	var b bundleFlags
	cmd := &cobra.Command{
		Use:   "bundle --out DIR",
		Short: "Write a deployment package: a folder for removable media that installs the client unattended",
		Long: `DIR is a new folder. It gets Client.MSI, prestage.exe, the packages of the images
asked for, README.txt, a manifest, and start.cmd, which checks every file before
it changes anything, fills the pre-stage folder and installs the client.
"prestage verify DIR" checks the folder wherever it was carried.

A bundle fills at most three quarters of its medium: --medium names the size, as
makers do (16GB) or in powers of two (16GiB); otherwise it is that of the file
system that DIR is on.`,
		Args: exactly(0, "no arguments, only flags"),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.bundle(cmd.Context(), b) },
	}
	f := cmd.Flags()
	f.StringVar(&b.out, "out", "", "the new folder")
	f.StringArrayVar(&b.images, "image", nil, "an IMAGE to put in; may be repeated")
	f.StringVar(&b.server, "server", "", "URL of the image server that the client shall ask")
	f.StringVar(&b.vmsFolder, "vmsfolder", bundle.DefaultVMSFolder, "image store on the clients")
	f.StringVar(&b.client, "client", "", "the installer (default Client.MSI beside this program)")
	f.StringVar(&b.program, "program", "", "prestage for Windows (default this program there, elsewhere prestage.exe beside the installer or this program)")
	f.StringVar(&b.medium, "medium", "", "size of the medium, for instance 16GB; 0 for any (default that of DIR's file system)")
	imagesFlag(cmd, &b.from)
	return cmd
}

// bundled is what bundle reports.
type bundled struct {
	Folder         string          `json:"folder"`
	Files          int             `json:"files"`
	Size           int64           `json:"size"` // bytes
	ManifestSHA256 string          `json:"manifest_sha256"`
	Images         []string        `json:"images"`
	Settings       bundle.Settings `json:"settings"`
	Contents       []bundle.File   `json:"contents"`
}

func (a *app) bundle(ctx context.Context, b bundleFlags) error {
	o, err := a.bundleOptions(ctx, b)
	if err != nil {
		return err
	}
	m, err := bundle.Write(ctx, *o)
	if err != nil {
		return err
	}
	manifest, err := os.ReadFile(filepath.Join(o.Out, bundle.ManifestName))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(manifest)
	done := bundled{Folder: o.Out, Files: len(m.Files) + 1, Size: int64(len(manifest)), ManifestSHA256: hex.EncodeToString(sum[:]),
		Images: m.Images, Settings: m.Settings, Contents: m.Files}
	for _, f := range m.Files {
		done.Size += f.Size
	}
	return a.report(done, func(w io.Writer) {
		fmt.Fprintf(w, "wrote %s: %s, %s, read back and checked\n", done.Folder, count(done.Files, "file"), size(done.Size))
		for _, image := range done.Images {
			fmt.Fprintf(w, "  %s\n", image)
		}
		fmt.Fprintf(w, "  SHA-256 of %s: %s\n", bundle.ManifestName, done.ManifestSHA256)
		fmt.Fprintf(w, "On each machine run %s as an administrator.\n", bundle.StartName)
	})
}

// bundleOptions checks the flags and finds what they leave open.
func (a *app) bundleOptions(ctx context.Context, b bundleFlags) (*bundle.Options, error) {
	if b.out == "" {
		return nil, usageError{errors.New("name the new folder with --out DIR")}
	}
	o := &bundle.Options{Out: absolute(b.out), Client: b.client, Program: b.program, Creator: "prestage " + version, Meter: a.meter}
	var err error
	if o.Settings, err = bundle.NewSettings(b.vmsFolder, b.server); err != nil {
		return nil, usageError{err}
	}
	if o.Medium, err = mediumSize(b.medium); err != nil {
		return nil, usageError{err}
	}
	created, err := creationTime()
	if err != nil {
		return nil, err
	}
	o.Created = time.Unix(created, 0)
	if err := findPrograms(o); err != nil {
		return nil, err
	}
	if len(b.images) == 0 {
		return o, nil
	}
	if o.Repository, err = a.repository(b.from); err != nil {
		return nil, err
	}
	if o.Trust, err = a.trust(); err != nil {
		return nil, err
	}
	for _, arg := range b.images {
		name, version, err := imageIn(ctx, o.Repository, arg)
		if err != nil {
			return nil, err
		}
		if i := (bundle.Image{Name: name, Version: version}); !slices.Contains(o.Images, i) {
			o.Images = append(o.Images, i)
		}
	}
	return o, nil
}

// mediumSize reads --medium. Makers of media count in powers of ten.
func mediumSize(s string) (int64, error) {
	switch s {
	case "":
		return bundle.AskMedium, nil
	case "0":
		return 0, nil
	}
	parse := units.FromHumanSize
	if strings.ContainsAny(s, "iI") {
		parse = units.RAMInBytes
	}
	n, err := parse(s)
	if err != nil || n <= 0 {
		return 0, fmt.Errorf("--medium %q: use a size, for instance 16GB or 8GiB, or 0 for any medium", s)
	}
	return n, nil
}

// findPrograms finds the installer and the program for Windows where no flag
// names them.
func findPrograms(o *bundle.Options) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	beside := filepath.Dir(self)
	if o.Client == "" {
		o.Client = filepath.Join(beside, bundle.ClientName)
		if _, err := os.Stat(o.Client); errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%w: there is no %s beside this program (%s); name the installer with --client FILE", repo.ErrNotFound, bundle.ClientName, beside)
		}
	}
	if o.Program != "" {
		return nil
	}
	if runtime.GOOS == "windows" {
		o.Program = self
		return nil
	}
	for _, dir := range []string{filepath.Dir(o.Client), beside} {
		o.Program = filepath.Join(dir, bundle.ProgramName)
		if _, err := os.Stat(o.Program); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: there is no %s beside %s nor beside this program (%s); name prestage for Windows with --program FILE",
		repo.ErrNotFound, bundle.ProgramName, o.Client, beside)
}

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

func (a *app) inspectCommand() *cobra.Command {
	var images, export string
	cmd := &cobra.Command{
		Use:   "inspect IMAGE|FILE",
		Short: "Show what a package says about itself",
		Long: `With --export, the statement that signatures sign and each signature go into files,
which others can check with minisign and sha256sum:

  minisign -V -p KEY.pub -m NAME_N.statement -x NAME_N.statement.KEYID.minisig
  sha256sum -c NAME_N.statement`,
		Args: exactly(1, "one IMAGE or FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			x, encoded, err := a.indexOf(cmd.Context(), args[0], images)
			if err != nil {
				return err
			}
			trust, err := a.trust()
			if err != nil {
				return err
			}
			in := inspect(x, encoded)
			in.Signers = trust.Signers(x)
			if export != "" {
				if err := exportSignatures(x, export); err != nil {
					return err
				}
			}
			return a.print(in, func(w io.Writer) { in.show(w) })
		},
	}
	cmd.Flags().StringVar(&export, "export", "", "write the statement and the signatures into this folder")
	imagesFlag(cmd, &images)
	return cmd
}

// exportSignatures writes what others need to check the signatures of a package.
func exportSignatures(x *ckm.Index, dir string) error {
	for _, f := range sign.Export(x) {
		if err := durable.WriteFile(filepath.Join(dir, f.Name), f.Data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// indexOf finds the INDEX that IMAGE or FILE means; of a CKM it is the one
// beside it.
func (a *app) indexOf(ctx context.Context, arg, images string) (*ckm.Index, []byte, error) {
	var (
		r       repo.Repository
		name    string
		version uint32
		err     error
	)
	if _, statErr := os.Stat(arg); statErr == nil {
		var ok bool
		if name, version, _, ok = ckm.ParseFileName(filepath.Base(arg)); !ok {
			return nil, nil, usageError{fmt.Errorf("%q is not a file of a package (NAME_N.ckm or NAME_N.index)", arg)}
		}
		r = repo.NewFolder(filepath.Dir(arg))
	} else {
		if r, err = a.repository(images); err != nil {
			return nil, nil, err
		}
		if name, version, err = imageIn(ctx, r, arg); err != nil {
			return nil, nil, err
		}
	}
	encoded, err := r.Index(ctx, name, version)
	if err != nil {
		return nil, nil, err
	}
	x, err := repo.DecodeIndex(r, encoded, name, version)
	return x, encoded, err
}

// inspection is what inspect reports.
type inspection struct {
	repo.Entry
	Creator    string            `json:"creator"`
	Data       uint64            `json:"data_size"` // bytes that are not holes
	Chunks     int               `json:"chunks"`
	Frames     int               `json:"frames"`
	ChunkSizes [3]uint32         `json:"chunk_sizes"` // minimum, average, maximum
	FrameLimit uint32            `json:"frame_limit"`
	BLAKE3     string            `json:"ckm_blake3"`
	SHA256     string            `json:"ckm_sha256"`
	Files      []inspectedFile   `json:"files"`
	Attributes map[string]string `json:"attributes"`
	Signed     bool              `json:"signed"`
	Signers    []sign.Signer     `json:"signers"`
}

type inspectedFile struct {
	Path   string `json:"path"`
	Size   uint64 `json:"size"`
	Format string `json:"format"`
}

func inspect(x *ckm.Index, encoded []byte) *inspection {
	in := &inspection{
		Entry: entryOf(x, encoded), Creator: x.Creator, Data: x.PlacedSize(),
		Chunks: x.Chunks(), Frames: x.Frames(), ChunkSizes: [3]uint32{x.ChunkMin, x.ChunkAvg, x.ChunkMax}, FrameLimit: x.FrameLimit,
		BLAKE3: x.CKMBlake3.String(), SHA256: hex.EncodeToString(x.CKMSHA256[:]), Attributes: map[string]string{}, Signed: len(x.Signatures) > 0,
	}
	for _, f := range x.Files {
		in.Files = append(in.Files, inspectedFile(f))
	}
	for _, a := range x.Attributes {
		in.Attributes[a.Key] = a.Value
	}
	return in
}

// entryOf describes a package from its whole INDEX.
func entryOf(x *ckm.Index, encoded []byte) repo.Entry {
	e := repo.NewEntry(&x.Info, x.Digest(), uint64(len(encoded)))
	e.SignedBy = repo.KeyIDs(x.Signatures)
	return e
}

func (in *inspection) show(w io.Writer) {
	fmt.Fprintf(w, "image     %s\n", repo.ImageName(in.Name, in.Version))
	fmt.Fprintf(w, "created   %s by %s\n", in.Created.Format(time.RFC3339), in.Creator)
	fmt.Fprintf(w, "digest    %s\n", in.PackageDigest)
	for _, s := range in.Signers {
		fmt.Fprintf(w, "signed by %s\n  comment %s\n", s, strings.ReplaceAll(s.Comment, "\t", " "))
	}
	if !in.Signed {
		fmt.Fprintln(w, "signed by nobody")
	}
	fmt.Fprintf(w, "image     %s, %s of data\n", size(in.ImageSize), size(in.Data))
	for _, f := range in.Files {
		fmt.Fprintf(w, "  %s  %d bytes, %s\n", f.Path, f.Size, f.Format)
	}
	fmt.Fprintf(w, "CKM       %d bytes in %s\n", in.FileSize, count(in.Frames, "frame"))
	fmt.Fprintf(w, "  blake3  %s\n  sha256  %s\n", in.BLAKE3, in.SHA256)
	fmt.Fprintf(w, "INDEX     %d bytes, %s", in.IndexSize, count(in.Chunks, "chunk"))
	if in.Chunks > 0 {
		fmt.Fprintf(w, ", %.1f bytes a chunk", float64(in.IndexSize)/float64(in.Chunks))
	}
	fmt.Fprintf(w, "\nchunks    of %d to %d bytes, %d on average aimed at, frames of %d at most\n", in.ChunkSizes[0], in.ChunkSizes[2], in.ChunkSizes[1], in.FrameLimit)
	for k, v := range in.Attributes {
		fmt.Fprintf(w, "%s = %s\n", k, v)
	}
}

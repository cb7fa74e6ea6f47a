package client

import (
	"context"
	"errors"
	"path/filepath"
	"slices"
	"strings"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/durable"
	"prestage/internal/ownfiles"
	"prestage/internal/repo"
)

// TrimTransfer is the key of the attribute that says of an image, if its value
// is TrimTransferOff, that machines are to fetch all of it.
const (
	TrimTransfer    = "trim-transfer"
	TrimTransferOff = "off"
)

func trimTransfer(x *ckm.Index) bool {
	return !slices.Contains(x.Attributes, ckm.Attribute{Key: TrimTransfer, Value: TrimTransferOff})
}

// SeedFolders is the key of the attribute that names the folders of machines whose
// files have parts of the image, with | between them.
const SeedFolders = "seed-folders"

// SeedFoldersAttribute returns the attribute that names folders.
func SeedFoldersAttribute(folders []string) ckm.Attribute {
	return ckm.Attribute{Key: SeedFolders, Value: strings.Join(folders, "|")}
}

// SeedFoldersOf returns the folders that an image names, as far as there can be
// such folders on this system.
func SeedFoldersOf(x *ckm.Index) (folders []string) {
	for _, a := range x.Attributes {
		if a.Key != SeedFolders {
			continue
		}
		for f := range strings.SplitSeq(a.Value, "|") {
			f = filepath.Clean(f)
			if filepath.IsAbs(f) && !strings.HasPrefix(f, `\\`) { // not another machine's
				folders = append(folders, f)
			}
		}
	}
	return folders
}

// seeds returns what the machine has that may hold chunks of x, the most likely
// first: the image's other versions, other images, its own files. In dir
// lies the version before, or a later one when there is none.
func (in *Install) seeds(x *ckm.Index) (list []assemble.Seed, dir string) {
	add := func(name string, version uint32) bool {
		old, err := in.Store.Index(name, version)
		if err != nil {
			in.Meter.Warn("%s cannot be used to save a download: %v", repo.ImageName(name, version), err)
			return false
		}
		list = append(list, assemble.ImageSeed(in.Store.ImageDir(name, version), old))
		return true
	}
	versions, err := in.Store.Versions(x.Name)
	if err != nil {
		in.Meter.Warn("other versions of %s cannot be used to save a download: %v", x.Name, err)
	}
	// The nearest version is most alike, and there is no nearer one above.
	slices.SortFunc(versions, func(a, b uint32) int { return int(distance(a, x.Version)) - int(distance(b, x.Version)) })
	for _, v := range versions {
		if add(x.Name, v) && dir == "" {
			dir = in.Store.ImageDir(x.Name, v)
		}
	}
	others, _ := in.Store.List()
	for i, o := range others {
		if last := i+1 == len(others) || others[i+1].Name != o.Name; last && o.Name != x.Name {
			add(o.Name, o.Version)
		}
	}
	folders := in.SeedFolders
	known := exists(in.Store.OwnFiles())
	if len(folders) == 0 && !known {
		folders = SeedFoldersOf(x)
	}
	if len(folders) > 0 || known {
		list = append(list, &ownfiles.Seed{Cache: in.Store.OwnFiles(), Folders: folders, Image: x, Meter: in.Meter})
	}
	return list, dir
}

// patch opens the patch that makes x from a version that is installed, nil if there
// is none: then frames are fetched instead, which is no reason for a word unless
// something is wrong with it. From a disk of this machine they always are: they are
// read sooner than a patch's chunks are made.
func (in *Install) patch(ctx context.Context, x *ckm.Index) *assemble.PatchSeed {
	if versions, err := in.Store.Versions(x.Name); err != nil || len(versions) == 0 || in.Images == nil {
		return nil
	}
	if f, ok := in.Images.(*repo.Folder); ok && !durable.Remote(f.String()) {
		return nil
	}
	p, err := assemble.OpenPatch(ctx, in.Images, x, in.Limit, func(version uint32) (string, *ckm.Index, error) {
		base, err := in.Store.Index(x.Name, version)
		return in.Store.ImageDir(x.Name, version), base, err
	})
	if err == nil {
		return p
	}
	if !errors.Is(err, repo.ErrNotFound) && ctx.Err() == nil {
		in.Meter.Warn("the patch of %s cannot be used: %v", repo.ImageName(x.Name, x.Version), err)
	}
	return nil
}

func distance(a, b uint32) uint32 { return max(a, b) - min(a, b) }

package ntfs

import (
	"context"
	"math"

	"prestage/internal/fsmap/volume"
)

// Files implements volume.FileSystem. Each stream of a file is one, and so is a
// stream of a directory. The files of the file system itself are none.
func (fs *fileSystem) Files(ctx context.Context, yield func(*volume.File) error) error {
	in := inode{fs: fs}
	folders := folders{fs: fs}
	return fs.scan(ctx, func(number int64, h header) error {
		if number < firstUser {
			return nil
		}
		if err := in.load(number, h); err != nil {
			return err
		}
		if system, err := folders.isSystem(&in); err != nil || system {
			return err
		}
		kind := in.fileKind()
		for i := range in.attributes {
			a := &in.attributes[i]
			if a.kind != typeData || a.resident {
				continue
			}
			extents := fs.extents(a)
			if len(extents) == 0 {
				continue
			}
			f := &volume.File{ID: uint64(number), Stream: text(a.name), Size: a.size, Extents: extents}
			if a.name == "" {
				f.Kind = kind
			}
			if err := yield(f); err != nil {
				return err
			}
		}
		return nil
	})
}

// fileKind says what a file is for. Only names in the root count.
func (in *inode) fileKind() volume.Kind {
	switch {
	case in.directory:
	case in.isRootFile("pagefile.sys"), in.isRootFile("swapfile.sys"):
		return volume.PageFile
	case in.isRootFile("hiberfil.sys"):
		return volume.Hibernation
	}
	return volume.Ordinary
}

// extents returns where the content of an attribute lies that is not resident.
func (fs *fileSystem) extents(a *attribute) []volume.Extent {
	size := fs.geometry.cluster
	// What is behind it reads as zeros, whatever lies there.
	limit := a.initialized
	if a.flags&flagCompressed != 0 {
		// Clusters are compressed some together, and how far a compressed one
		// reaches is not known.
		unit := size << a.unit
		limit = min(limit, math.MaxInt64-unit) + unit - 1
		limit -= limit % unit
	}
	list := make([]volume.Extent, 0, len(a.runs))
	for _, r := range a.runs {
		if r.virtual*size >= limit {
			break
		}
		e := volume.Extent{Offset: r.cluster * size, Length: min(r.length*size, limit-r.virtual*size)}
		if last := len(list) - 1; last >= 0 && list[last].End() == e.Offset {
			list[last].Length += e.Length
		} else {
			list = append(list, e)
		}
	}
	return list
}

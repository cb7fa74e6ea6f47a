// Package ntfs reads what NTFS, versions 3.0 and 3.1, tells of its volume:
// which clusters are which file's, and which are free.
//
// It follows the layout that the Linux-NTFS project documented ("NTFS
// Documentation", Russon and Fledel) and that the headers of ntfs-3g state.
// There is no specification by the vendor. Nothing is believed that the volume
// can be asked twice: Open reads the whole file table and compares the
// clusters of each attribute with the volume's own bitmap.
package ntfs

import (
	"context"
	"fmt"
	"io"

	"prestage/internal/fsmap/volume"
)

// Records of the file table that each volume has at the same place.
const (
	recordMFT     = 0
	recordLogFile = 2
	recordVolume  = 3
	recordRoot    = 5
	recordBitmap  = 6

	// firstUser is the first record that is not kept for the file system itself.
	firstUser = 24
)

// fileSystem is a volume that was found to be whole.
type fileSystem struct {
	r        io.ReaderAt
	geometry geometry
	end      int64 // nothing from here on is free: the copy of the boot sector

	mft    attribute // the file table
	inUse  attribute // its bitmap: a bit for each record
	bitmap attribute // the volume's: a bit for each cluster
}

// Open reads the NTFS volume in the first size bytes of r. It reads the whole
// file table, because what it says must agree with itself before any of it can
// be relied on. The error wraps volume.ErrUnknown if this is no NTFS,
// volume.ErrRefused if it was not shut down or is of a kind that is not known
// here, and volume.ErrDamaged if it contradicts itself.
func Open(r io.ReaderAt, size int64) (volume.FileSystem, error) {
	g, err := readBoot(r, size)
	if err != nil {
		return nil, err
	}
	// The last sector of the volume is a copy of the first, and in no cluster
	// that the bitmap knows.
	fs := &fileSystem{r: r, geometry: g, end: min(g.clusters*g.cluster, size-g.sector)}
	if err := fs.openTable(); err != nil {
		return nil, err
	}
	if err := fs.checkVersion(); err != nil {
		return nil, err
	}
	// Before the rest: what is still in the log lacks in the file table, which
	// would look like damage.
	if err := fs.checkLog(); err != nil {
		return nil, err
	}
	hibernation, err := fs.check()
	if err != nil {
		return nil, err
	}
	if err := fs.checkHibernation(hibernation); err != nil {
		return nil, err
	}
	return fs, nil
}

// Name implements volume.FileSystem.
func (fs *fileSystem) Name() string { return "ntfs" }

// check reads the file table and sees that each cluster of each attribute is
// marked as used, and that there are not more of them than there are. It
// returns the records of the root's hiberfil.sys.
func (fs *fileSystem) check() (hibernation []int64, err error) {
	used := &usedMap{fs: fs}
	if err := used.check(run{length: 1}); err != nil { // the boot sector is there
		return nil, err
	}
	claimed := int64(0)
	in := inode{fs: fs, claim: func(r run) error {
		// A cluster belongs to one attribute. That bounds all the work, too.
		if claimed += r.length; claimed > fs.geometry.clusters {
			return fmt.Errorf("%w: files have more clusters than the volume", volume.ErrDamaged)
		}
		return used.check(r)
	}}
	err = fs.scan(context.Background(), func(number int64, h header) error {
		if err := in.load(number, h); err != nil {
			return err
		}
		if !in.directory && in.isRootFile("hiberfil.sys") {
			hibernation = append(hibernation, number)
		}
		return nil
	})
	return hibernation, err
}

// Package fat reads what FAT12, FAT16, FAT32 and exFAT tell of their volume:
// which clusters are which file's, and which are free.
//
// It follows Microsoft's "FAT: General Overview of On-Disk Format" (version
// 1.03) and "exFAT file system specification" (revision 1.00). Nothing is
// believed that the volume can be asked twice: Open walks all folders and sees
// that no cluster is claimed more often than it can be, that none that is in use
// is marked as free, and that copies of tables agree.
package fat

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"

	"prestage/internal/fsmap/volume"
)

var le = binary.LittleEndian

const (
	firstCluster = 2 // clusters are counted from here
	entrySize    = 32

	shutDown = "start the virtual machine and shut it down"
)

// fileSystem is a volume that was found to be whole.
type fileSystem struct {
	r io.ReaderAt

	name     string
	sector   int64 // bytes
	cluster  int64 // bytes
	clusters int64
	data     int64 // offset of the first cluster
	table    table
	dir      format
	root     place
	bitmap   place // of exFAT: what is in use
}

// place is where a content lies.
type place struct {
	offset     int64 // of what lies before all clusters; 0 for others
	cluster    int64 // the first; 0 if there is none
	contiguous bool  // the clusters follow each other, and the table says nothing of them
	length     int64 // bytes; of a FAT folder what it can have at most
	chained    bool  // it may end before its length, where its chain does
}

// format is how entries of folders are written.
type format interface {
	// next reads the next file or folder; ok is false at the folder's end.
	next(d *folder, n *node) (ok bool, err error)
}

func refused(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrRefused, fmt.Sprintf(format, args...))
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// Open reads the FAT or exFAT volume in the first size bytes of r. It reads all
// folders and tables, because what they say must agree before any of it can be
// relied on. The error wraps volume.ErrUnknown if this is neither,
// volume.ErrRefused if it was not unmounted or has what is not known here,
// volume.ErrDamaged if it contradicts itself.
func Open(r io.ReaderAt, size int64) (volume.FileSystem, error) {
	boot := make([]byte, 512)
	if size < int64(len(boot)) {
		return nil, volume.ErrUnknown
	}
	if _, err := r.ReadAt(boot, 0); err != nil {
		return nil, err
	}
	if boot[510] != 0x55 || boot[511] != 0xaa {
		return nil, volume.ErrUnknown
	}
	fs := &fileSystem{r: r}
	open := fs.openFAT
	if bytes.Equal(boot[3:11], []byte("EXFAT   ")) {
		open = fs.openExFAT
	}
	if err := open(boot, size); err != nil {
		return nil, err
	}
	return fs, nil
}

// Name implements volume.FileSystem.
func (fs *fileSystem) Name() string { return fs.name }

// isCluster reports whether n clusters from c on are of the volume.
func (fs *fileSystem) isCluster(c, n int64) bool {
	return c >= firstCluster && n > 0 && c < fs.clusters+firstCluster && n <= fs.clusters+firstCluster-c
}

// offset returns where a cluster lies.
func (fs *fileSystem) offset(c int64) int64 { return fs.data + (c-firstCluster)*fs.cluster }

// checkCopies sees that n tables, one after the other, are the same.
func (fs *fileSystem) checkCopies(n int64) error {
	p, q := make([]byte, piece), make([]byte, piece)
	for at := int64(0); at < fs.table.length; at += piece {
		p := p[:min(piece, fs.table.length-at)]
		if _, err := fs.r.ReadAt(p, fs.table.offset+at); err != nil {
			return err
		}
		for i := int64(1); i < n; i++ {
			q := q[:len(p)]
			if _, err := fs.r.ReadAt(q, fs.table.offset+i*fs.table.stride+at); err != nil {
				return err
			}
			if !bytes.Equal(p, q) {
				return damaged("the copies of %s's allocation table differ", fs.name)
			}
		}
	}
	return nil
}

// check walks all folders and claims all clusters of files.
func (fs *fileSystem) check(w *walker) error {
	return w.walk(context.Background(), func(n *node) error {
		list, err := w.extents(n)
		if err == nil && n.kind == volume.Hibernation && len(list) > 0 {
			err = fs.checkHibernation(list[0])
		}
		return err
	})
}

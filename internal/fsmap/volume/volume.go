// Package volume says what a file system tells of the bytes of its volume:
// which of them are a file's, in which order, and which are free.
package volume

import (
	"context"
	"errors"
)

var (
	// ErrUnknown says that the bytes are not of the kind that was asked for.
	ErrUnknown = errors.New("not recognised")
	// ErrRefused says that they are, and that nothing can be told of them: the
	// volume is in use or was not shut down, or it has something that is not
	// known here. The error says which, and what may help, in a line.
	ErrRefused = errors.New("cannot be used")
	// ErrDamaged says that they contradict themselves.
	ErrDamaged = errors.New("damaged")
)

// Extent is a range of the volume's bytes.
type Extent struct {
	Offset, Length int64 // bytes; Length is more than 0
}

// End returns the offset of the first byte after it.
func (e Extent) End() int64 { return e.Offset + e.Length }

// Kind is what a file is for.
type Kind int

// Kinds of files. But for ordinary ones, their content is worth nothing once the
// machine was shut down.
const (
	Ordinary    Kind = iota
	Swap             // Linux's swap space, behind its header
	PageFile         // pagefile.sys and swapfile.sys
	Hibernation      // hiberfil.sys, when the machine is not hibernated
)

// String returns how people call files of the kind.
func (k Kind) String() string { return [...]string{"ordinary", "swap", "pagefile", "hiberfil"}[k] }

// File is a file's content as it lies on the volume.
type File struct {
	ID     uint64 // of the file system: inode number, record number
	Stream string // of a file with several contents; empty for its main one
	Kind   Kind
	Size   int64 // bytes of its content, of which some may lie nowhere

	// Extents are the stored bytes in the order of the content, neighbours
	// joined, without what lies after its end. Holes and what was allocated and
	// never written are left out, as is content that lies among metadata. Of
	// content that is stored compressed they are the stored bytes.
	Extents []Extent
}

// FileSystem is a file system that is whole and was shut down.
type FileSystem interface {
	// Name says which one, as in "ext4".
	Name() string
	// Files calls yield with each file that has extents, in the order of the
	// file system's own tables. What yield is given is its own.
	Files(ctx context.Context, yield func(*File) error) error
	// Free calls yield with what no file and no metadata uses, in ascending
	// order, neighbours joined.
	Free(ctx context.Context, yield func(Extent) error) error
}

// Namer is a FileSystem that can name its files.
type Namer interface {
	// Names calls yield with the ID and a path of each file, / between
	// elements and none at the start. A file with several links has several.
	Names(ctx context.Context, yield func(id uint64, path string) error) error
}

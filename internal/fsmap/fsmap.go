// Package fsmap says what the bytes of an image are for: which are a file's of
// the machine inside, and which are free.
package fsmap

import "prestage/internal/fsmap/volume"

// Extent is a range of bytes of one of the image's files.
type Extent struct {
	File           uint32 // number, in the image's order
	Offset, Length int64  // bytes
}

// End returns the offset of the first byte after it.
func (e Extent) End() int64 { return e.Offset + e.Length }

// File is a file of the machine inside.
type File struct {
	Kind    volume.Kind
	Extents []Extent // in the order of its content
	// Path tells it from all others of the image, and is the same in another
	// version of the image. It is empty if names were not asked for, or are not
	// known.
	Path string
}

// Map is what was found out about an image.
type Map struct {
	Files []File
	Free  []Extent // nothing uses them; in any order
	// Notes say of each part of the image that stays opaque what it is and why,
	// a line each.
	Notes []string
}

package fsmap

import "prestage/internal/disk"

// raw is the disk in an image's file that holds nothing else.
type raw struct {
	*disk.File
	number uint32
}

// Raw returns the disk of an image's file that is a raw one.
func Raw(f *disk.File, number uint32) Guest { return raw{f, number} }

// Name implements Guest.
func (r raw) Name() string { return r.Path }

// Size implements Guest.
func (r raw) Size() int64 { return r.File.Size }

// Map implements Guest.
func (r raw) Map(offset, length int64, yield func(Extent) error) error {
	return yield(Extent{r.number, offset, length})
}

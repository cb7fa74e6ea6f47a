package fsmap

import (
	"io"

	"prestage/internal/fsmap/volume"
)

// swapMagic ends the first page of Linux's swap space. When a machine hibernates
// into it, something else stands there.
const swapMagic = "SWAPSPACE2"

// swap takes a swap volume as a file whose content begins behind its header.
func (r *reader) swap(s span) (bool, error) {
	page, err := swapHeader(s, s.size)
	if page == 0 || err != nil {
		return false, err
	}
	f := File{Kind: volume.Swap}
	if err := r.place(s, volume.Extent{Offset: page, Length: s.size - page}, &f.Extents); err != nil {
		return false, err
	}
	r.m.Files = append(r.m.Files, f)
	return true, nil
}

// swapFileLeast is the size in bytes of the smallest file that is looked at.
const swapFileLeast = 1 << 20

// swapFile makes a file that is swap space one of that kind, without its header,
// which becomes a file by itself.
func (r *reader) swapFile(s span, f *volume.File) error {
	if f.Kind != volume.Ordinary || f.Size < swapFileLeast || len(f.Extents) == 0 {
		return nil
	}
	e := &f.Extents[0]
	page, err := swapHeader(io.NewSectionReader(s, e.Offset, e.Length), e.Length)
	if page == 0 || err != nil {
		return err
	}
	header := File{}
	if err := r.place(s, volume.Extent{Offset: e.Offset, Length: page}, &header.Extents); err != nil {
		return err
	}
	r.m.Files = append(r.m.Files, header)
	f.Kind = volume.Swap
	e.Offset, e.Length = e.Offset+page, e.Length-page
	return nil
}

// swapHeader returns how many bytes the header of a swap space has, or 0 if r is
// none. They are a page of the machine that made it.
func swapHeader(r io.ReaderAt, size int64) (int64, error) {
	b := make([]byte, len(swapMagic))
	for _, page := range []int64{4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10} {
		if size <= page {
			return 0, nil
		}
		if _, err := r.ReadAt(b, page-int64(len(b))); err != nil {
			return 0, err
		}
		if string(b) == swapMagic {
			return page, nil
		}
	}
	return 0, nil
}

package ntfs

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// piece is how much is read at once of what is read from front to end.
const piece = 256 << 10

// readFull fills p from off.
func readFull(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("reading NTFS at %d: %w", off, err)
}

// openTable finds the file table and the bitmaps. Where the table lies is
// written in the table: its first record says where the first part is, and the
// records that have the rest lie in parts that are known by then.
func (fs *fileSystem) openTable() error {
	p := make([]byte, fs.geometry.record)
	if err := readFull(fs.r, p, fs.geometry.mft*fs.geometry.cluster); err != nil {
		return err
	}
	h, err := parseRecord(p)
	if err == nil {
		err = fs.findTable(h)
	}
	if err != nil {
		return fmt.Errorf("NTFS file table: %w", err)
	}
	in := inode{fs: fs}
	if err := in.load(recordMFT, h); err != nil {
		return err
	}
	if fs.mft, err = in.need(typeData, ""); err != nil {
		return err
	}
	if fs.inUse, err = in.need(typeBitmap, ""); err != nil {
		return err
	}
	if in, err = fs.inode(recordBitmap); err != nil {
		return err
	}
	if fs.bitmap, err = in.need(typeData, ""); err != nil {
		return err
	}
	if bytes := (fs.geometry.clusters + 7) / 8; fs.bitmap.initialized < bytes {
		return fmt.Errorf("NTFS bitmap: %w", damage("%d bytes, should be %d", fs.bitmap.initialized, bytes))
	}
	return nil
}

// findTable sets the parts of the file table that its first record leads to.
func (fs *fileSystem) findTable(h header) error {
	if !h.used || h.base != 0 {
		return damage("it has no first record")
	}
	var list attribute
	err := h.eachAttribute(func(p []byte) error {
		a, err := parseAttribute(p, fs.geometry.clusters, nil)
		switch {
		case err != nil:
			return err
		case a.is(typeData, "") && a.first == 0:
			fs.mft = a
		case a.is(typeList, ""):
			list = a
		}
		return nil
	})
	if err != nil {
		return err
	}
	if fs.mft.resident || len(fs.mft.runs) == 0 || fs.mft.initialized < firstUser*fs.geometry.record {
		return damage("it has no %d records", firstUser)
	}
	if list.kind == 0 {
		return nil
	}
	entries, err := fs.list(&list)
	if err != nil {
		return err
	}
	record := make([]byte, fs.geometry.record)
	for _, e := range entries {
		if e.kind != typeData || e.name != "" || e.first == 0 {
			continue
		}
		of, err := fs.readRecord(e.record, record)
		if err != nil {
			return fmt.Errorf("record %d: %w", e.record, err)
		}
		err = of.eachAttribute(func(p []byte) error {
			if le.Uint32(p) != typeData || le.Uint16(p[0x0E:]) != e.instance {
				return nil
			}
			a, err := parseAttribute(p, fs.geometry.clusters, nil)
			if err == nil && a.first == fs.mft.next {
				fs.mft.runs, fs.mft.next = append(fs.mft.runs, a.runs...), a.next
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("record %d: %w", e.record, err)
		}
	}
	return nil
}

// need returns an attribute that must be there.
func (in *inode) need(kind uint32, name string) (attribute, error) {
	a := in.find(kind, name)
	if a == nil {
		return attribute{}, fmt.Errorf("NTFS file record %d: %w", in.number, damage("it has no attribute 0x%x", kind))
	}
	return *a, nil
}

// readRecord reads a record of the file table into p, which the result refers
// to.
func (fs *fileSystem) readRecord(number int64, p []byte) (header, error) {
	if number >= fs.mft.initialized/fs.geometry.record {
		return header{}, damage("there is no such record")
	}
	if err := fs.content(&fs.mft, p, number*fs.geometry.record); err != nil {
		return header{}, err
	}
	return parseRecord(p)
}

// inode reads the file with that base record.
func (fs *fileSystem) inode(number int64) (in inode, err error) {
	h, err := fs.readRecord(number, make([]byte, fs.geometry.record))
	if err == nil && (!h.used || h.base != 0) {
		err = damage("it is no file's")
	}
	if err != nil {
		return in, fmt.Errorf("NTFS file record %d: %w", number, err)
	}
	in.fs = fs
	return in, in.load(number, h)
}

// scan calls do with each base record that is in use, in their order. What it
// is given is good until it returns.
func (fs *fileSystem) scan(ctx context.Context, do func(number int64, h header) error) error {
	size := fs.geometry.record
	records := fs.mft.initialized / size
	buf := make([]byte, min(piece, records*size))
	for number := int64(0); number < records; {
		if err := ctx.Err(); err != nil {
			return err
		}
		buf = buf[:min(int64(len(buf)), (records-number)*size)]
		if err := fs.content(&fs.mft, buf, number*size); err != nil {
			return fmt.Errorf("NTFS file table: %w", err)
		}
		for p := buf; len(p) > 0; p, number = p[size:], number+1 {
			h, err := parseRecord(p[:size:size])
			if err != nil {
				// Records that were never used may hold anything.
				used, err2 := fs.recordInUse(number)
				if err2 != nil {
					return err2
				}
				if used {
					return fmt.Errorf("NTFS file record %d: %w", number, err)
				}
				continue
			}
			if !h.used || h.base != 0 {
				continue
			}
			if err := do(number, h); err != nil {
				return err
			}
		}
	}
	return nil
}

// recordInUse tells what the bitmap of the file table says.
func (fs *fileSystem) recordInUse(number int64) (bool, error) {
	var b [1]byte
	if err := fs.content(&fs.inUse, b[:], number/8); err != nil {
		return false, fmt.Errorf("NTFS file table's bitmap: %w", err)
	}
	return b[0]>>(number%8)&1 != 0, nil
}

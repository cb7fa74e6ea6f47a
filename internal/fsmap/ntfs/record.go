package ntfs

import (
	"fmt"

	"prestage/internal/fsmap/volume"
)

// stride is how far the places are apart that an update sequence protects, on
// disks with sectors of any size.
const stride = 512

// damage is an error for what cannot be, without its place.
func damage(format string, args ...any) error {
	return fmt.Errorf("%w: %s", volume.ErrDamaged, fmt.Sprintf(format, args...))
}

// fixUp puts the bytes back that the update sequence of a record, or of a page
// of the log, holds: the last two of each 512. It fails when they were not all
// written together.
func fixUp(p []byte) error {
	at, count := int(le.Uint16(p[4:])), int(le.Uint16(p[6:]))
	if count != len(p)/stride+1 || at%2 != 0 || at < 8 || at+2*count > stride-2 {
		return damage("update sequence of %d at %d", count, at)
	}
	sequence := le.Uint16(p[at:])
	for i := 1; i < count; i++ {
		end := p[i*stride-2 : i*stride]
		if le.Uint16(end) != sequence {
			return damage("torn in part %d", i)
		}
		copy(end, p[at+2*i:at+2*i+2])
	}
	return nil
}

// header is the start of a record of the file table.
type header struct {
	sequence   uint16
	used       bool
	directory  bool
	base       uint64 // the record that this one goes on with, 0 for none
	attributes []byte
}

// reference splits the number of a record from its sequence number.
func reference(ref uint64) (number int64, sequence uint16) {
	return int64(ref & (1<<48 - 1)), uint16(ref >> 48)
}

// parseRecord reads a record, which it changes, and which the result refers to.
func parseRecord(p []byte) (h header, err error) {
	if string(p[:4]) != "FILE" {
		return h, damage("magic %q", p[:4])
	}
	if err := fixUp(p); err != nil {
		return h, err
	}
	flags := le.Uint16(p[0x16:])
	h = header{sequence: le.Uint16(p[0x10:]), used: flags&1 != 0, directory: flags&2 != 0, base: le.Uint64(p[0x20:])}
	if !h.used {
		return h, nil
	}
	first, end := int64(le.Uint16(p[0x14:])), int64(le.Uint32(p[0x18:]))
	if first < 0x2A || first%8 != 0 || first > end || end > int64(len(p)) {
		return h, damage("attributes from %d to %d", first, end)
	}
	h.attributes = p[first:end]
	return h, nil
}

// eachAttribute calls do with the bytes of each attribute of a record.
func (h header) eachAttribute(do func(p []byte) error) error {
	for p := h.attributes; ; {
		if len(p) < 4 {
			return damage("attributes without an end")
		}
		if le.Uint32(p) == typeEnd {
			return nil
		}
		if len(p) < residentHeader {
			return damage("attributes without an end")
		}
		n := int64(le.Uint32(p[4:]))
		if n < residentHeader || n%8 != 0 || n > int64(len(p)) {
			return damage("attribute 0x%x of %d bytes", le.Uint32(p), n)
		}
		if err := do(p[:n]); err != nil {
			return err
		}
		p = p[n:]
	}
}

package guest

import (
	"bytes"
	"encoding/binary"

	"prestage/internal/disk"
)

// The log of a VHDX: entries of whole sectors, each with descriptors of what is to
// be written where.
const (
	logSector     = 4 << 10
	logHeader     = 64
	logDescriptor = 32
	logMost       = 64 << 20 // bytes of a log that are looked at
)

// checkLog sees that nothing is left in the log that the file does not have: else
// the disk was not closed. Programs leave the log as it was after all of it is
// written, so what it says is compared.
func checkLog(f *disk.File, header []byte) error {
	le := binary.LittleEndian
	id := header[48:64]
	length, offset := int64(le.Uint32(header[68:])), int64(le.Uint64(header[72:]))
	if isZero(id) {
		return nil
	}
	if length == 0 || length%vhdxUnit != 0 || length > logMost || offset < vhdxUnit || offset > f.Size || length > f.Size-offset {
		return refused("a VHDX with a log of %d bytes at %d", length, offset)
	}
	log := make([]byte, length)
	if err := readFull(f, log, offset); err != nil {
		return err
	}
	active := logSequence(log, id)
	for _, e := range active {
		same, err := applied(f, e)
		if err != nil {
			return err
		}
		if !same {
			return refused("a VHDX was not closed: its log must be replayed; start the virtual machine and shut it down")
		}
	}
	return nil
}

// logEntry returns the entry at an offset of the log, which may wrap around its
// end, or nil.
func logEntry(log []byte, at int, id []byte) []byte {
	le := binary.LittleEndian
	h := log[at : at+logSector]
	n := int(le.Uint32(h[8:]))
	if !bytes.HasPrefix(h, []byte("loge")) || n < logSector || n%logSector != 0 || n > len(log) || !bytes.Equal(h[32:48], id) {
		return nil
	}
	e := append(bytes.Clone(log[at:min(at+n, len(log))]), log[:max(0, at+n-len(log))]...)
	if !checked(e) || int(le.Uint32(e[24:])) > (n-logHeader)/logDescriptor {
		return nil
	}
	return e
}

// logSequence returns the entries of the sequence that is in force: the one with
// the highest numbers that follow each other without a gap, from its tail on.
func logSequence(log, id []byte) (best [][]byte) {
	le := binary.LittleEndian
	var highest uint64
	looked := 0 // bytes, which hostile entries that overlap would make many
	for at := 0; at < len(log); {
		var list [][]byte
		start := at
		for pos, size := at, 0; size < len(log) && looked < 4*len(log); {
			e := logEntry(log, pos, id)
			if e == nil || len(list) > 0 && le.Uint64(e[16:]) != le.Uint64(list[len(list)-1][16:])+1 {
				break
			}
			list = append(list, e)
			size += len(e)
			looked += len(e)
			pos = (pos + len(e)) % len(log)
		}
		if len(list) == 0 {
			at += logSector
			continue
		}
		last := list[len(list)-1]
		if number := le.Uint64(last[16:]); best == nil || number > highest {
			// What lies before the tail of the last entry is no longer in force.
			tail := int(le.Uint32(last[12:]))
			pos := start
			for len(list) > 1 && pos != tail {
				pos = (pos + len(list[0])) % len(log)
				list = list[1:]
			}
			best, highest = list, number
		}
		at += logSector
	}
	return best
}

// applied reports whether the file has what an entry says.
func applied(f *disk.File, e []byte) (bool, error) {
	le := binary.LittleEndian
	n := int(le.Uint32(e[24:]))
	data := (logHeader + n*logDescriptor + logSector - 1) / logSector * logSector
	got := make([]byte, logSector)
	for i := range n {
		d := e[logHeader+i*logDescriptor:][:logDescriptor]
		at := int64(le.Uint64(d[16:]))
		switch string(d[:4]) {
		case "zero":
			for end := at + int64(le.Uint64(d[8:])); at < min(end, f.Size); at += logSector {
				if at < 0 {
					return false, nil
				}
				if err := readFull(f, got, at); err != nil || !isZero(got) {
					return false, err
				}
			}
		case "desc":
			if data+logSector > len(e) || at < 0 {
				return false, nil
			}
			sector := bytes.Clone(e[data : data+logSector])
			data += logSector
			// The first 8 and the last 4 bytes are in the descriptor.
			copy(sector, d[8:16])
			copy(sector[logSector-4:], d[4:8])
			if err := readFull(f, got, at); err != nil || !bytes.Equal(got, sector) {
				return false, err
			}
		default:
			return false, nil
		}
	}
	return true, nil
}

func isZero(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }

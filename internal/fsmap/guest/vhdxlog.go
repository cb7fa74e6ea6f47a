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
	l := &vhdxLog{f: f, id: id, bytes: make([]byte, length), budget: 4*length + f.Size}
	if err := readFull(f, l.bytes, offset); err != nil {
		return err
	}
	for _, e := range l.sequence() {
		same, err := l.applied(e)
		if err != nil {
			return err
		}
		if !same {
			return refused("a VHDX was not closed: its log must be replayed; start the virtual machine and shut it down")
		}
	}
	if l.budget < 0 {
		return refused("a VHDX with a log that cannot be understood")
	}
	return nil
}

// vhdxLog is the log of a VHDX.
type vhdxLog struct {
	f      *disk.File
	id     []byte
	bytes  []byte
	budget int64 // bytes that are looked at yet: hostile entries overlap
}

// logEntry is an entry of the log.
type logEntry struct {
	at, length  int
	number      uint64
	tail        int // where the first entry begins that is in force with this one
	descriptors int
}

// content returns an entry's bytes, which may wrap around the log's end.
func (l *vhdxLog) content(at, n int) []byte {
	if at+n <= len(l.bytes) {
		return l.bytes[at : at+n]
	}
	return append(bytes.Clone(l.bytes[at:]), l.bytes[:at+n-len(l.bytes)]...)
}

// entry reads the entry at an offset. It is not ok if there is none.
func (l *vhdxLog) entry(at int) (e logEntry, ok bool) {
	le := binary.LittleEndian
	h := l.bytes[at : at+logSector]
	n := int(le.Uint32(h[8:]))
	if !bytes.HasPrefix(h, []byte("loge")) || n < logSector || n%logSector != 0 || n > len(l.bytes) || !bytes.Equal(h[32:48], l.id) {
		return e, false
	}
	if l.budget -= int64(n); l.budget < 0 || !checked(l.content(at, n)) {
		return e, false
	}
	e = logEntry{at: at, length: n, number: le.Uint64(h[16:]), tail: int(le.Uint32(h[12:])), descriptors: int(le.Uint32(h[24:]))}
	return e, e.descriptors <= (n-logHeader)/logDescriptor
}

// sequence returns the entries of the sequence that is in force: the one with the
// highest numbers that follow each other without a gap, from its tail on.
func (l *vhdxLog) sequence() (best []logEntry) {
	highest := uint64(0)
	seen := make([]bool, len(l.bytes)/logSector) // in a sequence that began before
	for start := 0; start < len(l.bytes); start += logSector {
		if seen[start/logSector] {
			continue
		}
		var list []logEntry
		for pos, size := start, 0; size < len(l.bytes); {
			e, ok := l.entry(pos)
			if !ok || len(list) > 0 && e.number != list[len(list)-1].number+1 {
				break
			}
			list = append(list, e)
			seen[pos/logSector] = true
			size += e.length
			pos = (pos + e.length) % len(l.bytes)
		}
		if len(list) == 0 {
			continue
		}
		// What lies before the tail of the last entry is no longer in force. A
		// sequence that wraps around is found in parts first.
		last := list[len(list)-1]
		for len(list) > 1 && list[0].at != last.tail {
			list = list[1:]
		}
		if best == nil || last.number > highest || last.number == highest && len(list) > len(best) {
			best, highest = list, last.number
		}
	}
	return best
}

// applied reports whether the file has what an entry says.
func (l *vhdxLog) applied(entry logEntry) (bool, error) {
	le := binary.LittleEndian
	e := l.content(entry.at, entry.length)
	data := (logHeader + entry.descriptors*logDescriptor + logSector - 1) / logSector * logSector
	got := make([]byte, logSector)
	for i := range entry.descriptors {
		d := e[logHeader+i*logDescriptor:][:logDescriptor]
		at := int64(le.Uint64(d[16:]))
		if at < 0 {
			return false, nil
		}
		switch string(d[:4]) {
		case "zero":
			for left := le.Uint64(d[8:]); left > 0 && at < l.f.Size; at += logSector {
				if l.budget -= logSector; l.budget < 0 {
					return false, nil
				}
				if err := readFull(l.f, got, at); err != nil || !isZero(got) {
					return false, err
				}
				left -= min(left, logSector)
			}
		case "desc":
			if data+logSector > len(e) {
				return false, nil
			}
			sector := bytes.Clone(e[data : data+logSector])
			data += logSector
			// The first 8 and the last 4 bytes are in the descriptor.
			copy(sector, d[8:16])
			copy(sector[logSector-4:], d[4:8])
			if err := readFull(l.f, got, at); err != nil || !bytes.Equal(got, sector) {
				return false, err
			}
		default:
			return false, nil
		}
	}
	return true, nil
}

func isZero(p []byte) bool { return len(bytes.TrimLeft(p, "\x00")) == 0 }

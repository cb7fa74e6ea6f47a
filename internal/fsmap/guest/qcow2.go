package guest

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"prestage/internal/disk"
)

// The qcow2 format is described by docs/interop/qcow2.txt of QEMU. All numbers are
// big-endian.
const (
	qcowHeader = 72
	qcowOffset = 1<<56 - 1<<9 // the bits of an entry that are an offset
	qcowPacked = 1 << 62
	qcowZero   = 1
	qcowOwn    = 1 << 63 // no snapshot has it too

	qcowMostL1 = 32 << 20 // bytes

	// Features without which it cannot be read.
	qcowDirty    = 1 << 0
	qcowCorrupt  = 1 << 1
	qcowExternal = 1 << 2
	qcowMethod   = 1 << 3
	qcowSubs     = 1 << 4
)

// qcow2 is a qcow2 disk without a backing file.
type qcow2 struct {
	f       *disk.File
	number  uint32
	version uint32
	bits    uint  // of a cluster
	l1      int64 // where the first table lies
	l1Size  int64 // entries
	zstd    bool
	tables  tables
}

func openQCOW2(f *disk.File, number uint32) (layout, int64, error) {
	h := make([]byte, 112)
	if err := readFull(f, h, 0); err != nil {
		return nil, 0, err
	}
	be := binary.BigEndian
	q := &qcow2{f: f, number: number, version: be.Uint32(h[4:]), bits: uint(be.Uint32(h[20:])), l1: int64(be.Uint64(h[40:])), l1Size: int64(be.Uint32(h[36:]))}
	q.tables = newTables(f)
	size := be.Uint64(h[24:])
	if backing, n := be.Uint64(h[8:]), be.Uint32(h[16:]); backing != 0 {
		name := make([]byte, min(n, 1023))
		if err := readFull(f, name, int64(min(backing, uint64(f.Size)))); err != nil {
			return nil, 0, err
		}
		return nil, 0, refused("a qcow2 with a backing file depends on %q: convert it to one file first", strings.ToValidUTF8(string(name), "?"))
	}
	switch {
	case q.version != 2 && q.version != 3:
		return nil, 0, refused("a qcow2 of version %d", q.version)
	case be.Uint32(h[32:]) != 0:
		return nil, 0, refused("an encrypted qcow2")
	case q.bits < 9 || q.bits > 21:
		return nil, 0, damaged("a qcow2 with clusters of 2^%d bytes", q.bits)
	}
	if q.version == 3 {
		if err := q.features(be.Uint64(h[72:]), h[104], be.Uint32(h[100:])); err != nil {
			return nil, 0, err
		}
	}
	perTable := int64(1) << (2*q.bits - 3) // bytes of the disk that a table is for
	if size > mostSize || q.l1 < qcowHeader || q.l1 > f.Size || q.l1%8 != 0 || q.l1Size*8 > qcowMostL1 || q.l1Size*8 > f.Size-q.l1 ||
		q.l1Size < (int64(size)+perTable-1)/perTable {
		return nil, 0, damaged("a qcow2 of %d bytes with a table of %d at %d", size, q.l1Size, q.l1)
	}
	return q, int64(size), q.check(h)
}

// check sees that no two clusters of the disk, or of its tables, are one.
func (q *qcow2) check(h []byte) error {
	be := binary.BigEndian
	cluster := int64(1) << q.bits
	up := func(n int64) int64 { return (n + cluster - 1) / cluster * cluster }
	p := &places{f: q.f, unit: cluster, block: cluster, others: []region{{0, cluster}, {q.l1, up(q.l1Size * 8)}}}
	if n := int64(be.Uint32(h[56:])) * cluster; n > 0 {
		p.others = append(p.others, region{int64(min(be.Uint64(h[48:]), 1<<62)), n})
	}
	entries := make([]byte, cluster)
	for n := range q.l1Size {
		e, err := q.tables.get(q.l1+8*n, 8)
		if err != nil {
			return err
		}
		table := int64(be.Uint64(e) & qcowOffset)
		if table == 0 {
			continue
		}
		if err := p.add(table); err != nil {
			return err
		}
		if err := readFull(q.f, entries, table); err != nil {
			return err
		}
		for e := entries; len(e) > 0; e = e[8:] {
			if entry := be.Uint64(e); entry&qcowPacked == 0 && entry&qcowOffset != 0 {
				if err := p.add(int64(entry & qcowOffset)); err != nil {
					return err
				}
			}
		}
		if int64(len(p.blocks)) > q.f.Size/cluster+1 {
			return damaged("a qcow2 of %d bytes has more clusters than that", q.f.Size)
		}
	}
	return p.check()
}

// features refuses what is not known.
func (q *qcow2) features(incompatible uint64, method byte, headerSize uint32) error {
	switch {
	case incompatible&qcowCorrupt != 0:
		return refused("a qcow2 that is marked as corrupt: have \"qemu-img check -r all\" mend it")
	case incompatible&qcowDirty != 0:
		return refused("a qcow2 was not closed: start the virtual machine and shut it down")
	case incompatible&qcowExternal != 0:
		return refused("a qcow2 with its data in another file: convert it to one file first")
	case incompatible&qcowSubs != 0:
		return refused("a qcow2 with subclusters: convert it without extended_l2 first")
	case incompatible&^qcowMethod != 0:
		return refused("a qcow2 with features that are not known here (%#x)", incompatible)
	case incompatible&qcowMethod != 0 && headerSize > 104:
		if method > 1 {
			return refused("a qcow2 compressed by method %d", method)
		}
		q.zstd = method == 1
	}
	return nil
}

// entry returns the entry of the second table for a cluster, 0 if there is none,
// and how many bytes of the disk from off on it is for.
func (q *qcow2) entry(off int64) (e uint64, length int64, err error) {
	cluster := off >> q.bits
	n := cluster >> (q.bits - 3)
	if n >= q.l1Size {
		return 0, 0, damaged("a qcow2 without a table for %d", off)
	}
	p, err := q.tables.get(q.l1+8*n, 8)
	if err != nil {
		return 0, 0, err
	}
	l2 := int64(binary.BigEndian.Uint64(p) & qcowOffset)
	if l2 == 0 {
		perTable := int64(1) << (2*q.bits - 3)
		return 0, perTable - off&(perTable-1), nil
	}
	if l2&(1<<q.bits-1) != 0 {
		return 0, 0, damaged("a qcow2 with a table at %d", l2)
	}
	if p, err = q.tables.get(l2+8*(cluster&(1<<(q.bits-3)-1)), 8); err != nil {
		return 0, 0, err
	}
	return binary.BigEndian.Uint64(p), 1<<q.bits - off&(1<<q.bits-1), nil
}

func (q *qcow2) at(off int64) (place, int64, error) {
	e, n, err := q.entry(off)
	if err != nil {
		return place{}, 0, err
	}
	in := off & (1<<q.bits - 1)
	at := int64(e & qcowOffset)
	switch {
	case e&qcowPacked != 0:
		return place{state: packed, file: q.number}, n, nil
	case at == 0 || q.version == 3 && e&qcowZero != 0:
		return place{}, n, nil
	case at&(1<<q.bits-1) != 0:
		return place{}, 0, damaged("a qcow2 with a cluster at %d", at)
	}
	if err := inFile(q.f, at, 1<<q.bits); err != nil {
		return place{}, 0, err
	}
	if e&qcowOwn == 0 {
		return place{shared, q.number, at + in}, n, nil
	}
	return place{stored, q.number, at + in}, n, nil
}

func (q *qcow2) unpack(off int64) ([]byte, error) {
	e, _, err := q.entry(off)
	if err != nil {
		return nil, err
	}
	shift := 62 - (q.bits - 8)
	at := int64(e & (1<<shift - 1))
	n := int64(e&(1<<62-1)>>shift+1)*sectorSize - at%sectorSize
	if err := inFile(q.f, at, n); err != nil {
		return nil, err
	}
	p := make([]byte, min(n, q.f.Size-at))
	if err := readFull(q.f, p, at); err != nil {
		return nil, err
	}
	unit := make([]byte, 1<<q.bits)
	var r io.Reader = flate.NewReader(bytes.NewReader(p))
	if q.zstd {
		d, err := zstd.NewReader(bytes.NewReader(p), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(16<<20))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r = d
	}
	if _, err := io.ReadFull(r, unit); err != nil {
		return nil, damaged("a qcow2 with a compressed cluster that is none: %v", err)
	}
	return unit, nil
}

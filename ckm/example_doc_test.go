package ckm_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
)

const (
	formatDoc    = "../doc/format.md"
	exampleBegin = "<!-- example -->\n"
	exampleEnd   = "<!-- /example -->"
)

// TestWorkedExample keeps the worked example of doc/format.md true.
func TestWorkedExample(t *testing.T) {
	m := tiny()
	index, data := m.build(), m.ckm()
	x := must(t, index)
	if x.CKMBlake3 != [32]byte(digest(data)) || x.CKMLength != uint64(len(data)) {
		t.Fatal("the example's INDEX and CKM do not belong together")
	}
	if raw, err := x.DecodeFrame(0, nil, data[32:32+len(tinyFrame)]); err != nil || !bytes.Equal(raw, tinyImage()) {
		t.Fatal(err)
	}
	zstdTool(t, data, tinyImage())
	var b strings.Builder
	fmt.Fprintf(&b, "`go test ./ckm -update` writes these bytes, and every test run compares them. The package digest is\n`%v`.\n\n", x.Digest())
	fmt.Fprintf(&b, "**`tiny_1.ckm`**, %d bytes:\n```\n%s```\n\n", len(data), dumpCKM(t, data))
	fmt.Fprintf(&b, "**`tiny_1.index`**, %d bytes:\n```\n%s```\n", len(index), dumpIndex(t, index))

	doc, err := os.ReadFile(formatDoc)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(doc), exampleBegin)
	got, after, ok2 := strings.Cut(rest, exampleEnd)
	if !ok || !ok2 {
		t.Fatalf("%s has no markers for the example", formatDoc)
	}
	if got == b.String() {
		return
	}
	if !*update {
		t.Fatalf("the worked example in %s is not true any more: go test ./ckm -update", formatDoc)
	}
	if err := os.WriteFile(formatDoc, []byte(before+exampleBegin+b.String()+exampleEnd+after), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestDumpGood reads all good packages by the dumper: it was made from
// doc/format.md alone, and so is a second reader.
func TestDumpGood(t *testing.T) {
	for _, c := range goodCases() {
		t.Run(c.name, func(t *testing.T) { dumpIndex(t, c.model.build()) })
	}
}

// dumper takes fields off p and writes them down. It follows doc/format.md to
// the letter and checks little, but it must arrive at the end.
type dumper struct {
	t  testing.TB
	p  []byte
	at int
	b  strings.Builder
}

// take returns the next n bytes and writes down what they are.
func (d *dumper) take(n int, format string, args ...any) []byte {
	d.t.Helper()
	if n < 0 || n > len(d.p)-d.at {
		d.t.Fatalf("no %d bytes at %d for %q", n, d.at, format)
	}
	p := d.p[d.at : d.at+n]
	text := fmt.Sprintf(format, args...)
	for i := 0; i == 0 || i < n; i += 16 {
		line := fmt.Sprintf("%5d  % x", d.at+i, p[i:min(i+16, n)])
		if i == 0 {
			line = fmt.Sprintf("%-56s  %s", line, text)
		}
		d.b.WriteString(strings.TrimRight(line, " ") + "\n")
	}
	d.at += n
	return p
}

func (d *dumper) title(format string, args ...any) {
	fmt.Fprintf(&d.b, "       %s\n", fmt.Sprintf(format, args...))
}

// number takes n bytes as a little-endian number.
func (d *dumper) number(n int, what string) uint64 {
	d.t.Helper()
	var b [8]byte
	copy(b[:], d.p[min(d.at, len(d.p)):min(d.at+n, len(d.p))])
	v := binary.LittleEndian.Uint64(b[:])
	d.take(n, "%s: %d", what, v)
	return v
}

// features takes a field of feature bits.
func (d *dumper) features(what string) {
	d.take(4, "%s", what)
}

// peek reads a uvarint of n bytes without taking it.
func (d *dumper) peek() (v uint64, n int) {
	d.t.Helper()
	for more := true; more; n++ {
		if d.at+n >= len(d.p) {
			d.t.Fatalf("no number at %d", d.at)
		}
		c := d.p[d.at+n]
		v |= uint64(c&0x7f) << (7 * n)
		more = c >= 0x80
	}
	return v, n
}

func (d *dumper) uvarint(what string) uint64 {
	d.t.Helper()
	v, n := d.peek()
	d.take(n, "%s: %d", what, v)
	return v
}

func (d *dumper) svarint(what string) int64 {
	d.t.Helper()
	v, n := d.peek()
	s := int64(v / 2)
	if v%2 == 1 {
		s = -s - 1
	}
	d.take(n, "%s: %d", what, s)
	return s
}

func (d *dumper) str(what string) {
	d.t.Helper()
	v, size := d.peek()
	n := int(v)
	if d.at+size+n > len(d.p) {
		d.t.Fatalf("no string at %d for %q", d.at, what)
	}
	d.take(size+n, "%s: %q", what, d.p[d.at+size:d.at+size+n])
}

// digestOf takes a digest and compares it with that of p.
func (d *dumper) digestOf(p []byte, n int, what string) {
	d.t.Helper()
	if got := d.take(n, "%s", what); !bytes.Equal(got, digest(p)[:n]) {
		d.t.Fatalf("%s is not %s", what, hex.EncodeToString(digest(p)))
	}
}

func (d *dumper) end(what string) {
	d.t.Helper()
	if d.at != len(d.p) {
		d.t.Fatalf("%d bytes after %s", len(d.p)-d.at, what)
	}
}

func dumpIndex(t testing.TB, p []byte) string {
	d := &dumper{t: t, p: p}
	d.title("header")
	d.take(8, "magic")
	d.number(2, "format version")
	d.number(2, "reserved")
	d.features("incompatible features: none")
	d.features("compatible features")
	info := int(d.number(4, "length of the info section"))
	chunkPages := int(d.number(4, "chunk pages"))
	mapPages := int(d.number(4, "map pages"))
	chunks := int(d.number(4, "chunks"))
	frames := int(d.number(4, "frames"))
	pages := int(d.number(8, "length of all pages"))
	d.take(16, "reserved")
	d.title("info section")
	infoEnd := d.at + info
	d.str("name")
	d.uvarint("version")
	d.uvarint("created, seconds since 1970")
	d.str("creator")
	d.uvarint("chunk minimum")
	d.uvarint("chunk average")
	d.uvarint("chunk maximum")
	d.uvarint("frame limit")
	ckmLength := d.uvarint("CKM length")
	d.take(32, "CKM BLAKE3")
	d.take(32, "CKM SHA-256")
	content := d.take(32, "content digest")
	dataLength := d.uvarint("data length")
	for n := d.uvarint("files"); n > 0; n-- {
		d.str("path")
		d.uvarint("size")
		d.str("format")
	}
	for n := d.uvarint("attributes"); n > 0; n-- {
		d.str("key")
		d.str("value")
	}
	if d.at != infoEnd {
		t.Fatalf("the info section ends at %d, not %d", d.at, infoEnd)
	}
	type entry struct{ length, items int }
	var table []entry
	digests := [][]byte{}
	for i := range chunkPages + mapPages {
		what := "chunk page"
		if i >= chunkPages {
			what = "map page"
		}
		d.title("page table: %s", what)
		e := entry{int(d.number(4, "length")), int(d.number(4, "items"))}
		table = append(table, e)
		digests = append(digests, d.take(32, "digest of the page"))
	}
	d.title("head digest")
	d.digestOf(p[:d.at], 32, "package digest")
	pagesAt := d.at
	var shorts []byte
	var lengths []uint64
	stored := uint64(96)
	for i, e := range table {
		at := d.at
		if !bytes.Equal(digest(p[at:at+e.length]), digests[i]) {
			t.Fatalf("digest of page %d", i)
		}
		if i < chunkPages {
			d.title("chunk page")
			n := int(d.uvarint("frames"))
			sum := 0
			for range n {
				sum += int(d.uvarint("chunks in the frame"))
			}
			for range n {
				stored += d.uvarint("stored length")
			}
			for range n {
				d.number(1, "codec")
			}
			for range n {
				shorts = append(shorts, d.take(16, "short digest of the stored bytes")...)
			}
			for range sum {
				lengths = append(lengths, d.uvarint("length of the chunk"))
			}
			for range sum {
				d.take(32, "ID of the chunk")
			}
			if sum != e.items {
				t.Fatalf("page %d has %d chunks, not %d", i, sum, e.items)
			}
			frames -= n
		} else {
			d.title("map page")
			d.segments(e.items, lengths)
		}
		if d.at != at+e.length {
			t.Fatalf("page %d ends at %d, not %d", i, d.at, at+e.length)
		}
	}
	var sum uint64
	for _, n := range lengths {
		sum += n
	}
	if len(lengths) != chunks || frames != 0 || d.at != pagesAt+pages || stored != ckmLength || sum != dataLength || !bytes.Equal(content, digest(shorts)) {
		t.Fatal("counts, lengths or digests do not fit together")
	}
	d.title("end")
	d.take(int(d.number(4, "length of the signature block")), "signature block")
	d.digestOf(p[:d.at], 32, "file digest")
	d.end("the file digest")
	return strings.ReplaceAll(d.b.String(), fmt.Sprintf("%5d%51s  signature block\n", len(p)-32, ""), "")
}

// segments takes the segments of a map page.
func (d *dumper) segments(n int, lengths []uint64) {
	var chunk uint64
	for range n {
		w, size := d.peek()
		count := w >> 4
		kind := []string{"run", "split"}[w&1]
		position := []string{"stay", "skip", "seek", "refused"}[w>>1&3]
		which := []string{"the expected chunk", "another chunk"}[w>>3&1]
		d.take(size, "%s of %d, %s, %s", kind, count, position, which)
		switch w >> 1 & 3 {
		case 1:
			d.uvarint("gap")
		case 2:
			d.uvarint("file")
			d.uvarint("offset")
		}
		if w>>3&1 == 1 {
			chunk = d.uvarint("chunk")
		}
		if w&1 == 0 {
			chunk += count
			continue
		}
		var sum uint64
		for i := range count {
			if i > 0 {
				d.svarint("distance")
			}
			sum += d.uvarint("length")
		}
		if sum != lengths[chunk] {
			d.t.Fatalf("split of %d bytes, chunk %d has %d", sum, chunk, lengths[chunk])
		}
		chunk++
	}
}

// dumpCKM dumps the example's CKM, which has one frame.
func dumpCKM(t testing.TB, p []byte) string {
	d := &dumper{t: t, p: p}
	d.title("header")
	d.take(4, "skippable frame")
	d.number(4, "length of what follows")
	d.take(8, "magic")
	d.number(2, "format version")
	d.number(2, "reserved")
	d.features("incompatible features: none")
	d.features("compatible features")
	d.number(4, "reserved")
	d.title("frame 0")
	frame := d.at
	d.take(4, "zstd magic")
	d.take(3, "single segment, content size 256 + 0x1f01 = 8193")
	d.take(4, "raw block of 1 byte: A")
	d.take(4, "block of 1 byte repeated 8191 times: zero")
	d.take(4, "raw block of 1 byte, the last: B")
	short := digest(p[frame:d.at])[:16]
	d.title("trailer")
	d.take(4, "skippable frame")
	d.number(4, "length of what follows")
	d.take(8, "magic")
	d.number(8, "frames")
	d.number(8, "offset of the trailer")
	d.digestOf(short, 32, "content digest")
	d.end("the trailer")
	return d.b.String()
}

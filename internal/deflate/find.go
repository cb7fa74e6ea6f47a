package deflate

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
)

// ErrMember says that something is not the member that it should be.
var ErrMember = errors.New("not a DEFLATE member")

// Inflater decompresses members. Its zero value can be used, by one goroutine at a
// time.
type Inflater struct {
	in      bytes.Reader
	dec     io.ReadCloser
	scratch []byte // what a member decompresses to, until it is known to be one
}

// Append appends what the member at the beginning of p decompresses to, at most most
// bytes, and returns how many bytes the member has. The error wraps ErrMember.
func (f *Inflater) Append(dst, p []byte, most int) (out []byte, length int, err error) {
	f.in.Reset(p)
	if f.dec == nil {
		f.dec = flate.NewReader(&f.in)
	} else if err := f.dec.(flate.Resetter).Reset(&f.in, nil); err != nil {
		return dst, 0, err
	}
	for end := len(dst) + most; ; {
		if len(dst) == cap(dst) {
			dst = append(dst, 0)[:len(dst)]
		}
		n, err := f.dec.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		switch {
		case len(dst) > end:
			return dst, 0, fmt.Errorf("%w of at most %d bytes", ErrMember, most)
		case err == io.EOF:
			return dst, len(p) - f.in.Len(), nil // a bytes.Reader is read byte by byte
		case err != nil:
			return dst, 0, fmt.Errorf("%w: %w", ErrMember, err)
		}
	}
}

// Member is a member that lies in something larger.
type Member struct {
	Offset, Length int // bytes of what it is in
	Inflated       []byte
	makers         []Maker // that it may be by, the likely ones first
}

// shortest is the length of a member that is worth looking at, in bytes.
const shortest = 48

// Find finds the members in the gzip files and zip archives that lie in p, whole or
// in part, wherever they begin. What one decompresses to, at most most bytes, is good
// until the next one. It ends after four times that, with what turns out to be none.
func (f *Inflater) Find(p []byte, most int) iter.Seq[Member] {
	return func(yield func(Member) bool) {
		left := 4 * most // bytes that may be decompressed
		for at := 0; at < len(p) && left > 0; at++ {
			if p[at] != gzipMagic[0] && p[at] != zipMagic[0] {
				continue
			}
			begin, makers := header(p[at:])
			if begin == 0 {
				continue
			}
			begin += at
			inflated, length, err := f.Append(f.scratch[:0], p[begin:], most)
			left -= len(inflated) + shortest
			if f.scratch = inflated[:0]; err != nil || length < shortest {
				continue
			}
			if !yield(Member{begin, length, inflated, makers}) {
				return
			}
			at = begin + length - 1
		}
	}
}

// Maker finds out who made a member of p.
func (e *Encoder) Maker(p []byte, m Member) (Maker, bool) {
	for _, by := range m.makers {
		if e.Makes(p[m.Offset:m.Offset+m.Length], m.Inflated, by) {
			return by, true
		}
	}
	return 0, false
}

var (
	gzipMagic = []byte{0x1f, 0x8b, 8}
	zipMagic  = []byte("PK\x03\x04")
)

// longestText is how long a name or a comment in a gzip file may be, in bytes.
const longestText = 1 << 10

// header returns the length of the header of a gzip file (RFC 1952), or of a file in
// a zip archive, that p begins with, and who may have made the member that follows. It
// is 0 if there is none.
func header(p []byte) (length int, makers []Maker) {
	switch {
	case bytes.HasPrefix(p, gzipMagic) && len(p) > 10:
		const hasCRC, hasExtra, hasName, hasComment, best = 2, 4, 8, 16, 2
		flags, n := p[3], 10
		if flags&hasExtra != 0 && len(p) > n+2 {
			n += 2 + int(binary.LittleEndian.Uint16(p[n:]))
		}
		for _, text := range []byte{hasName, hasComment} {
			if flags&text != 0 && n < len(p) {
				end := bytes.IndexByte(p[n:min(len(p), n+longestText)], 0)
				if end < 0 {
					return 0, nil
				}
				n += end + 1
			}
		}
		if flags&hasCRC != 0 {
			n += 2
		}
		if n >= len(p) {
			return 0, nil
		}
		if p[8] == best {
			return n, []Maker{Gzip | 9, Zlib | 9}
		}
		return n, []Maker{Gzip | 6, Zlib | 6}
	case bytes.HasPrefix(p, zipMagic) && len(p) > 30:
		const encrypted, deflated = 1, 8
		n := 30 + int(binary.LittleEndian.Uint16(p[26:])) + int(binary.LittleEndian.Uint16(p[28:]))
		if n >= len(p) || p[6]&encrypted != 0 || binary.LittleEndian.Uint16(p[8:]) != deflated {
			return 0, nil
		}
		return n, []Maker{Zlib | 6, Gzip | 6, Zlib | 9, Gzip | 9}
	}
	return 0, nil
}

// Package chunk finds content-defined cut points, so that the same bytes make
// the same chunks wherever they stand in an image.
//
// It is FastCDC (Xia et al., USENIX ATC 2016) with normalised chunking of
// level 2: a gear hash, a stricter mask before the average size and a laxer
// one after it.
package chunk

// Sizes of chunks in bytes. A stretch's last chunk may be shorter than Min.
const (
	Min = 16 << 10
	Avg = 64 << 10
	Max = 256 << 10
)

// The masks use the hash's high bits, which the most bytes have gone into.
const (
	avgBits    = 16
	maskStrict = (1<<(avgBits+2) - 1) << (64 - avgBits - 2)
	maskLax    = (1<<(avgBits-2) - 1) << (64 - avgBits + 2)
)

// gear maps a byte to a random number. It is part of what makes chunks equal
// between versions of an image: changing it would change every cut point.
var gear = makeGear()

// makeGear fills the table from splitmix64 (Steele et al., OOPSLA 2014).
func makeGear() (table [256]uint64) {
	state := uint64(0x7072657374616765) // "prestage"
	for i := range table {
		state += 0x9e3779b97f4a7c15
		z := state
		z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
		z = (z ^ z>>27) * 0x94d049bb133111eb
		table[i] = z ^ z>>31
	}
	return table
}

// Cut returns the length in bytes of the first chunk of p. When p may go on
// beyond what is given, it must hold at least Max bytes, or the end of p would
// become a cut point.
func Cut(p []byte) int {
	if len(p) <= Min {
		return len(p)
	}
	p = p[:min(len(p), Max)]
	if n := scan(p, Min, min(len(p), Avg), maskStrict); n > 0 {
		return n
	}
	if n := scan(p, min(len(p), Avg), len(p), maskLax); n > 0 {
		return n
	}
	return len(p)
}

// scan looks for a cut point between from and to. The hash depends on the 64
// bytes before a point, so it starts that much earlier: what lies before from
// shapes it, and a cut point depends on nothing further away.
func scan(p []byte, from, to int, mask uint64) int {
	var h uint64
	for _, b := range p[from-window : from] {
		h = h<<1 + gear[b]
	}
	// Two bytes a turn: what they add does not depend on the hash, so the
	// chain of operations that do is half as long.
	for rest := p[from:to]; len(rest) >= 2; rest = rest[2:] {
		a, b := gear[rest[0]], gear[rest[1]]
		first := h<<1 + a
		h = h<<2 + (a<<1 + b)
		if first&mask == 0 {
			return to - len(rest) + 1
		}
		if h&mask == 0 {
			return to - len(rest) + 2
		}
	}
	if (to-from)%2 == 1 && (h<<1+gear[p[to-1]])&mask == 0 {
		return to
	}
	return 0
}

// window is how many bytes the gear hash remembers: each shifts it by a bit.
const window = 64

package deflate

import (
	"encoding/binary"
	"math/bits"
)

// Sizes of matches and of the window, in bytes.
const (
	windowSize  = 1 << 15
	minMatch    = 3
	maxMatch    = 258
	minAhead    = maxMatch + minMatch + 1
	maxDistance = windowSize - minAhead
	tooFar      = 4096 // for a match of minMatch bytes: its literals are shorter
)

const (
	hashBits  = 15
	hashShift = (hashBits + minMatch - 1) / minMatch
)

// effort is how hard a level looks for matches.
type effort struct {
	good  int // length of a match from which on a longer one is looked for less
	lazy  int // and from which on none is
	nice  int // length of a match that is not to be surpassed
	chain int // places that are tried
}

var efforts = [MaxLevel + 1]effort{
	4: {4, 4, 16, 16}, 5: {8, 16, 32, 32}, 6: {8, 16, 128, 128},
	7: {8, 32, 128, 256}, 8: {32, 128, 258, 1024}, 9: {32, 258, 258, 4096},
}

// matcher finds matches in a window that slides over the input. Positions are those
// in the window; 0 also stands for none, so nothing at 0 is ever found.
type matcher struct {
	effort
	gzip   bool
	in     []byte                 // what is not in the window yet
	ended  bool                   // gzip: it has seen that the input ends
	window [2*windowSize + 8]byte // the last are never input, but can be read with what is
	pos    int                    // what is to be compressed next
	ahead  int                    // bytes of input from there on in the window
	begun  int                    // where the block begins; negative when that has left the window
	at     int                    // where the last match was found
	heads  [1 << hashBits]uint16
	before [windowSize]uint16 // of a position, the one of the same hash before it

	// The same for a hash of more bytes. The programs have no such thing: with it,
	// what they would find is found sooner. Rank tells how many positions a chain of
	// theirs has between two.
	deepHeads  [1 << hashBits]uint16
	deepBefore [windowSize]uint16
	rank       [windowSize]uint16

	steps int // places that were tried
}

// deep is how many bytes the positions of a deep chain have in common, but for some
// chance ones.
const deep = 5

func (m *matcher) begin(in []byte, by Maker) {
	m.effort, m.gzip = efforts[by&0x0f], by&0xf0 == Gzip
	m.in, m.ended = in, false
	m.pos, m.ahead, m.begun, m.at, m.steps = 0, 0, 0, 0, 0
	clear(m.heads[:])
	clear(m.deepHeads[:])
	clear(m.window[:]) // gzip compares what lies behind the end of the input
}

// fill reads input when there is too little ahead, and slides the window when the
// position has come near its end.
func (m *matcher) fill() {
	for m.ahead < minAhead && !m.ended {
		if m.pos >= windowSize+maxDistance {
			copy(m.window[:windowSize], m.window[windowSize:2*windowSize])
			m.pos -= windowSize
			m.begun -= windowSize
			m.at -= windowSize
			slide(m.heads[:])
			slide(m.before[:])
			slide(m.deepHeads[:])
			slide(m.deepBefore[:])
		}
		n := copy(m.window[m.pos+m.ahead:2*windowSize], m.in)
		m.in = m.in[n:]
		m.ahead += n
		if n > 0 {
			continue
		}
		if !m.gzip {
			return // it slides once more, should it come so far
		}
		m.ended = true
		clear(m.window[m.pos+m.ahead : min(m.pos+m.ahead+minMatch-1, 2*windowSize)])
	}
}

func slide(positions []uint16) {
	for i, p := range positions {
		positions[i] = max(p, windowSize) - windowSize
	}
}

// insert adds a position, and returns the last one before it of the same hash.
func (m *matcher) insert(pos int) (head int) {
	if pos >= 2*windowSize {
		return 0
	}
	w := binary.LittleEndian.Uint64(m.window[pos:])
	hash := (w<<(2*hashShift) ^ w>>8&0xff<<hashShift ^ w>>16&0xff) & (1<<hashBits - 1)
	h, slot := m.heads[hash], pos&(windowSize-1)
	m.heads[hash] = uint16(pos)
	m.before[slot] = h
	m.rank[slot] = m.rank[h&(windowSize-1)] + 1
	hash = w << (64 - 8*deep) * 0x9e3779b97f4a7c15 >> (64 - hashBits)
	m.deepBefore[slot] = m.deepHeads[hash]
	m.deepHeads[hash] = uint16(pos)
	return int(h)
}

// longest returns the length of the longest match of a chain, and keeps where it
// is, if it is longer than best, and otherwise best. It ends at the end of the input.
func (m *matcher) longest(head, best int) int {
	chain, nice := m.chain, m.nice
	if best >= m.good {
		chain >>= 2
	}
	if !m.gzip {
		nice = min(nice, m.ahead)
	}
	limit := max(0, m.pos-maxDistance)
	w, pos, first := &m.window, uint16(m.pos), m.rank[head&(windowSize-1)]
	before, dived, left := &m.before, false, chain // steps that are worth taking in the deep chain
	tried, last := 1, head                         // of the other one
	for ; ; m.steps++ {
		// Most are ruled out by the byte that would make it longer.
		c := uint16(head)
		if end := uint16(best); w[c+end] == w[pos+end] && w[c+end-1] == w[pos+end-1] && w[c] == w[pos] && w[c+1] == w[pos+1] {
			if n := alike(w[head:head+maxMatch], w[m.pos:m.pos+maxMatch]); n > best {
				if dived && int(first-m.rank[head&(windowSize-1)]) >= chain {
					break // the programs do not come so far
				}
				best, m.at = n, head
				if n >= nice || n == maxMatch {
					break
				}
			}
		}
		switch {
		case dived && left > 0:
			left--
		case !dived && left > 0 && best >= deep-1:
			// What is longer lies in the deep chain.
			before, dived, last, head = &m.deepBefore, true, head, m.pos
		default:
			if dived { // it is no shorter way: on with what the programs do
				before, dived, head = &m.before, false, last
			}
			if tried == chain {
				return min(best, m.ahead)
			}
			tried++
		}
		// Only the first may lie at the limit.
		if head = int(before[head&(windowSize-1)]); head <= limit {
			break
		}
	}
	return min(best, m.ahead)
}

// alike returns in how many of their first bytes a and b, which are of the same
// length, are the same.
func alike(a, b []byte) (n int) {
	for ; n+8 <= len(a); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(a) && a[n] == b[n] {
		n++
	}
	return n
}

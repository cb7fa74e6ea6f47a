package deflate

import "math/bits"

// Symbols of the trees.
const (
	endOfBlock = 256
	firstLen   = endOfBlock + 1
	literals   = firstLen + 29 // and lengths
	distances  = 30
	lengths    = 19 // of codes, with three kinds of repetition
)

// How many symbols a block has at most, and of gzip's how often it asks itself
// whether the block had better end.
const (
	zlibSymbols = 1<<14 - 1
	gzipSymbols = 1<<15 - 1
	gzipGuess   = 1 << 12
)

// symbol is a match, or a literal in length if distance is 0.
type symbol struct{ length, distance uint16 }

// block collects symbols, and writes them.
type block struct {
	bitWriter
	gzip    bool
	symbols []symbol
	matches int // of the symbols
	most    int
	lits    tree
	dists   tree
	codes   tree // of the lengths of the codes of the other two
}

func (b *block) begin(by Maker) {
	b.bitWriter.bits, b.bitWriter.n = 0, 0
	b.gzip, b.most = by&0xf0 == Gzip, zlibSymbols
	if b.gzip {
		b.most = gzipSymbols
	}
	b.lits.kind, b.dists.kind, b.codes.kind = &litKind, &distKind, &codeKind
	b.reset()
}

func (b *block) reset() {
	b.symbols, b.matches = b.symbols[:0], 0
	clear(b.lits.freq[:literals])
	clear(b.dists.freq[:distances])
	clear(b.codes.freq[:lengths])
	b.lits.freq[endOfBlock] = 1
}

// literal adds a byte, in a block of so many bytes of input. It reports whether the
// block is full.
func (b *block) literal(c byte, sofar int) bool {
	b.symbols = append(b.symbols, symbol{uint16(c), 0})
	b.lits.freq[c]++
	return b.full(sofar)
}

// match is literal for a match.
func (b *block) match(distance, length, sofar int) bool {
	b.symbols = append(b.symbols, symbol{uint16(length), uint16(distance)})
	b.matches++
	b.lits.freq[firstLen+lengthCode(length)]++
	b.dists.freq[distanceCode(distance)]++
	return b.full(sofar)
}

func (b *block) full(sofar int) bool {
	if n := len(b.symbols); b.gzip && n%gzipGuess == 0 {
		size := n * 8 // bits, as a guess
		for code, f := range b.dists.freq[:distances] {
			size += int(f) * (5 + int(distExtra[code]))
		}
		if b.matches < n/2 && size/8 < sofar/2 {
			return true
		}
	}
	return len(b.symbols) == b.most
}

// Kinds of blocks.
const (
	storedBlock = iota
	fixedBlock
	dynamicBlock
)

// end writes the block, in the way that takes the fewest bytes: stored has its
// input, if that is still there, which has length bytes.
func (b *block) end(stored []byte, length int, last bool) {
	dynamic, fixed := 0, 0 // bits
	for _, t := range []*tree{&b.lits, &b.dists} {
		own, constant := t.build()
		dynamic, fixed = dynamic+own, fixed+constant
	}
	b.lits.count(&b.codes)
	b.dists.count(&b.codes)
	own, _ := b.codes.build()
	sent := lengths
	for sent > 4 && b.codes.length[codeOrder[sent-1]] == 0 {
		sent--
	}
	dynamic += own + 3*sent + 5 + 5 + 4
	dynamic, fixed = (dynamic+3+7)/8, (fixed+3+7)/8
	kind := dynamicBlock
	switch {
	case length+4 <= min(dynamic, fixed) && stored != nil:
		kind = storedBlock
	case fixed <= dynamic:
		kind = fixedBlock
	}
	head := uint(kind << 1)
	if last {
		head |= 1
	}
	b.put(head, 3)
	switch kind {
	case storedBlock:
		b.align()
		b.put(uint(length&0xffff), 16)
		b.put(uint(^length&0xffff), 16)
		b.out = append(b.out, stored...)
	case fixedBlock:
		b.write(litKind.fixed, distKind.fixed)
	case dynamicBlock:
		b.put(uint(b.lits.most+1-firstLen), 5)
		b.put(uint(b.dists.most), 5)
		b.put(uint(sent-4), 4)
		for _, s := range codeOrder[:sent] {
			b.put(uint(b.codes.length[s]), 3)
		}
		b.lits.send(&b.bitWriter, &b.codes)
		b.dists.send(&b.bitWriter, &b.codes)
		b.write(&b.lits.table, &b.dists.table)
	}
	b.reset()
	if last {
		b.align()
	}
}

// write writes the symbols.
func (b *block) write(lits, dists *table) {
	for _, s := range b.symbols {
		if s.distance == 0 {
			lits.put(&b.bitWriter, int(s.length))
			continue
		}
		code := lengthCode(int(s.length))
		lits.put(&b.bitWriter, firstLen+code)
		b.put(uint(s.length)-uint(lenBase[code]), uint(lenExtra[code]))
		code = distanceCode(int(s.distance))
		dists.put(&b.bitWriter, code)
		b.put(uint(s.distance)-uint(distBase[code]), uint(distExtra[code]))
	}
	lits.put(&b.bitWriter, endOfBlock)
}

// lengthCode returns the number of the code of a match's length.
func lengthCode(length int) int {
	if length == maxMatch {
		return 28
	}
	return stepped(length-minMatch, 2)
}

// distanceCode returns the number of the code of a distance.
func distanceCode(distance int) int { return stepped(distance-1, 1) }

// stepped returns the number of the code of n, where codes stand for twice as many
// values after every 1<<step codes.
func stepped(n, step int) int {
	if n < 2<<step {
		return n
	}
	extra := bits.Len(uint(n)) - step - 1
	return extra<<step + n>>extra
}

// What the codes of lengths and distances stand for: the least, and bits after it.
var lenBase, lenExtra, distBase, distExtra = func() (lb [29]uint16, le [29]uint8, db [distances]uint16, de [distances]uint8) {
	for code := range 28 {
		if code >= 8 {
			le[code] = uint8(code/4 - 1)
		}
		lb[code] = minMatch
		if code > 0 {
			lb[code] = lb[code-1] + 1<<le[code-1]
		}
	}
	lb[28] = maxMatch
	db[0] = 1
	for code := 1; code < distances; code++ {
		if code >= 4 {
			de[code] = uint8(code/2 - 1)
		}
		db[code] = db[code-1] + 1<<de[code-1]
	}
	return
}()

// bitWriter appends bits, the lowest first.
type bitWriter struct {
	out  []byte
	bits uint64
	n    uint
}

// put appends n bits, at most 16.
func (w *bitWriter) put(v, n uint) {
	w.bits |= uint64(v) << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.out = append(w.out, byte(w.bits))
		w.bits >>= 8
	}
}

// align fills the last byte.
func (w *bitWriter) align() {
	if w.n > 0 {
		w.put(0, 8-w.n)
	}
}

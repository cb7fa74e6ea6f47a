package deflate

import "math/bits"

// table has the codes of symbols.
type table struct {
	length [literals + 2]uint8 // bits; 0: the symbol has no code
	code   [literals + 2]uint16
}

func (t *table) put(w *bitWriter, symbol int) { w.put(uint(t.code[symbol]), uint(t.length[symbol])) }

// assign gives codes to symbols up to most, whose lengths are set.
func (t *table) assign(most int) {
	var count, next [16]uint16
	for _, n := range t.length[:most+1] {
		count[n]++
	}
	count[0] = 0
	for n := 1; n < len(next); n++ {
		next[n] = (next[n-1] + count[n-1]) << 1
	}
	for s, n := range t.length[:most+1] {
		if n > 0 {
			t.code[s] = bits.Reverse16(next[n]) >> (16 - n)
			next[n]++
		}
	}
}

// kind is what a tree is for.
type kind struct {
	symbols int
	longest int    // of a code, bits
	first   int    // symbol that has extra bits
	extra   []byte // how many each has
	fixed   *table // nil: there is none
}

var (
	litKind  = kind{literals, 15, firstLen, lenExtra[:], fixedTable(literals+2, 8, 144, 9, 256, 7, 280, 8)}
	distKind = kind{distances, 15, 0, distExtra[:], fixedTable(distances, 5)}
	codeKind = kind{lengths, 7, 16, []byte{2, 3, 7}, nil}
)

// fixedTable makes a table of so many symbols. The first have codes of a length;
// then comes each symbol from which on they have another, and that.
func fixedTable(symbols, length int, change ...int) *table {
	t := new(table)
	for s := range symbols {
		if len(change) > 0 && change[0] == s {
			length, change = change[1], change[2:]
		}
		t.length[s] = uint8(length)
	}
	t.assign(symbols - 1)
	return t
}

// nodes is how many a tree has at most.
const nodes = 2*literals + 1

// tree is a Huffman tree whose codes are not too long.
type tree struct {
	*kind
	table
	freq  [nodes]uint16
	most  int // the greatest symbol that has a code
	up    [nodes]uint16
	depth [nodes]uint8
	heap  [nodes]uint16 // from 1 on those still to be joined, at the end those that were
	size  int           // of the heap
}

// less reports whether a is to be joined before b.
func (t *tree) less(a, b uint16) bool {
	return t.freq[a] < t.freq[b] || t.freq[a] == t.freq[b] && t.depth[a] <= t.depth[b]
}

func (t *tree) sink(at int) {
	v := t.heap[at]
	for next := 2 * at; next <= t.size; next *= 2 {
		if next < t.size && t.less(t.heap[next+1], t.heap[next]) {
			next++
		}
		if t.less(v, t.heap[next]) {
			break
		}
		t.heap[at] = t.heap[next]
		at = next
	}
	t.heap[at] = v
}

// build makes the tree and its codes. It returns how many bits the symbols take
// with them, and with the fixed ones.
func (t *tree) build() (own, fixed int) {
	t.size, t.most = 0, -1
	for s := range t.symbols {
		if t.length[s] = 0; t.freq[s] > 0 {
			t.size++
			t.heap[t.size] = uint16(s)
			t.most, t.depth[s] = s, 0
		}
	}
	// There are two codes at least. What is added takes no bits.
	for t.size < 2 {
		s := 0
		if t.most < 2 {
			t.most++
			s = t.most
		}
		t.size++
		t.heap[t.size] = uint16(s)
		t.freq[s], t.depth[s] = 1, 0
		own--
		if t.fixed != nil {
			fixed -= int(t.fixed.length[s])
		}
	}
	for i := t.size / 2; i >= 1; i-- {
		t.sink(i)
	}
	done, node := len(t.heap), uint16(t.symbols)
	for t.size >= 2 {
		a := t.heap[1]
		t.heap[1] = t.heap[t.size]
		t.size--
		t.sink(1)
		b := t.heap[1]
		done -= 2
		t.heap[done+1], t.heap[done] = a, b
		t.freq[node] = t.freq[a] + t.freq[b]
		t.depth[node] = max(t.depth[a], t.depth[b]) + 1
		t.up[a], t.up[b] = node, node
		t.heap[1] = node
		node++
		t.sink(1)
	}
	done--
	t.heap[done] = t.heap[1]
	t.limit(done)
	for s := range t.most + 1 {
		extra := 0
		if s >= t.first && len(t.extra) > s-t.first {
			extra = int(t.extra[s-t.first])
		}
		own += int(t.freq[s]) * (int(t.length[s]) + extra)
		if t.fixed != nil && t.length[s] > 0 {
			fixed += int(t.freq[s]) * (int(t.fixed.length[s]) + extra)
		}
	}
	t.assign(t.most)
	return own, fixed
}

// limit sets the lengths of codes from the joined nodes, which lie in the heap from
// the root on. Those that would be too long are made shorter at the others' cost.
func (t *tree) limit(root int) {
	var count [16]int
	var length [nodes]uint8
	excess := 0
	for _, n := range t.heap[root+1:] {
		l := length[t.up[n]] + 1
		if int(l) > t.longest {
			l = uint8(t.longest)
			excess++
		}
		if length[n] = l; int(n) <= t.most {
			t.length[n] = l
			count[l]++
		}
	}
	if excess == 0 {
		return
	}
	for ; excess > 0; excess -= 2 {
		l := t.longest - 1
		for count[l] == 0 {
			l--
		}
		count[l]--
		count[l+1] += 2
		count[t.longest]--
	}
	at := len(t.heap)
	for l := t.longest; l > 0; l-- {
		for n := count[l]; n > 0; {
			if at--; int(t.heap[at]) <= t.most {
				t.length[t.heap[at]] = uint8(l)
				n--
			}
		}
	}
}

// codeOrder is the order in which the lengths of codes' codes are sent.
var codeOrder = [lengths]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// Symbols for lengths of codes that are repeated.
const (
	repeatLast  = 16 // 3 to 6 times
	repeatZero  = 17 // 3 to 10 times
	repeatZeros = 18 // 11 to 138 times
)

// runs calls yield with the lengths of codes as they are sent: one of the symbols
// of codes, and for those that repeat how often; that is 1 for others.
func (t *tree) runs(yield func(symbol, times int)) {
	last := -1
	for s := 0; s <= t.most; {
		l := int(t.length[s])
		most, least := 6, 3
		switch {
		case l == 0:
			most = 138
		case l != last:
			most, least = 7, 4
		}
		n := 1
		for n < most && s+n <= t.most && int(t.length[s+n]) == l {
			n++
		}
		s += n
		switch {
		case n < least:
			for range n {
				yield(l, 1)
			}
		case l == 0 && n <= 10:
			yield(repeatZero, n)
		case l == 0:
			yield(repeatZeros, n)
		default:
			if l != last {
				yield(l, 1)
				n--
			}
			yield(repeatLast, n)
		}
		last = l
	}
}

// count counts what send is going to send.
func (t *tree) count(codes *tree) {
	t.runs(func(symbol, _ int) { codes.freq[symbol]++ })
}

// send sends the lengths of codes.
func (t *tree) send(w *bitWriter, codes *tree) {
	t.runs(func(symbol, times int) {
		codes.put(w, symbol)
		switch symbol {
		case repeatLast:
			w.put(uint(times-3), 2)
		case repeatZero:
			w.put(uint(times-3), 3)
		case repeatZeros:
			w.put(uint(times-11), 7)
		}
	})
}

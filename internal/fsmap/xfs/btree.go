package xfs

// A group's trees.
const (
	header4   = 16
	header5   = 56
	mostDepth = 16      // of any tree
	treeSum   = 52      // where the checksum is
	freeSize  = 8       // bytes of a record: first block and blocks
	chunkSize = 16      // bytes of a record of inodes
	treeCache = 4 << 20 // bytes
)

// kind says of which kind a group's tree is.
type kind struct {
	name           string
	magic4, magic5 string
	record, key    int64 // bytes
	ordered        bool  // by the number that records and keys begin with
}

var (
	freeTree       = &kind{"free space", "ABTB", "AB3B", freeSize, 8, true}
	sizeTree       = &kind{"sizes of free space", "ABTC", "AB3C", freeSize, 8, false}
	inodeTree      = &kind{"inodes", "IABT", "IAB3", chunkSize, 4, true}
	freeInodeTree  = &kind{"free inodes", "FIBT", "FIB3", chunkSize, 4, true}
	ownerTree      = &kind{"owners", "", "RMB3", 24, 40, false}
	referencesTree = &kind{"references", "", "R3FC", 12, 4, false}
)

// tree is a tree in a group.
type tree struct {
	*kind
	group, root int64
	levels      int
}

// node is a block of a group's tree. Its records are what is after the header.
type node struct {
	level, n int
	body     []byte // without the header
}

// child returns the block that the entry of a node points to.
func (k *kind) child(n *node, i int) int64 {
	most := int64(len(n.body)) / (k.key + 4)
	return int64(be.Uint32(n.body[most*k.key+4*int64(i):]))
}

// node reads a block of the tree that must have a level.
func (fs *fileSystem) node(t *tree, b int64, level int, p []byte) (*node, error) {
	if !fs.inGroup(t.group, b, 1) {
		return nil, damaged("group %d: block %d of the tree of %s lies outside", t.group, b, t.name)
	}
	at := t.group*fs.perGroup + b
	if _, err := fs.r.ReadAt(p, at*fs.block); err != nil {
		return nil, err
	}
	magic, header := t.magic4, int64(header4)
	if fs.v5 {
		magic, header = t.magic5, header5
	}
	n := &node{level: int(be.Uint16(p[4:])), n: int(be.Uint16(p[6:])), body: p[header:]}
	most := int64(len(n.body)) / t.record
	if level > 0 {
		most = int64(len(n.body)) / (t.key + 4)
	}
	if string(p[:4]) != magic || n.level != level || int64(n.n) > most || n.n == 0 && b != t.root {
		return nil, damaged("group %d: block %d is not of the tree of %s", t.group, b, t.name)
	}
	if fs.v5 && (!summed(p, treeSum) || int64(be.Uint64(p[16:])) != at*(fs.block/512) ||
		!fs.isOurs(p[32:48]) || int64(be.Uint32(p[48:])) != t.group) {
		return nil, damaged("group %d: the checksum or the place of block %d in the tree of %s is wrong", t.group, b, t.name)
	}
	return n, nil
}

// walk calls yield with each record of a tree, in order. See, if it is not nil,
// is called with each block of the tree.
func (fs *fileSystem) walk(t *tree, see func(b int64) error, yield func(record []byte) error) error {
	if t.levels < 1 || t.levels > mostDepth {
		return damaged("group %d: the tree of %s has %d levels", t.group, t.name, t.levels)
	}
	w := &walker{fs: fs, t: t, see: see, yield: yield, budget: fs.length(t.group), next: -1}
	return w.node(t.root, t.levels-1, -1)
}

// walker goes through a tree.
type walker struct {
	fs      *fileSystem
	t       *tree
	see     func(b int64) error
	yield   func(record []byte) error
	budget  int64 // blocks that the tree may still have
	next    int64 // the key of the last record; they ascend
	buffers [mostDepth][]byte
}

// node goes through a block and what is below. Key is what the node above says
// that its first record has, or -1.
func (w *walker) node(b int64, level int, key int64) error {
	if w.budget--; w.budget < 0 {
		return damaged("group %d: the tree of %s has more blocks than the group", w.t.group, w.t.name)
	}
	if w.see != nil {
		if err := w.see(b); err != nil {
			return err
		}
	}
	if w.buffers[level] == nil {
		w.buffers[level] = make([]byte, w.fs.block)
	}
	n, err := w.fs.node(w.t, b, level, w.buffers[level])
	if err != nil {
		return err
	}
	size := w.t.key
	if level == 0 {
		size = w.t.record
	}
	for i := range n.n {
		record := n.body[int64(i)*size : int64(i+1)*size]
		first := int64(be.Uint32(record))
		if w.t.ordered && i == 0 && key >= 0 && first != key {
			return damaged("group %d: a key in the tree of %s is wrong", w.t.group, w.t.name)
		}
		if level > 0 {
			if err := w.node(w.t.child(n, i), level-1, first); err != nil {
				return err
			}
			continue
		}
		if w.t.ordered && first <= w.next {
			return damaged("group %d: the tree of %s is out of order", w.t.group, w.t.name)
		}
		w.next = first
		if err := w.yield(record); err != nil {
			return err
		}
	}
	return nil
}

// lookup finds what is free. It keeps blocks of trees, up to a bound.
type lookup struct {
	fs     *fileSystem
	groups map[int64]*group
	nodes  map[int64]*node // by the volume's block
	bytes  int64
}

// overlaps reports whether one of n blocks of a group is free.
func (l *lookup) overlaps(number, b, n int64) (bool, error) {
	g := l.groups[number]
	if g == nil {
		var err error
		if g, err = l.fs.group(number); err != nil {
			return false, err
		}
		if len(l.groups) >= 1024 || l.groups == nil {
			l.groups = map[int64]*group{}
		}
		l.groups[number] = g
	}
	at := g.free.root
	for level := g.free.levels - 1; ; level-- {
		nd, err := l.node(&g.free, at, level)
		if err != nil {
			return false, err
		}
		// The last entry that begins before the range's end is the only one that
		// can reach into it, unless the tree is damaged.
		lo, hi := 0, nd.n
		for lo < hi {
			mid := (lo + hi) / 2
			if int64(be.Uint32(nd.body[mid*freeSize:])) < b+n {
				lo = mid + 1
			} else {
				hi = mid
			}
		}
		if lo == 0 {
			return false, nil
		}
		e := nd.body[(lo-1)*freeSize:]
		if level == 0 {
			return int64(be.Uint32(e))+int64(be.Uint32(e[4:])) > b, nil
		}
		at = g.free.child(nd, lo-1)
	}
}

func (l *lookup) node(t *tree, b int64, level int) (*node, error) {
	key := t.group*l.fs.perGroup + b
	if n := l.nodes[key]; n != nil && n.level == level {
		return n, nil
	}
	n, err := l.fs.node(t, b, level, make([]byte, l.fs.block))
	if err != nil {
		return nil, err
	}
	if l.bytes += l.fs.block; l.bytes > treeCache || l.nodes == nil {
		l.nodes, l.bytes = map[int64]*node{}, l.fs.block
	}
	l.nodes[key] = n
	return n, nil
}

package btrfs

import "cmp"

// Kinds of items.
const (
	inodeItem    = 1
	extentData   = 108
	rootItem     = 132
	extentItem   = 168
	metadataItem = 169
	chunkItem    = 228
)

// key is what items are found by.
type key struct {
	object uint64
	kind   byte
	offset uint64
}

func readKey(p []byte) key { return key{le.Uint64(p), p[8], le.Uint64(p[9:])} }

func (k key) compare(o key) int {
	return cmp.Or(cmp.Compare(k.object, o.object), cmp.Compare(k.kind, o.kind), cmp.Compare(k.offset, o.offset))
}

// walker goes through a tree.
type walker struct {
	fs      *fileSystem
	seen    map[uint64]bool // blocks that need not be read again; nil: none
	yield   func(k key, p []byte) error
	budget  int64 // blocks that the tree may still have
	last    key   // of an item
	any     bool
	buffers [mostLevels][]byte
}

// walk calls yield with all items of a tree, in order. Blocks in seen, if it is not
// nil, are passed over, and those that are read are added.
func (fs *fileSystem) walk(root branch, seen map[uint64]bool, yield func(k key, p []byte) error) error {
	if root.level < 0 || root.level >= mostLevels {
		return damaged("a tree of %d levels", root.level+1)
	}
	w := &walker{fs: fs, seen: seen, yield: yield, budget: fs.size / fs.node}
	return w.block(root, key{}, false)
}

// block goes through a block and what is below. First is the key that the block
// above says that it begins with.
func (w *walker) block(b branch, first key, check bool) error {
	if w.seen != nil {
		if w.seen[b.at] {
			return nil
		}
		w.seen[b.at] = true
	}
	if w.budget--; w.budget < 0 {
		return damaged("a tree has more blocks than there are")
	}
	if err := w.fs.inUse(b.at); err != nil {
		return err
	}
	if w.buffers[b.level] == nil {
		w.buffers[b.level] = make([]byte, w.fs.node)
	}
	p := w.buffers[b.level]
	if err := w.fs.block(b, p); err != nil {
		return err
	}
	n, size := int64(le.Uint32(p[96:])), int64(itemSize)
	if b.level > 0 {
		size = branchSize
	}
	if n > (w.fs.node-headerSize)/size || n == 0 && b.level > 0 {
		return damaged("the block at %d has %d items", b.at, n)
	}
	for i := range n {
		e := p[headerSize+i*size:]
		k := readKey(e)
		if i == 0 && check && k != first || w.any && k.compare(w.last) <= 0 {
			return damaged("the block at %d is out of order", b.at)
		}
		if b.level > 0 {
			if err := w.block(branch{le.Uint64(e[17:]), b.level - 1, le.Uint64(e[25:])}, k, true); err != nil {
				return err
			}
			continue
		}
		w.last, w.any = k, true
		at, length := int64(le.Uint32(e[17:])), int64(le.Uint32(e[21:]))
		if at > w.fs.node-headerSize || length > w.fs.node-headerSize-at {
			return damaged("an item of %d bytes at %d of the block at %d", length, at, b.at)
		}
		if err := w.yield(k, p[headerSize+at:headerSize+at+length]); err != nil {
			return err
		}
	}
	return nil
}

// inUse sees that a block of a tree is in use, at once or as soon as that is known.
func (fs *fileSystem) inUse(at uint64) error {
	if !fs.known {
		fs.early = append(fs.early, at)
		return nil
	}
	if !fs.isAllocated(at, uint64(fs.node)) {
		return damaged("the block at %d is of a tree, and not in use", at)
	}
	return nil
}

// readRoot reads where a tree begins.
func readRoot(p []byte) (root branch, refs uint32, err error) {
	if len(p) < 239 {
		return branch{}, 0, damaged("a tree's root is cut short")
	}
	return branch{le.Uint64(p[176:]), int(p[238]), le.Uint64(p[160:])}, le.Uint32(p[216:]), nil
}

// readAllocated reads the tree of extents: what is in use.
func (fs *fileSystem) readAllocated() error {
	const extentTree = 2
	var root branch
	found := false
	err := fs.walk(fs.root, nil, func(k key, p []byte) (err error) {
		if k.kind == rootItem && k.object == extentTree {
			root, _, err = readRoot(p)
			found = true
		}
		return err
	})
	if err != nil {
		return err
	}
	if !found {
		return damaged("no tree of extents")
	}
	end, total := uint64(0), uint64(0)
	err = fs.walk(root, nil, func(k key, _ []byte) error {
		n := k.offset
		switch k.kind {
		case extentItem:
		case metadataItem:
			n = uint64(fs.node)
		default:
			return nil
		}
		if k.object < end || n == 0 || n > 1<<62 || k.object > 1<<62 {
			return damaged("%d bytes in use at %d", n, k.object)
		}
		if e, err := fs.place(k.object, n); err != nil || uint64(e.Length) < n {
			return damaged("%d bytes in use at %d, which is not in one chunk", n, k.object)
		}
		end, total = k.object+n, total+n
		if l := fs.allocated; len(l) > 0 && l[len(l)-1].start+l[len(l)-1].length == k.object && !fs.beginsChunk(k.object) {
			l[len(l)-1].length += n
			return nil
		}
		if len(fs.allocated) == mostParts {
			return refused("Btrfs in more pieces than are read")
		}
		fs.allocated = append(fs.allocated, extent{k.object, n})
		return nil
	})
	if err != nil {
		return err
	}
	if total != fs.used {
		return damaged("%d bytes are in use, and %d by the superblock", total, fs.used)
	}
	fs.known = true
	for _, at := range fs.early {
		if err := fs.inUse(at); err != nil {
			return err
		}
	}
	fs.early = nil
	return nil
}

package ckm

import "slices"

// IDSet says which chunks a package has. It keeps eight bytes of each ID: it tells
// where to look, not what is there.
type IDSet []uint64

// NewIDSet returns the chunks of x, none if it is nil.
func NewIDSet(x *Index) IDSet {
	if x == nil {
		return nil
	}
	s := make(IDSet, x.Chunks())
	for c := range s {
		s[c] = x.ID(c).Prefix()
	}
	slices.Sort(s)
	return s
}

// Has reports whether a chunk is in the set. By chance, it may say so of one that
// is not.
func (s IDSet) Has(id ID) bool {
	_, ok := slices.BinarySearch(s, id.Prefix())
	return ok
}

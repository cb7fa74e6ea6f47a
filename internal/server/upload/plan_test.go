package upload

import (
	"slices"
	"testing"

	"prestage/ckm"
	"prestage/internal/testenv"
)

// frames makes an index whose frames are stored as random bytes of these seeds.
func frames(t *testing.T, size int, seeds ...byte) *ckm.Index {
	t.Helper()
	x := &ckm.Index{Info: ckm.Info{FrameLimit: ckm.MaxFrameLimit}}
	for i, s := range seeds {
		x.AddFrame(testenv.Random(s, size), ckm.CodecZstd, []ckm.ID{ckm.Sum([]byte{s, byte(i)})}, []int{size})
	}
	x.CKMLength = uint64(ckm.HeaderSize + len(seeds)*size + ckm.TrailerSize)
	return x
}

func TestPlan(t *testing.T) {
	const n, head = 200 << 10, ckm.HeaderSize
	old := frames(t, n, 1, 2, 3, 4, 5)
	for _, c := range []struct {
		seeds  []byte
		old    *ckm.Index
		copies []stretch
	}{
		{[]byte{1, 2, 3, 4, 5}, nil, nil},
		{[]byte{1, 2, 3, 4, 5}, old, []stretch{{head, head, 5 * n}}},
		{[]byte{1, 2, 9, 3, 4, 5}, old, []stretch{{head, head, 2 * n}, {head + 3*n, head + 2*n, 3 * n}}},
		{[]byte{9, 4, 5, 1, 2}, old, []stretch{{head + n, head + 3*n, 2 * n}, {head + 3*n, head, 2 * n}}},
		{[]byte{9, 3, 9, 8, 5}, old, nil}, // too short to be worth a request
	} {
		x := frames(t, n, c.seeds...)
		p := newPlan(x, c.old, "")
		if !slices.Equal(p.copies, c.copies) || p.length != int64(x.CKMLength) {
			t.Errorf("%v: %+v", c.seeds, p)
		}
		// Who sends what is wanted, and lets the rest be copied, ends up with all of it.
		sent, copied := int64(0), int64(0)
		for off := int64(0); off < p.length; {
			until := p.until(off)
			if until < off || until > p.length {
				t.Fatalf("%v: from %d until %d", c.seeds, off, until)
			}
			sent += until - off
			off = until
			for _, s := range p.copies {
				if s.at <= off && off < s.at+s.n {
					if p.until(off) != off {
						t.Errorf("%v: what is here is wanted at %d", c.seeds, off)
					}
					copied += s.at + s.n - off
					off = s.at + s.n
				}
			}
		}
		if sent+copied != p.length {
			t.Errorf("%v: %d sent and %d copied of %d", c.seeds, sent, copied, p.length)
		}
	}
}

package pack

import (
	"context"
	"encoding/binary"

	"prestage/ckm"
)

// heldMost is how many bytes of what the previous version lacks are held back
// until they are written together: some 6 MiB of the CKM. A client that has the
// previous version fetches them as one range, where it would need hundreds for
// what lies all over the image.
const heldMost = 16 << 20

// grouper fills frames with neighbouring chunks, those that the previous version
// lacks apart from those that it has.
type grouper struct {
	*pipeline
	seen     *chunkTable
	previous ckm.IDSet // a chance match would only put a chunk where it suits less well

	held  []heldPiece // of chunks that neither the previous version nor a frame has
	bytes []byte      // of held

	frame *frameJob // being filled, or nil
	known bool      // whether frame's chunks are in the previous version
	run   ckm.Segment
	end   uint64 // of run in its file
}

type heldPiece struct {
	id ckm.ID
	piece
}

// add takes the next chunk of the image.
func (g *grouper) add(ctx context.Context, id ckm.ID, p piece) error {
	if g.o.Previous == nil || g.previous.Has(id) || g.seen.has(id) {
		return g.put(ctx, id, p)
	}
	if len(g.bytes)+len(p.data) > heldMost {
		if err := g.release(ctx); err != nil {
			return err
		}
	}
	if g.bytes == nil {
		g.bytes = make([]byte, 0, heldMost)
	}
	g.bytes = append(g.bytes, p.data...)
	p.data = g.bytes[len(g.bytes)-len(p.data):]
	g.held = append(g.held, heldPiece{id, p})
	return nil
}

// release puts what was held back into frames.
func (g *grouper) release(ctx context.Context) error {
	for _, h := range g.held {
		if err := g.put(ctx, h.id, h.piece); err != nil {
			return err
		}
	}
	g.held, g.bytes = g.held[:0], g.bytes[:0]
	return nil
}

// finish puts what is left into frames.
func (g *grouper) finish(ctx context.Context) error {
	if err := g.release(ctx); err != nil {
		return err
	}
	g.placeRun()
	return g.flush(ctx)
}

// put places one chunk and, if it is new, puts it into a frame.
func (g *grouper) put(ctx context.Context, id ckm.ID, p piece) error {
	number, isNew := g.seen.add(id)
	if p.extents == nil {
		g.place(number, p.file, uint64(p.offset), uint64(len(p.data)))
	} else {
		g.placeRun()
		g.run = ckm.Segment{}
		g.x.PlaceSplit(number, p.file, p.extents)
	}
	if !isNew {
		return nil
	}
	// A client that has the previous version must not have to fetch what it
	// has because it shares a frame with what it lacks.
	known := g.previous.Has(id)
	if f := g.frame; f != nil &&
		(known != g.known || len(f.raw)+len(p.data) > frameLimit || len(f.ids) == ckm.MaxFrameChunks) {
		if err := g.flush(ctx); err != nil {
			return err
		}
	}
	if g.frame == nil {
		f := g.frameJobs.Get().(*frameJob)
		f.raw, f.ids, f.lengths, f.ready = f.raw[:0], f.ids[:0], f.lengths[:0], make(chan struct{})
		clear(f.uses)
		g.frame, g.known = f, known
	}
	if p.use != inUse {
		g.frame.uses[p.use] += len(p.data)
	}
	g.frame.raw = append(g.frame.raw, p.data...)
	g.frame.ids = append(g.frame.ids, id)
	g.frame.lengths = append(g.frame.lengths, len(p.data))
	return nil
}

func (g *grouper) flush(ctx context.Context) error {
	f := g.frame
	if f == nil {
		return nil
	}
	g.frame = nil
	if err := send(ctx, g.toWrite, f); err != nil {
		return err
	}
	return send(ctx, g.toCompress, f)
}

// place collects neighbours into runs, so that a large image's map stays small
// in memory too.
func (g *grouper) place(number, file uint32, offset, length uint64) {
	r := &g.run
	if r.Count > 0 && r.Count < ckm.MaxRunChunks && file == r.File && number == r.Chunk+r.Count && offset == g.end {
		r.Count++
	} else {
		g.placeRun()
		g.run = ckm.Segment{Chunk: number, Count: 1, File: file, Offset: offset}
	}
	g.end = offset + length
}

func (g *grouper) placeRun() {
	if g.run.Count > 0 {
		g.x.PlaceRun(g.run)
	}
}

// chunkTable numbers chunks by their IDs, in the order in which they come. It
// is an open hash table of numbers: 32 bytes an ID and about 8 for its place,
// where Go's map would take half as much again.
type chunkTable struct {
	ids   []ckm.ID
	slots []uint32 // number + 1, or 0
}

func newChunkTable() *chunkTable { return &chunkTable{slots: make([]uint32, 1<<12)} }

// add returns the chunk's number and whether it is new.
func (t *chunkTable) add(id ckm.ID) (number uint32, isNew bool) {
	if len(t.ids)*4 >= len(t.slots)*3 {
		t.grow()
	}
	i := t.find(id)
	if n := t.slots[i]; n != 0 {
		return n - 1, false
	}
	t.ids = append(t.ids, id)
	t.slots[i] = uint32(len(t.ids))
	return uint32(len(t.ids) - 1), true
}

// has reports whether the chunk has a number.
func (t *chunkTable) has(id ckm.ID) bool { return t.slots[t.find(id)] != 0 }

// find returns the slot that holds id or where it belongs.
func (t *chunkTable) find(id ckm.ID) uint64 {
	mask := uint64(len(t.slots) - 1)
	i := prefix(id) & mask
	for t.slots[i] != 0 && t.ids[t.slots[i]-1] != id {
		i = (i + 1) & mask
	}
	return i
}

func (t *chunkTable) grow() {
	t.slots = make([]uint32, 2*len(t.slots))
	for n, id := range t.ids {
		t.slots[t.find(id)] = uint32(n + 1)
	}
}

func prefix(id ckm.ID) uint64 { return binary.LittleEndian.Uint64(id[:]) }

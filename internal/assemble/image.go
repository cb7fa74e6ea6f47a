package assemble

import (
	"context"
	"os"
	"slices"
	"sync"

	"prestage/ckm"
)

// Image builds the image's files under root and brings them to the disk. What
// an earlier attempt has left there is checked and used.
func (t *Fetcher) Image(ctx context.Context, root *os.Root) error {
	target, err := CreateTarget(root, t.Index)
	if err != nil {
		return err
	}
	defer target.Close()
	if target.fresh && t.CopyFrom != "" {
		target.copyFrom(t.CopyFrom)
	}
	missing := make([]int, t.Index.Chunks())
	for i := range missing {
		missing[i] = i
	}
	if !target.fresh {
		t.Meter.Begin("checking what is there", int64(t.Index.PlacedSize()))
		// A copy of another version may differ in all chunks: they are numbers here.
		if missing, _, err = t.faulty(ctx, target, false); err != nil {
			return err
		}
	}
	if err := t.fill(ctx, target, missing); err != nil {
		return err
	}
	return target.Sync()
}

// Mend makes the image that target holds whole again, in place, and returns
// what was wrong. Chunks that are right are not written.
func (t *Fetcher) Mend(ctx context.Context, target *Target) ([]Fault, error) {
	t.Meter.Begin("checking", int64(t.Index.PlacedSize()))
	missing, faults, err := t.faulty(ctx, target, true)
	if err != nil || len(faults) == 0 {
		return faults, err
	}
	if err := t.fill(ctx, target, missing); err != nil {
		return faults, err
	}
	return faults, target.Sync()
}

// faulty returns the chunks that target does not hold, after mending what needs
// none. What is wrong with chunks is told only if it is asked for.
func (t *Fetcher) faulty(ctx context.Context, target *Target, tell bool) (missing []int, faults []Fault, err error) {
	var mu sync.Mutex
	add := func(f Fault) {
		mu.Lock()
		defer mu.Unlock()
		if f.Chunk >= 0 {
			missing = append(missing, f.Chunk)
		}
		if f.Chunk < 0 || tell {
			faults = append(faults, f)
		}
	}
	if err := target.Check(ctx, t.Meter.Add, add); err != nil {
		return nil, nil, err
	}
	if err := target.CheckHoles(ctx, add); err != nil {
		return nil, nil, err
	}
	if len(faults) > 0 {
		err = target.mendShape(faults)
	}
	return missing, faults, err
}

// fill writes the missing chunks: from sources that are on this machine, then
// from the seeds, and from the other sources what is in neither.
func (t *Fetcher) fill(ctx context.Context, target *Target, missing []int) error {
	w := newWants(t.Index, missing)
	t.Meter.Begin("assembling", w.bytes)
	bufs := sync.Pool{New: func() any { b := make([]byte, 0, t.Index.FrameLimit+ckm.DecodeSlack); return &b }}
	return t.frames(ctx, w.frames(), func(f int, stored []byte) error {
		buf := bufs.Get().(*[]byte)
		defer bufs.Put(buf)
		raw, err := t.Index.DecodeFrame(f, *buf, stored)
		if err != nil {
			return err
		}
		first, end := t.Index.FrameChunks(f)
		for _, r := range w.missingIn(first, end) {
			at := t.Index.RunLength(uint32(first), uint32(r[0]-first))
			p := raw[at : at+t.Index.RunLength(uint32(r[0]), uint32(r[1]-r[0]))]
			if err := target.writeChunks(r[0], r[1], p); err != nil {
				return err
			}
			t.Meter.Add(w.got(r[0], r[1]))
		}
		return nil
	}, &local{
		unheld: func() []int { return t.unheld(w) },
		supply: func(ctx context.Context) error { return t.seed(ctx, target, w) },
		left:   w.frames,
	})
}

// CKM builds or mends a copy of the CKM in f, frame by frame, and brings it to
// the disk: frames that are right already are not fetched again. It returns
// how many bytes were wrong or missing.
func (t *Fetcher) CKM(ctx context.Context, f CKMFile) (written int64, err error) {
	size, err := f.Size()
	if err != nil {
		return 0, err
	}
	need, framed, err := t.checkCKM(ctx, f, size)
	if err != nil {
		return 0, err
	}
	if framed && len(need) == 0 {
		return 0, f.Sync() // who wrote it may have been killed before he did
	}
	if size != int64(t.Index.CKMLength) {
		if err := f.Truncate(int64(t.Index.CKMLength)); err != nil {
			return 0, err
		}
	}
	for _, frame := range need {
		written += int64(t.Index.Frame(frame).Stored)
	}
	t.Meter.Begin("copying", written)
	err = t.Frames(ctx, need, func(n int, stored []byte) error {
		if err := t.Index.CheckStored(n, stored); err != nil {
			return err
		}
		t.Meter.Add(int64(len(stored)))
		_, err := f.WriteAt(stored, int64(t.Index.Frame(n).Offset))
		return err
	})
	if err != nil {
		return written, err
	}
	if _, err := f.WriteAt(ckm.Header(t.Index.CompatibleFeatures), 0); err != nil {
		return written, err
	}
	if _, err := f.WriteAt(t.Index.Trailer().Append(nil), int64(t.Index.CKMLength)-ckm.TrailerSize); err != nil {
		return written, err
	}
	return written, f.Sync()
}

func (t *Fetcher) checkCKM(ctx context.Context, f CKMFile, size int64) (need []int, framed bool, err error) {
	if size == 0 {
		need = make([]int, t.Index.Frames())
		for i := range need {
			need[i] = i
		}
		return need, false, nil
	}
	t.Meter.Begin("checking what is there", int64(t.Index.CKMLength))
	var mu sync.Mutex
	framed, err = CheckCKM(ctx, t.Index, f, size, t.Meter.Add, func(frame int) {
		mu.Lock()
		defer mu.Unlock()
		need = append(need, frame)
	})
	slices.Sort(need)
	return need, framed, err
}

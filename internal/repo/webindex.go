package repo

import (
	"context"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sync/errgroup"

	"prestage/ckm"
)

// Pages of an INDEX.
const (
	// leastPaged is the size in bytes of the smallest INDEX that is worth more than
	// one request.
	leastPaged = 128 << 10
	// pageGap is how many bytes between pages are fetched along rather than asking
	// once more: fewer than of a CKM, because most of an INDEX is what one has.
	pageGap = 32 << 10
)

// IndexFrom is r.Index that takes the pages that two versions have in common from
// old, the INDEX of another version, where r can be read by ranges. Fetched is how
// many bytes came from r.
func IndexFrom(ctx context.Context, r Repository, name string, version uint32, old []byte) (b []byte, fetched int64, err error) {
	if w, ok := r.(*Web); ok && len(old) >= leastPaged {
		if b, fetched, err = w.indexFrom(ctx, name, version, old); err == nil {
			return b, fetched, nil
		}
		// Whatever it was, all of it may be read, or says better what is wrong.
		if ctx.Err() != nil {
			return nil, fetched, ctx.Err()
		}
	}
	b, err = r.Index(ctx, name, version)
	return b, fetched + int64(len(b)), err
}

var errNotPaged = errors.New("the server does not know ranges")

func (r *Web) indexFrom(ctx context.Context, name string, version uint32, old []byte) (b []byte, fetched int64, err error) {
	known, err := ckm.DecodeHead(old)
	if err != nil {
		return nil, 0, err
	}
	have := make(map[ckm.Digest][]byte)
	for _, p := range known.Pages() {
		if p.Offset+p.Length <= int64(len(old)) {
			have[p.Digest] = old[p.Offset : p.Offset+p.Length]
		}
	}
	f := r.file(ckm.IndexName(name, version))
	defer func() { fetched = f.got.Load() }()
	size, err := ckm.HeadSize(old)
	if err != nil {
		return nil, 0, err
	}
	// The new head is about as large as the old one.
	b = make([]byte, min(size+size/8, len(old)))
	if err := f.readRange(ctx, b, 0); err != nil {
		return nil, 0, err
	}
	f.opened = true
	if f.noRanges || f.size < int64(len(b)) || f.size > ckm.MaxIndexSize {
		return nil, 0, errNotPaged
	}
	if size, err = ckm.HeadSize(b); err != nil {
		return nil, 0, err
	}
	got := len(b)
	b = append(b, make([]byte, f.size-int64(len(b)))...)
	if size > len(b) {
		return nil, 0, fmt.Errorf("%w: the INDEX is cut short", ckm.ErrFormat)
	}
	if size > got {
		if err := f.readRange(ctx, b[got:size], int64(got)); err != nil {
			return nil, 0, err
		}
		got = size
	}
	h, err := ckm.DecodeHead(b)
	if err != nil {
		return nil, 0, err
	}
	if err := f.readPages(ctx, b, h, int64(got), have); err != nil {
		return nil, 0, err
	}
	// It may have been signed anew between two requests.
	if end := len(b) - len(ckm.Digest{}); ckm.Sum(b[:end]) != ckm.Digest(b[end:]) {
		return nil, 0, fmt.Errorf("%w: the INDEX changed while it was read", ckm.ErrFormat)
	}
	return b, 0, nil
}

// readPages fills b, whose first bytes are there, with pages that are known and
// fetches the others.
func (f *webFile) readPages(ctx context.Context, b []byte, h *ckm.Head, got int64, have map[ckm.Digest][]byte) error {
	type span struct{ from, to int64 }
	var missing []span
	need := func(from, to int64) {
		if from = max(from, got); from >= to {
			return
		}
		if n := len(missing); n > 0 && from-missing[n-1].to <= pageGap {
			missing[n-1].to = to
		} else {
			missing = append(missing, span{from, to})
		}
	}
	pages := h.Pages()
	end := int64(0)
	for _, p := range pages {
		if end = p.Offset + p.Length; end > int64(len(b)) {
			return fmt.Errorf("%w: the INDEX is cut short", ckm.ErrFormat)
		}
		if known := have[p.Digest]; int64(len(known)) == p.Length {
			copy(b[p.Offset:end], known)
		} else {
			need(p.Offset, end)
		}
	}
	need(end, int64(len(b)))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(webReaders)
	for _, s := range missing {
		g.Go(func() error { return f.readRange(gctx, b[s.from:s.to], s.from) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, p := range pages {
		if ckm.Sum(b[p.Offset:p.Offset+p.Length]) != p.Digest {
			return fmt.Errorf("%w: a page of the INDEX is damaged", ckm.ErrFormat)
		}
	}
	return nil
}

// readRange fills p with what is at an offset.
func (f *webFile) readRange(ctx context.Context, p []byte, off int64) error {
	body := f.reader(ctx, off, int64(len(p)))
	defer body.Close()
	_, err := io.ReadFull(body, p)
	return err
}

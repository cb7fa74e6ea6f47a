package patch

import (
	"context"
	"fmt"
	"io"

	"prestage/ckm"
)

// Check checks a patch of size bytes as a whole: that it is one of pkg on the base
// old, and that each of its parts makes the chunks that it says it does. Nothing of
// the package pkg but its index is read. The error wraps ckm.ErrFormat,
// ckm.ErrUnsupported or ckm.ErrMismatch.
func Check(ctx context.Context, r io.ReaderAt, size int64, old Package, pkg *ckm.Index) error {
	head := make([]byte, ckm.PatchHeaderSize)
	if err := readAll(r, head, 0); err != nil {
		return err
	}
	h, err := ckm.ParsePatchHeader(head)
	if err != nil {
		return err
	}
	if int64(h.Size) > size { // it may claim more than there is
		return fmt.Errorf("%w: the patch is cut short", ckm.ErrFormat)
	}
	head = make([]byte, h.Size)
	if err := readAll(r, head, 0); err != nil {
		return err
	}
	p, err := ckm.DecodePatch(head, pkg, old.Index)
	if err != nil {
		return err
	}
	end := int64(h.Size)
	for _, e := range p.Parts {
		end += int64(e.Stored)
	}
	if end != size {
		return fmt.Errorf("%w: the patch has %d bytes and should have %d", ckm.ErrFormat, size, end)
	}
	c, d := newContent(ctx, old), ckm.NewPatchDecoder()
	defer d.Close()
	var stored, base, raw []byte
	for i := range p.Parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		e := &p.Parts[i]
		stored = append(stored[:0], make([]byte, e.Stored)...)
		if err := readAll(r, stored, int64(e.Offset)); err != nil {
			return err
		}
		base = base[:0]
		for _, run := range e.Base {
			if base, err = c.appendRun(base, run); err != nil {
				return err
			}
		}
		if raw, err = d.Decode(pkg, e, raw, stored, base); err != nil {
			return fmt.Errorf("part %d of the patch: %w", i, err)
		}
	}
	return nil
}

// readAll fills p with what is at an offset of r, where all of it should be.
func readAll(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case err == io.EOF:
		return fmt.Errorf("%w: the patch is cut short", ckm.ErrFormat)
	}
	return err
}

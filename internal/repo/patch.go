package repo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"

	"prestage/ckm"
	"prestage/internal/durable"
)

// newPatch is the name that a patch has while it is unfinished.
const newPatch = "new" + ckm.PatchExt

// AddPatch adds the patch beside a package, or replaces it: write writes it, with
// scratch to put things aside, which is removed afterwards. The error wraps
// ErrNotFound when the package is gone by then.
func (r *Folder) AddPatch(ctx context.Context, name string, version uint32, write func(w io.Writer, scratch *os.File) error) error {
	scratch, err := durable.CreateTemp(r.dir, newPatch)
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name())
	defer scratch.Close()
	f, err := durable.CreateTemp(r.dir, newPatch)
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	if err := writePatch(f, func(w io.Writer) error { return write(w, scratch) }); err != nil {
		return r.noRoom(err)
	}
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := r.stat(ckm.IndexName(name, version)); err != nil {
		return fmt.Errorf("the package was removed: %w", notFound(err))
	}
	return durable.Replace(f.Name(), r.Path(ckm.PatchName(name, version)))
}

func writePatch(f *os.File, write func(w io.Writer) error) error {
	w := bufio.NewWriterSize(f, 1<<20)
	err := write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err != nil {
		f.Close()
		return err
	}
	return durable.SyncClose(f)
}

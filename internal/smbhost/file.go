package smbhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"prestage/internal/host"
)

// Open implements host.Host.
func (h *Host) Open(ctx context.Context, path string) (_ host.File, err error) {
	defer h.explain(&err)
	return h.open(ctx, path, os.O_RDONLY)
}

// OpenWrite implements host.Host.
func (h *Host) OpenWrite(ctx context.Context, path string) (_ host.File, err error) {
	defer h.explain(&err)
	s, p, st, err := h.stat(path)
	if err == nil && attributes(st)&attributeReadOnly != 0 {
		err = s.Chmod(p, 0o600)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	return h.open(ctx, path, os.O_RDWR|os.O_CREATE)
}

// open opens a file that is no link. The client would follow one.
func (h *Host) open(ctx context.Context, path string, flags int) (host.File, error) {
	s, p, st, err := h.stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && flags&os.O_CREATE != 0:
	case err != nil:
		return nil, err
	case kind(st) != host.KindFile:
		return nil, fmt.Errorf("%q is %s and not a regular file", path, describe(st))
	}
	var f *remoteFile
	err = h.whileHeld(ctx, func() (err error) {
		f, err = s.OpenFile(p, flags, 0o600)
		return err
	})
	if err != nil {
		return nil, err
	}
	o := &file{h: h, f: f}
	o.WriteBehind = host.NewWriteBehind(ctx, o.writePart)
	return o, nil
}

// file is an open file of the machine. Long reads are cut in parts that are
// under way at once, since the answer to each takes the network's time; writes
// return before the machine has answered, and all else waits for them.
type file struct {
	*host.WriteBehind
	h *Host
	f *remoteFile
}

const (
	partSize = 1 << 20 // bytes
	parts    = 8
)

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(b []byte, off int64) (_ int, err error) {
	if err := f.Settle(); err != nil {
		return 0, err
	}
	defer f.h.explain(&err)
	if len(b) <= partSize {
		return f.readPart(b, off)
	}
	var g errgroup.Group
	g.SetLimit(parts)
	done := make([]int, (len(b)+partSize-1)/partSize)
	errs := make([]error, len(done))
	for i := range done {
		g.Go(func() error {
			at := i * partSize
			done[i], errs[i] = f.readPart(b[at:min(at+partSize, len(b))], off+int64(at))
			return nil
		})
	}
	g.Wait()
	n := 0
	for i, m := range done {
		n += m
		if errs[i] != nil {
			return n, errs[i]
		}
	}
	return n, nil
}

// readPart reads until b is full: an answer may bring less.
func (f *file) readPart(b []byte, off int64) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = f.f.ReadAt(b[n:], off+int64(n))
		n += m
		if m == 0 && err == nil {
			err = io.EOF
		}
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

func (f *file) writePart(b []byte, off int64) (err error) {
	defer f.h.explain(&err)
	n, err := f.f.WriteAt(b, off)
	if err == nil && n < len(b) {
		err = io.ErrShortWrite
	}
	return err
}

// Size implements host.File.
func (f *file) Size() (_ int64, err error) {
	if err := f.Settle(); err != nil {
		return 0, err
	}
	defer f.h.explain(&err)
	st, err := f.f.Stat()
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

// Truncate implements host.File.
func (f *file) Truncate(size int64) (err error) {
	if err := f.Settle(); err != nil {
		return err
	}
	defer f.h.explain(&err)
	return f.f.Truncate(size)
}

// Close implements host.File.
func (f *file) Close() (err error) {
	defer f.h.explain(&err)
	return errors.Join(f.Settle(), f.f.Close())
}

// Sync implements host.File. A file that is open for reading cannot be flushed:
// it was, by whoever wrote it.
func (f *file) Sync() (err error) {
	if err := f.Settle(); err != nil {
		return err
	}
	defer f.h.explain(&err)
	err = f.f.Sync()
	if errors.Is(err, fs.ErrPermission) {
		return nil
	}
	return err
}

// Lock implements host.Host. The lock is a file that is kept open: nobody can
// remove it as long as that is so, and it is nobody's once the connection of who
// opened it has ended. A program on the machine itself locks the file at path.
func (h *Host) Lock(ctx context.Context, path string) (unlock func(), err error) {
	defer h.explain(&err)
	s, p, err := h.at(path)
	if err != nil {
		return nil, err
	}
	remote := p + ".remote"
	for {
		f, err := h.tryLock(s, p, remote)
		if err == nil {
			return func() {
				f.Close()
				s.Remove(remote)
			}, nil
		}
		if !isHeld(err) && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("locking %q: %w", path, err)
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("locking %q: %w", path, ctx.Err())
		case <-time.After(200 * time.Millisecond):
		}
	}
}

func (h *Host) tryLock(s *share, local, remote string) (*remoteFile, error) {
	if err := s.Remove(remote); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := s.OpenFile(remote, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if l, err := s.OpenFile(local, os.O_RDONLY, 0); err == nil {
		_, err = l.ReadAt(make([]byte, 1), 0)
		l.Close()
		if isHeld(err) {
			f.Close()
			s.Remove(remote)
			return nil, err
		}
	}
	return f, nil
}

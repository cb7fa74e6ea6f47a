package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/pkg/sftp"

	"prestage/internal/host"
)

// Open implements host.Host.
func (h *Host) Open(ctx context.Context, p string) (host.File, error) {
	f, err := h.open(ctx, p, os.O_RDONLY)
	if err != nil {
		return nil, err
	}
	return newFile(ctx, h, f), nil
}

// OpenWrite implements host.Host. What was sealed is unsealed first, which
// status shows until it is sealed again.
func (h *Host) OpenWrite(ctx context.Context, p string) (host.File, error) {
	f, err := h.open(ctx, p, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return nil, err
	}
	return newFile(ctx, h, f), nil
}

// open opens a regular file. SFTP follows links and cannot be told not to; so we
// look before, and compare what was opened.
func (h *Host) open(ctx context.Context, p string, flags int) (*sftp.File, error) {
	for range 3 {
		st, err := h.lstat(ctx, p)
		if errors.Is(err, fs.ErrNotExist) && flags&os.O_CREATE != 0 {
			f, err := h.sftp.OpenFile(p, flags|os.O_EXCL) // which follows nothing
			if err == nil {
				return f, nil
			}
			if _, there := h.lstat(ctx, p); there != nil {
				return nil, h.at("create", p, err)
			}
			continue // somebody was faster
		}
		if err != nil {
			return nil, err
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%q is a symbolic link, which is not followed here; remove it", p)
		}
		if !st.Mode().IsRegular() {
			return nil, fmt.Errorf("%q is not a regular file", p)
		}
		f, err := h.sftp.OpenFile(p, flags&^os.O_CREATE)
		if err != nil {
			return nil, h.at("open", p, err)
		}
		opened, err := checkInfo(f.Stat())
		if err != nil {
			f.Close()
			return nil, h.at("fstat", p, err)
		}
		if sameFile(st, opened) {
			if flags&os.O_RDWR != 0 && st.Mode().Perm()&0o200 == 0 {
				if err := f.Chmod(st.Mode().Perm() | 0o200); err != nil {
					f.Close()
					return nil, h.at("chmod", p, err)
				}
			}
			return f, nil
		}
		f.Close()
	}
	return nil, fmt.Errorf("%q is being changed by another program on %s; try again", p, h.o.Name)
}

// sameFile reports whether two descriptions may be of one file. SFTP does not
// tell inodes.
func sameFile(a, b fs.FileInfo) bool {
	return a.Mode() == b.Mode() && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime()) && owner(a) == owner(b)
}

// file is an open file of the machine. Writes return before the machine has
// answered; reading, syncing and closing wait for all of them.
type file struct {
	*host.WriteBehind
	ctx context.Context
	h   *Host
	f   *sftp.File
}

func newFile(ctx context.Context, h *Host, sf *sftp.File) *file {
	f := &file{ctx: context.WithoutCancel(ctx), h: h, f: sf}
	f.WriteBehind = host.NewWriteBehind(ctx, func(p []byte, off int64) error {
		_, err := f.f.WriteAt(p, off)
		return f.full(f.failed("write", err), len(p))
	})
	return f
}

// ReadAt implements io.ReaderAt.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.Settle(); err != nil {
		return 0, err
	}
	n, err := f.f.ReadAt(p, off)
	if n == len(p) {
		return n, nil
	}
	if errors.Is(err, io.EOF) { // also what a connection says that has ended
		if _, err := f.f.Stat(); err != nil {
			return n, f.failed("read", err)
		}
		return n, io.EOF
	}
	return n, f.failed("read", err)
}

func (f *file) failed(op string, err error) error { return f.h.at(op, f.f.Name(), err) }

// full says of a write that failed that the disk is full, if it is: SFTP has no
// word for it.
func (f *file) full(err error, n int) error {
	if err == nil || errors.Is(err, host.ErrUnreachable) {
		return err
	}
	if free, e := f.h.FreeSpace(f.ctx, f.f.Name()); e == nil && free < int64(max(n, 1<<20)) {
		return fmt.Errorf("%w: %w", host.ErrDiskFull, err)
	}
	return err
}

// Size implements host.File.
func (f *file) Size() (int64, error) {
	if err := f.Settle(); err != nil {
		return 0, err
	}
	st, err := checkInfo(f.f.Stat())
	if err != nil {
		return 0, f.failed("fstat", err)
	}
	return st.Size(), nil
}

// Truncate implements host.File.
func (f *file) Truncate(size int64) error {
	if err := f.Settle(); err != nil {
		return err
	}
	return f.full(f.failed("truncate", f.f.Truncate(size)), 0)
}

// Sync implements host.File. That reads come from the disk is a wish, which
// some systems do not understand.
func (f *file) Sync() error {
	if err := f.Settle(); err != nil {
		return err
	}
	if err := f.f.Sync(); err != nil {
		return f.full(f.failed("fsync", err), 0)
	}
	_, _, err := f.h.try(f.ctx, `dd if="$1" iflag=nocache count=0`, f.f.Name())
	return err
}

// Close implements host.File.
func (f *file) Close() error {
	err := f.Settle()
	if e := f.failed("close", f.f.Close()); err == nil {
		err = e
	}
	return err
}

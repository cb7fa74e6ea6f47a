package smbhost

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime"
	"slices"
	"strings"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"
)

// All calls of the SMB client go through this file. A panic of the client, over
// a reply that it did not expect, is an error of that machine and not the end of
// the program. The context of all calls is that of the connection: what waits
// for something that does not come ends with it.

// call makes a call of the client.
func (h *Host) call(do func() error) (err error) {
	h.conn.guard.calls.Add(1)
	defer h.conn.guard.calls.Add(-1)
	defer h.caught(&err)
	return do()
}

// caught makes an error of a panic, and tells why a connection was ended.
func (h *Host) caught(err *error) {
	if p := recover(); p != nil {
		h.conn.guard.refuse("the client cannot read it: %v", p)
		h.cut()
		*err = h.conn.guard.refused()
	}
	if why := h.conn.guard.refused(); *err != nil && why != nil && !errors.Is(*err, ErrProtocol) {
		*err = why
	}
}

// cut ends the connection and all that waits for it.
func (h *Host) cut() {
	h.end()
	h.conn.Close()
}

// called makes a call of the client that returns something.
func called[T any](h *Host, do func() (T, error)) (v T, err error) {
	err = h.call(func() (err error) {
		v, err = do()
		return err
	})
	return v, err
}

// alive asks an encrypting machine for a sign of life, when it owes a reply and
// has been quiet for some time: that it works on it cannot be seen. No reply to
// this is what watched ends the connection for.
func (h *Host) alive() {
	t := time.NewTicker(h.o.Silence / 10)
	defer t.Stop()
	for {
		select {
		case <-h.life.Done():
			return
		case now := <-t.C:
			if h.conn.guard.quiet(now) > h.o.Silence/3 {
				h.call(h.session.Echo) // it takes as long as it takes, and there is one at a time
			}
		}
	}
}

// logoff logs off, if nothing is under way.
func (h *Host) logoff() error {
	defer h.cut()
	if h.conn.guard.calls.Load() > 0 {
		return nil
	}
	h.conn.guard.leave()
	err := h.call(h.session.Logoff)
	if h.conn.guard.loggedOff() {
		return nil
	}
	return err
}

// share is a share of the machine.
type share struct {
	h *Host
	s *smb2.Share
}

func (h *Host) mount(name string) (*share, error) {
	s, err := called(h, func() (*smb2.Share, error) { return h.session.Mount(name) })
	if err != nil {
		return nil, err
	}
	return &share{h, s.WithContext(h.life)}, nil
}

// Lstat describes what is at a path.
func (s *share) Lstat(p string) (fs.FileInfo, error) {
	return sized(called(s.h, func() (fs.FileInfo, error) { return s.s.Lstat(p) }))
}

// sized refuses sizes that no file has: they would count as negative.
func sized(st fs.FileInfo, err error) (fs.FileInfo, error) {
	if err == nil && st.Size() < 0 {
		return nil, fmt.Errorf("%w: %q has %d bytes", ErrProtocol, st.Name(), uint64(st.Size()))
	}
	return st, err
}

// Mkdir makes a folder.
func (s *share) Mkdir(p string, mode fs.FileMode) error {
	return s.h.call(func() error { return s.s.Mkdir(p, mode) })
}

// Chmod marks a file read-only or not.
func (s *share) Chmod(p string, mode fs.FileMode) error {
	return s.h.call(func() error { return s.s.Chmod(p, mode) })
}

// Rename renames a file.
func (s *share) Rename(from, to string) error {
	return s.h.call(func() error { return s.s.Rename(from, to) })
}

// Remove removes a file.
func (s *share) Remove(p string) error {
	return s.h.call(func() error { return s.s.Remove(p) })
}

// Statfs describes the disk that a folder is on.
func (s *share) Statfs(p string) (smb2.FileFsInfo, error) {
	return called(s.h, func() (smb2.FileFsInfo, error) { return s.s.Statfs(p) })
}

// SecurityInfoRaw returns a security descriptor.
func (s *share) SecurityInfoRaw(p string, what smb2.SecurityInformationRequestFlags) ([]byte, error) {
	return called(s.h, func() ([]byte, error) { return s.s.SecurityInfoRaw(p, what) })
}

// SetSecurityInfoRaw sets a security descriptor.
func (s *share) SetSecurityInfoRaw(p string, what smb2.SecurityInformationRequestFlags, d descriptor) error {
	return s.h.call(func() error { return s.s.SetSecurityInfoRaw(p, what, d) })
}

// OpenFile opens a file or a named pipe.
func (s *share) OpenFile(p string, flags int, mode fs.FileMode) (*remoteFile, error) {
	f, err := called(s.h, func() (*smb2.File, error) { return s.s.OpenFile(p, flags, mode) })
	if err != nil {
		return nil, err
	}
	// The client would close it behind our back, where a panic is nobody's.
	runtime.SetFinalizer(f, nil)
	return &remoteFile{s.h, f}, nil
}

// Open opens a file for reading.
func (s *share) Open(p string) (*remoteFile, error) { return s.OpenFile(p, 0, 0) }

// A folder that has more than this, in entries or in bytes of names, is none
// that anybody has made in earnest.
const (
	maxEntries = 10_000
	maxNames   = 2 << 20
)

// ReadDir returns what is in a folder.
func (s *share) ReadDir(p string) ([]fs.FileInfo, error) {
	f, err := s.Open(p)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var list []fs.FileInfo
	names := 0
	for {
		// One at a time: the client would gather more without any bound.
		next, err := called(s.h, func() ([]fs.FileInfo, error) { return f.f.Readdir(1) })
		if len(next) == 0 && errors.Is(err, io.EOF) {
			slices.SortFunc(list, func(a, b fs.FileInfo) int { return strings.Compare(a.Name(), b.Name()) })
			return list, nil
		}
		if err != nil || len(next) == 0 {
			return nil, err
		}
		name := next[0].Name()
		if names += len(name); len(list) == maxEntries || names > maxNames {
			return nil, fmt.Errorf("%q has more than %d entries, or very long ones", p, maxEntries)
		}
		if name == "" || strings.ContainsAny(name, "\x00/\\") {
			return nil, fmt.Errorf("%w: a file in %q is called %q, which no file can be", ErrProtocol, p, name)
		}
		if _, err := sized(next[0], nil); err != nil {
			return nil, err
		}
		list = append(list, next[0])
	}
}

// remoteFile is an open file or named pipe of the machine.
type remoteFile struct {
	h *Host
	f *smb2.File
}

// Read implements io.Reader.
func (f *remoteFile) Read(p []byte) (int, error) {
	return called(f.h, func() (int, error) { return f.f.Read(p) })
}

// Write implements io.Writer.
func (f *remoteFile) Write(p []byte) (int, error) {
	return called(f.h, func() (int, error) { return f.f.Write(p) })
}

// ReadAt implements io.ReaderAt.
func (f *remoteFile) ReadAt(p []byte, off int64) (int, error) {
	return called(f.h, func() (int, error) { return f.f.ReadAt(p, off) })
}

// WriteAt implements io.WriterAt.
func (f *remoteFile) WriteAt(p []byte, off int64) (int, error) {
	return called(f.h, func() (int, error) { return f.f.WriteAt(p, off) })
}

// Stat describes the file.
func (f *remoteFile) Stat() (fs.FileInfo, error) {
	return sized(called(f.h, func() (fs.FileInfo, error) { return f.f.Stat() }))
}

// Sync brings the file to the machine's disk.
func (f *remoteFile) Sync() error { return f.h.call(f.f.Sync) }

// Truncate gives the file a size.
func (f *remoteFile) Truncate(size int64) error {
	return f.h.call(func() error { return f.f.Truncate(size) })
}

// Close implements io.Closer.
func (f *remoteFile) Close() error { return f.h.call(f.f.Close) }

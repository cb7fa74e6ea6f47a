package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/pkg/sftp"

	"prestage/internal/acl"
)

// The rights of folders and files are rendered as owner and mode, as localhost
// does it. The owner is root.

// MakeFolder implements host.Host.
func (h *Host) MakeFolder(ctx context.Context, p string, rights acl.List) error {
	_, err := h.lstat(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		if err = h.sftp.Mkdir(p); err != nil {
			if _, there := h.lstat(ctx, p); there != nil {
				return h.at("mkdir", p, err)
			}
		}
		err = nil
	}
	if err != nil {
		return err
	}
	if deviations, err := h.CheckFolder(ctx, p, rights); err != nil || len(deviations) == 0 {
		return err
	}
	if err := h.removeList(ctx, p); err != nil {
		return err
	}
	st, err := h.lstat(ctx, p)
	if err != nil {
		return err
	}
	if !st.IsDir() {
		return fmt.Errorf("%q is not a folder but %s; move it away", p, describe(st.Mode()))
	}
	if owner(st) != 0 {
		if err := h.sftp.Chown(p, 0, 0); err != nil {
			return h.at("chown", p, err)
		}
	}
	if err := h.sftp.Chmod(p, rights.FolderMode()); err != nil {
		return h.at("chmod", p, err)
	}
	return h.syncFolder(ctx, path.Dir(p))
}

// CheckFolder implements host.Host.
func (h *Host) CheckFolder(ctx context.Context, p string, rights acl.List) ([]string, error) {
	st, err := h.lstat(ctx, p)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		return nil, fmt.Errorf("%q is not a folder but %s; move it away", p, describe(st.Mode()))
	}
	return h.deviations(ctx, p, st, rights.FolderMode())
}

// Seal implements host.Host. It is done to the open file: no link can come
// between.
func (h *Host) Seal(ctx context.Context, p string, rights acl.List) error {
	st, err := h.lstat(ctx, p)
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%q is not a file but %s", p, describe(st.Mode()))
	}
	if err := h.removeList(ctx, p); err != nil {
		return err
	}
	f, err := h.open(ctx, p, 0)
	if err != nil {
		return err
	}
	if owner(st) != 0 {
		if err := f.Chown(0, 0); err != nil {
			f.Close()
			return h.at("chown", p, err)
		}
	}
	err = f.Chmod(rights.SealedMode())
	if e := f.Close(); err == nil {
		err = e
	}
	return h.at("chmod", p, err)
}

// CheckSealed implements host.Host.
func (h *Host) CheckSealed(ctx context.Context, p string, rights acl.List) ([]string, error) {
	st, err := h.lstat(ctx, p)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return []string{"it is not a file but " + describe(st.Mode())}, nil
	}
	return h.deviations(ctx, p, st, rights.SealedMode())
}

func describe(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "a file"
	case m.IsDir():
		return "a folder"
	case m&fs.ModeSymlink != 0:
		return "a symbolic link"
	}
	return "a special file"
}

func owner(st fs.FileInfo) uint32 {
	if s, ok := st.Sys().(*sftp.FileStat); ok {
		return s.UID
	}
	return 0
}

func (h *Host) deviations(ctx context.Context, p string, st fs.FileInfo, want fs.FileMode) (list []string, err error) {
	const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if got := st.Mode() & (fs.ModePerm | special); got != want {
		list = append(list, fmt.Sprintf("its mode is %04o and should be %04o", posixMode(got), posixMode(want)))
	}
	if uid := owner(st); uid != 0 {
		list = append(list, fmt.Sprintf("it belongs to user %d and should belong to root", uid))
	}
	more, err := h.hasList(ctx, p)
	if more {
		list = append(list, "it has an access control list")
	}
	return list, err
}

// posixMode returns the permission bits as chmod has them.
func posixMode(m fs.FileMode) uint32 {
	bits := uint32(m.Perm())
	for flag, bit := range map[fs.FileMode]uint32{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if m&flag != 0 {
			bits |= bit
		}
	}
	return bits
}

// hasList reports whether access rights come on top of the mode. Without
// getfacl, ls tells that they do.
func (h *Host) hasList(ctx context.Context, p string) (bool, error) {
	out, err := h.run(ctx, `if command -v getfacl >/dev/null; then getfacl -csp -- "$1" | head -c 100
else ls -ld -- "$1" | cut -c11 | grep -F + || :; fi`, p)
	return strings.TrimSpace(out) != "", err
}

// removeList takes the access rights away that come on top of the mode.
func (h *Host) removeList(ctx context.Context, p string) error {
	has, err := h.hasList(ctx, p)
	if err != nil || !has {
		return err
	}
	_, status, err := h.try(ctx, `command -v setfacl >/dev/null || exit 9
[ -L "$1" ] || setfacl -bk -- "$1"`, p)
	if err == nil && status == 9 {
		return fmt.Errorf("%q has an access control list, and %s has no program to remove it; install its package acl", p, h.o.Name)
	}
	if err == nil && status != 0 {
		return fmt.Errorf("the access control list of %q cannot be removed; do it on %s with setfacl -bk", p, h.o.Name)
	}
	return err
}

// parseStat reads a time, in seconds with nine decimals, and a size.
func parseStat(out string) (t time.Time, size int64, ok bool) {
	at, rest, _ := strings.Cut(strings.TrimSpace(out), " ")
	seconds, decimals, _ := strings.Cut(at, ".")
	if len(decimals) != 9 {
		return t, 0, false
	}
	s, err1 := strconv.ParseInt(seconds, 10, 64)
	ns, err2 := strconv.ParseUint(decimals, 10, 32)
	size, err3 := strconv.ParseInt(rest, 10, 64)
	return time.Unix(s, int64(ns)), size, err1 == nil && err2 == nil && err3 == nil && size >= 0
}

//go:build unix

package localhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"prestage/internal/acl"
	"prestage/internal/durable"
)

// The rights of folders and files are rendered as owner and mode. The owner is
// root; when somebody else runs prestage, to try it out, it is that user.

const foldsCase = false

const becomePrivileged = "run prestage as root"

func privileged() bool { return os.Geteuid() == 0 }

const otherKind = "a special file"

func syncFile(f *file) error { return f.File.Sync() }

// MakeFolder implements host.Host.
func (h *Host) MakeFolder(ctx context.Context, path string, rights acl.List) error {
	err := os.Mkdir(path, 0o700) // nobody gets in before the rights are right
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return explain(err)
	}
	if deviations, err := h.CheckFolder(ctx, path, rights); err != nil || len(deviations) == 0 {
		return err
	}
	if err := setRights(path, rights.FolderMode()); err != nil {
		return err
	}
	return durable.SyncDir(filepath.Dir(path))
}

// CheckFolder implements host.Host.
func (h *Host) CheckFolder(_ context.Context, path string, rights acl.List) ([]string, error) {
	st, err := lookFor(path, true)
	if err != nil {
		return nil, err
	}
	return deviations(path, st, rights.FolderMode()), nil
}

// Seal implements host.Host.
func (h *Host) Seal(_ context.Context, path string, rights acl.List) error {
	if _, err := lookFor(path, false); err != nil {
		return err
	}
	return setRights(path, rights.SealedMode())
}

// CheckSealed implements host.Host.
func (h *Host) CheckSealed(_ context.Context, path string, rights acl.List) ([]string, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return []string{"it is not a file but " + describe(st.Mode())}, nil
	}
	return deviations(path, st, rights.SealedMode()), nil
}

// aclAttributes hold the access rights that come on top of a file's mode.
var aclAttributes = []string{"system.posix_acl_access", "system.posix_acl_default"}

func deviations(path string, st fs.FileInfo, want fs.FileMode) (list []string) {
	const special = fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky
	if got := st.Mode() & (fs.ModePerm | special); got != want {
		list = append(list, fmt.Sprintf("its mode is %04o and should be %04o", posixMode(got), posixMode(want)))
	}
	if uid := owner(st); uid != 0 && uid != os.Geteuid() {
		list = append(list, fmt.Sprintf("it belongs to user %d and should belong to root", uid))
	}
	for _, a := range aclAttributes {
		if n, err := unix.Lgetxattr(path, a, nil); err == nil && n > 0 {
			list = append(list, fmt.Sprintf("it has an access control list (%s)", a))
		}
	}
	return list
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

// setRights takes away other rights before it sets those that should be.
func setRights(path string, mode fs.FileMode) error {
	for _, a := range aclAttributes {
		err := unix.Lremovexattr(path, a)
		if err != nil && !errors.Is(err, unix.ENODATA) && !errors.Is(err, unix.ENOTSUP) && !errors.Is(err, unix.EINVAL) {
			return &fs.PathError{Op: "removing " + a, Path: path, Err: err}
		}
	}
	st, err := os.Lstat(path)
	if err != nil {
		return err
	}
	if uid := owner(st); uid != 0 && uid != os.Geteuid() {
		if err := os.Lchown(path, os.Geteuid(), os.Getegid()); err != nil {
			return explain(err)
		}
	}
	return explain(os.Chmod(path, mode))
}

func openNoFollow(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0o600)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%q is a symbolic link, which is not followed here; remove it", path)
	}
	return f, err
}

// isLockedRemotely is for machines that are reached over SMB.
func isLockedRemotely(string) bool { return false }

package durable

import (
	"slices"

	"golang.org/x/sys/unix"
)

// remote are the types of file systems whose bytes come from other machines, or may:
// what lies behind FUSE is not known.
var remote = []int64{unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC,
	unix.V9FS_MAGIC, unix.AFS_SUPER_MAGIC, unix.AFS_FS_MAGIC, unix.CEPH_SUPER_MAGIC, unix.CODA_SUPER_MAGIC}

// Remote reports whether a folder may lie on another machine.
func Remote(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) != nil || slices.Contains(remote, int64(st.Type))
}

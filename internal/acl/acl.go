// Package acl holds the access rights of the pre-staging procedure as data,
// renders them for the systems they are set on, and says how others deviate.
package acl

import "io/fs"

// Mask is a set of Windows access rights (MS-DTYP 2.4.3).
type Mask uint32

// The rights that the procedure names.
const (
	FileReadData       Mask = 0x1
	FileAppendData     Mask = 0x4 // on a folder: create subfolders
	FileReadEA         Mask = 0x8
	FileReadAttributes Mask = 0x80
	ReadControl        Mask = 0x20000
	Synchronize        Mask = 0x100000
	FullControl        Mask = 0x1f01ff

	read = FileReadData | FileReadEA | FileReadAttributes | ReadControl | Synchronize
)

// List is a discretionary ACL that inherits nothing; its entries are inherited
// by files and folders below.
type List struct {
	AuthenticatedUsers Mask
	System             Mask
	Administrators     Mask
}

// Images are the rights of the folder "MED-V Images".
var Images = List{read | FileAppendData, FullControl, FullControl}

// Prestaged are the rights of the folder PrestagedImages: the same without
// append.
var Prestaged = List{read, FullControl, FullControl}

// StrictImages are the rights of "MED-V Images" in the strict profile, which
// lets nobody but administrators create folders in it.
var StrictImages = Prestaged

// Folder renders the list for a folder on Windows.
func (l List) Folder() Descriptor { return l.descriptor(inheritByFiles | inheritByFolders) }

// File renders the list for a file on Windows.
func (l List) File() Descriptor { return l.descriptor(0) }

func (l List) descriptor(flags byte) Descriptor {
	return Descriptor{Owner: Administrators, HasDACL: true, Protected: true, Entries: []Entry{
		{Allow, flags, l.AuthenticatedUsers, AuthenticatedUsers},
		{Allow, flags, l.System, System},
		{Allow, flags, l.Administrators, Administrators},
	}}
}

// SDDL renders the list for a folder in the security descriptor definition
// language, as Windows Installer tables and administrators' tools take it.
func (l List) SDDL() string { return l.Folder().SDDL() }

// FolderMode renders the list for a folder on a POSIX system: its owner, root,
// stands for System and Administrators, everybody else for Authenticated Users.
//
// Append on a folder allows to create subfolders and nothing else. POSIX has no
// such right, only the one to create and to remove anything; so append is left
// out rather than exceeded.
func (l List) FolderMode() fs.FileMode {
	mode := fs.FileMode(0o700)
	if l.AuthenticatedUsers&FileReadData != 0 {
		mode |= 0o055 // Windows lets everybody pass through folders
	}
	return mode
}

// SealedMode renders the list for a file that is marked read-only.
func (l List) SealedMode() fs.FileMode {
	mode := fs.FileMode(0o400)
	if l.AuthenticatedUsers&FileReadData != 0 {
		mode |= 0o044
	}
	return mode
}

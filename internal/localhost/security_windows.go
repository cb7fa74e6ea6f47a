package localhost

import (
	"fmt"
	"io/fs"
	"sync"
	"unsafe"

	"golang.org/x/sys/windows"

	"prestage/internal/acl"
)

// The DACL is set and read as it is stored. Windows has other functions, which
// also hand rights down to what is in a folder already; here every file of a
// package is given its own, and the files of an image are its user's.

// createFolder creates a folder with the given security.
func createFolder(path string, d acl.Descriptor) error {
	p, err := windows.UTF16PtrFromString(path)
	if err == nil {
		sa := &windows.SecurityAttributes{SecurityDescriptor: pointer(d)}
		sa.Length = uint32(unsafe.Sizeof(*sa))
		err = windows.CreateDirectory(p, sa)
	}
	if err != nil {
		return &fs.PathError{Op: "mkdir", Path: path, Err: err}
	}
	return nil
}

// pointer encodes d for the system.
func pointer(d acl.Descriptor) *windows.SECURITY_DESCRIPTOR {
	return (*windows.SECURITY_DESCRIPTOR)(unsafe.Pointer(&d.Bytes()[0]))
}

// setSecurity gives a file or folder this DACL and, if it belongs to somebody
// else, this owner.
func setSecurity(path string, d acl.Descriptor) error {
	usePrivileges()
	h, err := openHandle(path, windows.READ_CONTROL|windows.WRITE_DAC|windows.WRITE_OWNER, shareAll, 0)
	if err != nil {
		return err
	}
	defer windows.CloseHandle(h)
	var flags uint32
	if err := windows.GetVolumeInformationByHandle(h, nil, 0, nil, nil, &flags, nil, 0); err == nil && flags&windows.FILE_PERSISTENT_ACLS == 0 {
		return fmt.Errorf("the file system of %q keeps no access rights; use a folder on an NTFS volume", path)
	}
	now, err := security(h)
	if err != nil {
		return &fs.PathError{Op: "reading the rights of", Path: path, Err: err}
	}
	// At once: an owner may change the DACL at any moment.
	var what windows.SECURITY_INFORMATION = windows.DACL_SECURITY_INFORMATION | windows.PROTECTED_DACL_SECURITY_INFORMATION
	if now.Owner != d.Owner && now.Owner != acl.System {
		what |= windows.OWNER_SECURITY_INFORMATION
	}
	if err := windows.SetKernelObjectSecurity(h, what, pointer(d)); err != nil {
		return &fs.PathError{Op: "setting the rights of", Path: path, Err: err}
	}
	return remember(h, d)
}

// deviations tells how the security of a file or folder deviates from want.
func deviations(path string, want acl.Descriptor) ([]string, error) {
	usePrivileges()
	h, err := openHandle(path, windows.READ_CONTROL, shareAll, 0)
	if err != nil {
		return nil, err
	}
	defer windows.CloseHandle(h)
	got, err := stored(h)
	if err != nil {
		return nil, &fs.PathError{Op: "reading the rights of", Path: path, Err: err}
	}
	return want.Deviations(got), nil
}

// isForeign reports whether a file or folder belongs to somebody who is neither
// an administrator nor this user.
func isForeign(path string) bool {
	h, err := openHandle(path, windows.READ_CONTROL, shareAll, 0)
	if err != nil {
		return false
	}
	defer windows.CloseHandle(h)
	d, err := security(h)
	user, userErr := windows.GetCurrentProcessToken().GetTokenUser()
	return err == nil && userErr == nil && d.Owner != acl.Administrators && d.Owner != acl.System && string(d.Owner) != user.User.Sid.String()
}

// security returns what the system keeps of an open file's or folder's security.
func security(h windows.Handle) (acl.Descriptor, error) {
	sd, err := windows.GetSecurityInfo(h, windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return acl.Descriptor{}, err
	}
	d, err := acl.Parse(unsafe.Slice((*byte)(unsafe.Pointer(sd)), sd.Length()))
	if err != nil {
		return d, fmt.Errorf("%w (%s)", err, sd)
	}
	return d, nil
}

// usePrivileges lets this program read and mend files and folders whose DACL
// shuts administrators out, or that somebody else owns. Administrators have these
// privileges; without them the system says what may not be done.
var usePrivileges = sync.OnceFunc(func() {
	var token windows.Token
	if windows.OpenProcessToken(windows.CurrentProcess(), windows.TOKEN_ADJUST_PRIVILEGES|windows.TOKEN_QUERY, &token) != nil {
		return
	}
	defer token.Close()
	for _, name := range []string{"SeBackupPrivilege", "SeRestorePrivilege", "SeTakeOwnershipPrivilege"} {
		p := windows.Tokenprivileges{PrivilegeCount: 1}
		p.Privileges[0].Attributes = windows.SE_PRIVILEGE_ENABLED
		if windows.LookupPrivilegeValue(nil, windows.StringToUTF16Ptr(name), &p.Privileges[0].Luid) == nil {
			windows.AdjustTokenPrivileges(token, false, &p, 0, nil, nil)
		}
	}
})

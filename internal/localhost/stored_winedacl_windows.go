//go:build winedacl

package localhost

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/windows"

	"prestage/internal/acl"
)

// Wine keeps no DACLs: it answers with what a Unix mode amounts to. So that tests
// can run there what asks for a DACL that was set before, a program built with
// the tag winedacl also remembers what it sets, in files named after the file's
// number, and looks there. It is for tests; no release has it.

func stored(h windows.Handle) (acl.Descriptor, error) {
	path, err := memory(h)
	if err != nil {
		return acl.Descriptor{}, err
	}
	if b, err := os.ReadFile(path); err == nil {
		return acl.Parse(b)
	}
	return security(h)
}

func remember(h windows.Handle, d acl.Descriptor) error {
	path, err := memory(h)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, d.Bytes(), 0o644)
}

func memory(h windows.Handle) (string, error) {
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(h, &info); err != nil {
		return "", err
	}
	// The number of a file that was removed may be used again, so that another
	// file is taken for sealed; that it is not read-only is noticed all the same.
	return filepath.Join(os.TempDir(), "winedacl", fmt.Sprintf("%x-%x-%x", info.VolumeSerialNumber, info.FileIndexHigh, info.FileIndexLow)), nil
}

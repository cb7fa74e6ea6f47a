//go:build !linux

package disk

import (
	"errors"
	"os"
)

// Clone makes dst, which is empty, a copy of src that shares its bytes on the
// disk. Here it returns errors.ErrUnsupported.
func Clone(_, _ *os.File) error { return errors.ErrUnsupported }

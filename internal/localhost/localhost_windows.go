package localhost

import (
	"context"
	"errors"
	"fmt"
	"os"

	"prestage/internal/acl"
)

var errNoWindows = fmt.Errorf("pre-staging on this Windows machine: %w", errors.ErrUnsupported)

// MakeFolder implements host.Host.
func (h *Host) MakeFolder(context.Context, string, acl.List) error { return errNoWindows }

// CheckFolder implements host.Host.
func (h *Host) CheckFolder(context.Context, string, acl.List) ([]string, error) {
	return nil, errNoWindows
}

// Seal implements host.Host.
func (h *Host) Seal(context.Context, string, acl.List) error { return errNoWindows }

// CheckSealed implements host.Host.
func (h *Host) CheckSealed(context.Context, string, acl.List) ([]string, error) {
	return nil, errNoWindows
}

// InUse implements host.Host.
func (h *Host) InUse(context.Context, string) (bool, error) { return false, errNoWindows }

// FreeSpace implements host.Host.
func (h *Host) FreeSpace(context.Context, string) (int64, error) { return 0, errNoWindows }

func openNoFollow(string, int) (*os.File, error) { return nil, errNoWindows }

func dropCache(*os.File) error { return nil }

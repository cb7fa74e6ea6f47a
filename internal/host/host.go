// Package host says what the pre-staging procedure needs of a machine. Each
// kind of machine is an adapter of Host; package hosttest checks them all.
package host

import (
	"context"
	"errors"
	"io"
	"time"

	"prestage/internal/acl"
	"prestage/internal/settings"
)

// Errors of machines that are reached over a network. Files of any machine wrap
// ErrDiskFull, or what durable.IsDiskFull knows.
var (
	// ErrUnreachable says that a machine cannot be reached, or not any more: it
	// is off, or the network is cut. It may be there later.
	ErrUnreachable = errors.New("the machine does not answer")
	// ErrLogon says that a machine answers and does not accept the credentials.
	ErrLogon = errors.New("the machine does not accept the user or the credentials")
	// ErrDiskFull says that there is no room left on the machine's disk, or in
	// the user's quota.
	ErrDiskFull = errors.New("the disk is full")
	// ErrHeld says that another program has a file open for longer than was
	// waited.
	ErrHeld = errors.New("another program has the file open")
)

// RemoteLock is the end of the name of the file that is held, beside a lock file,
// by whoever locks it over the network.
const RemoteLock = ".remote"

// A Host is a machine that images are staged on. Paths are absolute paths of
// that machine. Errors about files wrap fs.ErrNotExist, fs.ErrExist and
// fs.ErrPermission where they apply, and ErrUnreachable once the connection to
// the machine has ended by itself. No method follows a symbolic link in the
// last element of a path.
type Host interface {
	// Name is how people call the machine.
	Name() string
	// Join joins path elements, Split cuts off the last one.
	Join(elem ...string) string
	Split(path string) (dir, base string)
	// SameName reports whether two names mean the same file to the machine.
	SameName(a, b string) bool

	// Settings reads the machine's settings, SaveSettings changes those given.
	Settings(ctx context.Context) (settings.Settings, error)
	SaveSettings(ctx context.Context, s settings.Settings) error

	// MakeFolder makes path a folder with exactly these rights, whether or not
	// it exists. The folder above must exist.
	MakeFolder(ctx context.Context, path string, rights acl.List) error
	// CheckFolder tells how the folder's rights deviate from these.
	CheckFolder(ctx context.Context, path string, rights acl.List) (deviations []string, err error)
	// Seal marks a file read-only, with exactly these rights.
	Seal(ctx context.Context, path string, rights acl.List) error
	// CheckSealed tells how a file deviates from what Seal does.
	CheckSealed(ctx context.Context, path string, rights acl.List) (deviations []string, err error)

	// Stat and ReadDir describe what is at a path and in a folder.
	Stat(ctx context.Context, path string) (Info, error)
	ReadDir(ctx context.Context, path string) ([]Info, error)
	// Open opens a file for reading; OpenWrite for reading and writing, sealed
	// or not, creating it if it does not exist.
	Open(ctx context.Context, path string) (File, error)
	OpenWrite(ctx context.Context, path string) (File, error)
	// Rename renames a file, replacing another, durably.
	Rename(ctx context.Context, from, to string) error
	// Remove removes a file, sealed or not.
	Remove(ctx context.Context, path string) error
	// InUse reports whether another program has the file open.
	InUse(ctx context.Context, path string) (bool, error)

	// FreeSpace returns how many bytes can be written in a folder.
	FreeSpace(ctx context.Context, folder string) (int64, error)
	// Lock waits until nobody else holds the lock file at path, or ctx ends.
	Lock(ctx context.Context, path string) (unlock func(), err error)
}

// Info describes a file or a folder.
type Info struct {
	Name     string
	Kind     Kind
	Size     int64 // bytes
	Modified time.Time
}

// Kind is what a path leads to.
type Kind int

// Kinds of things.
const (
	KindFile Kind = iota
	KindFolder
	KindOther // a symbolic link, a device: nothing that the procedure makes
)

// File is an open file of a host.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error) // bytes
	Truncate(size int64) error
	// Sync brings the file to the disk; what is read afterwards comes from
	// there, as far as the system lets us ask for that.
	Sync() error
}

// A Checker is a Host whose machine can check files itself, so that they need
// not be read over the network. What the machine has no program for is
// errors.ErrUnsupported. Alive is called from time to time while it works.
type Checker interface {
	// CheckPackage has a prestage of the machine compare the CKM at data with
	// the INDEX at index, and returns the digest of the package that it found
	// whole, hexadecimal, or "" when it found damage.
	CheckPackage(ctx context.Context, index, data string, alive func()) (digest string, err error)
	// Sum has the machine read the file at path and returns its SHA-256,
	// hexadecimal.
	Sum(ctx context.Context, path string, alive func()) (string, error)
}

// CheckerOf returns the Checker that h, or the Host that h wraps, is.
func CheckerOf(h Host) (Checker, bool) {
	for {
		if c, ok := h.(Checker); ok {
			return c, true
		}
		w, ok := h.(interface{ Unwrap() Host })
		if !ok {
			return nil, false
		}
		h = w.Unwrap()
	}
}

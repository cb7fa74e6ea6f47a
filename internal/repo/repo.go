// Package repo is where packages are kept: a folder, or a web server that
// serves one.
package repo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"prestage/ckm"
)

// ErrNotFound says that a repository does not hold what was asked for.
var ErrNotFound = errors.New("not found")

// ErrUnavailable says that a repository cannot be read at all, or no longer:
// there is no use in asking it for more.
var ErrUnavailable = errors.New("unavailable")

// A Repository holds packages. All methods may be called from several
// goroutines at once.
type Repository interface {
	// String says where the repository is, for people.
	String() string
	// List returns the packages that are whole, in order of name, then version.
	List(ctx context.Context) ([]Entry, error)
	// Index returns the bytes of a package's INDEX as they are: the caller
	// decodes them. The error wraps ErrNotFound when there is none.
	Index(ctx context.Context, name string, version uint32) ([]byte, error)
	// Data opens a package's CKM. The error wraps ErrNotFound when there is none.
	Data(ctx context.Context, name string, version uint32) (Data, error)
	// Patch opens the patch beside a package. The error wraps ErrNotFound when
	// there is none.
	Patch(ctx context.Context, name string, version uint32) (Data, error)
}

// Data is an open CKM, or a patch, that can be read by ranges. ReadRange may be called from
// several goroutines at once.
type Data interface {
	io.Closer
	// String says where the data is, for people.
	String() string
	// ReadRange returns a reader of the n bytes from offset off. It ends early
	// with io.ErrUnexpectedEOF when the file is shorter.
	ReadRange(ctx context.Context, off, n int64) (io.ReadCloser, error)
	// Size returns the file's size in bytes.
	Size() (int64, error)
	// Traits say how to read it well.
	Traits() Traits
}

// Traits say how a Data likes to be read.
type Traits struct {
	Readers int   // ranges worth reading at once
	MaxSpan int64 // longest range worth asking for, in bytes
	MaxGap  int64 // bytes better read and thrown away than skipped by a new range
}

// Open opens the repository at a place: an http or https URL, or a folder.
func Open(place string) (Repository, error) {
	if strings.Contains(place, "://") {
		u, err := url.Parse(place)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, fmt.Errorf("%q is not a repository: use a folder, or an http:// or https:// address", withoutUser(place))
		}
		web, err := NewWeb(u)
		if err != nil {
			return nil, err
		}
		return web, nil
	}
	return NewFolder(place), nil
}

// withoutUser returns an address, which need not be a good one, without the
// user name and password that it may hold.
func withoutUser(place string) string {
	scheme, rest, _ := strings.Cut(place, "://")
	return scheme + "://" + rest[strings.LastIndexByte(rest, '@')+1:]
}

// ParseImage reads IMAGE as the command line has it: NAME, or NAME:N for a
// certain version. Version 0 stands for the latest.
func ParseImage(s string) (name string, version uint32, err error) {
	name, v, found := strings.Cut(s, ":")
	if err := ckm.CheckName(name); err != nil {
		return "", 0, err
	}
	if found {
		// Of NAME:X_2, the file's name would be that of another image, NAME_X.
		var image string
		if image, version, _, found = ckm.ParseFileName(name + "_" + v + ckm.IndexExt); !found || image != name {
			return "", 0, fmt.Errorf("image %q: the version after : must be a number from 1 on", s)
		}
	}
	return name, version, nil
}

// Find returns the entry of a version of an image, or of its latest version
// when version is 0. The error wraps ErrNotFound.
func Find(ctx context.Context, r Repository, name string, version uint32) (Entry, error) {
	var problems []error
	entries, err := []Entry(nil), error(nil)
	if f, ok := r.(*Folder); ok {
		entries, problems, err = f.Scan(ctx)
	} else {
		entries, err = r.List(ctx)
	}
	if err != nil {
		return Entry{}, err
	}
	var found Entry
	for _, e := range entries {
		if e.Name == name && (version == 0 && e.Version > found.Version || version != 0 && e.Version == version) {
			found = e
		}
	}
	if found.Version == 0 {
		for _, p := range problems {
			if strings.Contains(p.Error(), name+"_") { // its file's name
				return found, fmt.Errorf("%w: image %s in %s: %w", ErrNotFound, ImageName(name, version), r, p)
			}
		}
		unseen := ""
		if web, ok := r.(*Web); ok {
			unseen = web.unseen()
		}
		return found, fmt.Errorf("%w: image %s in %s%s%s", ErrNotFound, ImageName(name, version), r, similar(entries, name), unseen)
	}
	return found, nil
}

// ImageName is how an image is called on the command line.
func ImageName(name string, version uint32) string {
	if version == 0 {
		return name
	}
	return fmt.Sprintf("%s:%d", name, version)
}

// similar helps after a misspelling.
func similar(entries []Entry, name string) string {
	var have []string
	for _, e := range entries {
		if e.Name == name || strings.EqualFold(e.Name, name) || len(entries) < 10 {
			have = append(have, ImageName(e.Name, e.Version))
		}
	}
	if len(have) == 0 {
		return "; prestage list shows what is there"
	}
	return "; it holds " + strings.Join(have, ", ")
}

// ReadIndex fetches and decodes the INDEX of a package, see DecodeIndex.
func ReadIndex(ctx context.Context, r Repository, name string, version uint32) (*ckm.Index, error) {
	b, err := r.Index(ctx, name, version)
	if err != nil {
		return nil, err
	}
	return DecodeIndex(r, b, name, version)
}

// DecodeIndex decodes an INDEX that came from r and checks that it is the one
// of that name and version. The error wraps ckm.ErrFormat or ckm.ErrUnsupported.
func DecodeIndex(r Repository, encoded []byte, name string, version uint32) (*ckm.Index, error) {
	x, err := ckm.Decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("%s of %s: %w", ckm.IndexName(name, version), r, err)
	}
	if x.Name != name || x.Version != version {
		return nil, fmt.Errorf("%s of %s: %w: it is the INDEX of %s; was the file renamed?",
			ckm.IndexName(name, version), r, ckm.ErrFormat, ImageName(x.Name, x.Version))
	}
	return x, nil
}

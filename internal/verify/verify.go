// Package verify checks packages and installed images against their indexes.
// It names every fault and never stops at the first.
package verify

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"sync"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/progress"
	"prestage/internal/repo"
)

// File is an open file of a package.
type File interface {
	io.ReaderAt
	io.Closer
	Size() (int64, error) // bytes
}

// Opener opens one of a package's two files by its name.
type Opener func(file string) (File, error)

// Folder returns the Opener of a folder of packages.
func Folder(r *repo.Folder) Opener {
	return func(file string) (File, error) { return repo.OpenFile(r.Path(file)) }
}

// Package checks both files of a package at hashing speed, without
// decompressing. The index is nil when it is itself damaged. The error says
// why checking was not possible; damage is not an error but a fault.
func Package(ctx context.Context, open Opener, name string, version uint32, m progress.Meter) (*ckm.Index, []assemble.Fault, error) {
	file := ckm.IndexName(name, version)
	x, fault, err := index(open, file, name, version)
	if err != nil || fault != nil {
		return nil, fault, err
	}
	data := ckm.DataName(name, version)
	r, err := open(data)
	if errors.Is(err, fs.ErrNotExist) {
		return x, []assemble.Fault{{File: data, Chunk: -1, Length: int64(x.CKMLength), Reason: "the file is missing"}}, nil
	}
	if err != nil {
		return x, nil, err
	}
	defer r.Close()
	faults, err := CKM(ctx, x, r, m)
	return x, faults, err
}

func index(open Opener, file, name string, version uint32) (*ckm.Index, []assemble.Fault, error) {
	bad := func(length int64, why error) []assemble.Fault {
		return []assemble.Fault{{File: file, Chunk: -1, Length: length, Reason: why.Error()}}
	}
	r, err := open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, bad(0, errors.New("the file is missing")), nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.NewSectionReader(r, 0, ckm.MaxIndexSize+1))
	if err != nil {
		return nil, nil, err
	}
	x, err := ckm.Decode(b)
	if errors.Is(err, ckm.ErrFormat) {
		return nil, bad(int64(len(b)), err), nil
	}
	if err != nil {
		return nil, nil, err
	}
	if x.Name != name || x.Version != version {
		return nil, bad(int64(len(b)), fmt.Errorf("it is the INDEX of %s; was the file renamed?", repo.ImageName(x.Name, x.Version))), nil
	}
	return x, nil, nil
}

// CKM checks a CKM against its index and returns the faults in order of their
// offsets. Damaged frames are named with the chunks that they hold.
func CKM(ctx context.Context, x *ckm.Index, r File, m progress.Meter) ([]assemble.Fault, error) {
	file := ckm.DataName(x.Name, x.Version)
	size, err := r.Size()
	if err != nil {
		return nil, err
	}
	m.Begin("verifying "+file, int64(x.CKMLength))
	var (
		mu     sync.Mutex
		frames []int
	)
	framed, err := assemble.CheckCKM(ctx, x, r, size, m.Add, func(f int) {
		mu.Lock()
		defer mu.Unlock()
		frames = append(frames, f)
	})
	if err != nil {
		return nil, err
	}
	slices.Sort(frames)
	var faults []assemble.Fault
	for _, n := range frames {
		f := x.Frame(n)
		first, end := x.FrameChunks(n)
		faults = append(faults, assemble.Fault{File: file, Chunk: first, Offset: int64(f.Offset), Length: int64(f.Stored),
			Reason: fmt.Sprintf("the stored bytes of chunks %d to %d are damaged", first, end-1)})
	}
	switch want := int64(x.CKMLength); {
	case size != want:
		faults = append(faults, assemble.Fault{File: file, Chunk: -1, Offset: min(size, want), Length: max(size-want, want-size),
			Reason: fmt.Sprintf("the file has %d bytes and should have %d", size, want)})
	case !framed && len(frames) == x.Frames() && x.Frames() > 0:
		faults = append(faults, assemble.Fault{File: file, Chunk: -1, Length: size, Reason: "it is the CKM of another package"})
	case !framed:
		faults = append(faults, assemble.Fault{File: file, Chunk: -1, Length: size, Reason: "header or trailer is damaged"})
	}
	return faults, nil
}

// Image checks the files of an installed image in dir.
func Image(ctx context.Context, x *ckm.Index, dir string, m progress.Meter) ([]assemble.Fault, error) {
	t, err := assemble.OpenTarget(dir, x, false)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	m.Begin("verifying "+repo.ImageName(x.Name, x.Version), int64(x.PlacedSize()))
	var (
		mu     sync.Mutex
		faults []assemble.Fault
	)
	bad := func(f assemble.Fault) {
		mu.Lock()
		defer mu.Unlock()
		faults = append(faults, f)
	}
	if err := t.Check(ctx, m.Add, bad); err != nil {
		return nil, err
	}
	if err := t.CheckHoles(ctx, bad); err != nil {
		return nil, err
	}
	slices.SortFunc(faults, assemble.CompareFaults)
	return faults, nil
}

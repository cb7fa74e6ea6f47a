package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
)

// plan says which bytes of a CKM must be sent: those that the version before, if it
// is here, does not have. Most frames of a version are those of the one before.
type plan struct {
	length int64  // of the CKM
	base   string // path of the CKM that is copied from
	copies []stretch
}

// stretch is a stretch of a CKM that the base has too.
type stretch struct{ at, from, n int64 }

// leastStretch is how many bytes are worth a request more.
const leastStretch = 256 << 10

// until returns where a piece that begins at an offset should end: at the offset
// itself if what follows is here.
func (p *plan) until(off int64) int64 {
	for _, c := range p.copies {
		if off < c.at+c.n {
			return max(off, c.at)
		}
	}
	return p.length
}

// newPlan finds what of x is in the CKM of old, which may be nil.
func newPlan(x, old *ckm.Index, base string) *plan {
	p := &plan{length: int64(x.CKMLength), base: base}
	if old == nil {
		return p
	}
	type stored struct {
		digest ckm.ShortDigest
		n      uint32
	}
	have := make(map[stored]uint64, old.Frames())
	for i := range old.Frames() {
		f := old.Frame(i)
		have[stored{f.Digest, f.Stored}] = f.Offset
	}
	for i := range x.Frames() {
		f := x.Frame(i)
		from, found := have[stored{f.Digest, f.Stored}]
		if !found {
			continue
		}
		at := int64(f.Offset)
		if n := len(p.copies); n > 0 && p.copies[n-1].at+p.copies[n-1].n == at && p.copies[n-1].from+p.copies[n-1].n == int64(from) {
			p.copies[n-1].n += int64(f.Stored)
			continue
		}
		p.copies = append(p.copies, stretch{at, int64(from), int64(f.Stored)})
	}
	p.copies = slices.DeleteFunc(p.copies, func(c stretch) bool { return c.n < leastStretch })
	return p
}

// planned returns the plan of an upload whose INDEX was accepted.
func (s *Store) planned(ctx context.Context, u *upload) (*plan, error) {
	if p, _ := s.plan(u); p != nil {
		return p, nil
	}
	leave, err := s.decoder(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	p, unfilled := s.plan(u)
	if p != nil { // somebody has made it meanwhile
		return p, nil
	}
	x, _, err := s.index(u)
	if err != nil {
		return nil, err
	}
	var old *ckm.Index
	base := ""
	// That the version before cannot be read, or is not there, is no reason to fail.
	if e, err := repo.Find(ctx, s.c.Folder, u.Name, 0); err == nil && !unfilled {
		if old, err = repo.ReadIndex(ctx, s.c.Folder, u.Name, e.Version); err == nil {
			base = s.c.Folder.Path(e.CKM)
		}
	}
	p = newPlan(x, old, base)
	s.mu.Lock()
	defer s.mu.Unlock()
	u.plan = p
	return p, nil
}

// plan returns the plan of an upload, nil if it has none yet, and whether what lies
// here already did not help.
func (s *Store) plan(u *upload) (p *plan, unfilled bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return u.plan, u.unfilled
}

// A request is not kept waiting longer than fillTime; bytes are copied in slices of
// fillSlice.
const (
	fillTime  = 5 * time.Second
	fillSlice = 8 << 20
)

// fill adds what is here already to the end of a CKM, for some time.
func (s *Store) fill(ctx context.Context, u *upload, p *plan) error {
	f, err := os.OpenFile(u.path(repo.UploadData), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	off, begun := st.Size(), time.Now()
	i := slices.IndexFunc(p.copies, func(c stretch) bool { return c.at <= off && off < c.at+c.n })
	if i < 0 {
		return nil
	}
	base, err := durable.OpenShared(p.base)
	if errors.Is(err, fs.ErrNotExist) { // it was removed: then all is sent
		s.mu.Lock()
		defer s.mu.Unlock()
		u.plan = &plan{length: p.length}
		return nil
	}
	if err != nil {
		return err
	}
	defer base.Close()
	for ; i < len(p.copies) && p.copies[i].at <= off; i++ {
		c := p.copies[i]
		for off < c.at+c.n {
			if ctx.Err() != nil || time.Since(begun) > fillTime {
				return nil
			}
			if free, err := durable.FreeSpace(s.dir); err == nil && free < spare+fillSlice {
				return fmt.Errorf("%w: the disk is full", ErrNoRoom)
			}
			n, err := copyPart(f, off, base, c.from+off-c.at, min(fillSlice, c.at+c.n-off))
			off += n
			if err != nil {
				return noRoom(err)
			}
		}
	}
	return nil
}

// copyPart copies n bytes from one offset to another, by the file system where that
// can.
func copyPart(to *os.File, at int64, from *os.File, off, n int64) (int64, error) {
	if _, err := to.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	if _, err := from.Seek(off, io.SeekStart); err != nil {
		return 0, err
	}
	return io.CopyN(to, from, n)
}

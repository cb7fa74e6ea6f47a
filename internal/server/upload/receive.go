package upload

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
)

// State returns how far an upload has come. The error wraps repo.ErrConflict if the
// package cannot come here.
func (s *Store) State(ctx context.Context, id ID) (st repo.UploadState, err error) {
	u, err := s.find(ctx, id)
	if err != nil {
		return st, err
	}
	if st.Published, err = s.c.Folder.Vacant(id.Name, id.Version, id.Digest); err != nil {
		return st, err
	}
	st.HasPatch = st.Published && s.c.Folder.HasPatch(id.Name, id.Version)
	entries, err := s.c.Folder.List(ctx)
	if err != nil {
		return st, err
	}
	st.Versions = map[uint32]string{}
	for _, e := range entries {
		if e.Name == id.Name {
			st.Versions[e.Version] = e.PackageDigest
			if e.Version == id.Version {
				st.SignedBy = e.SignedBy
			}
		}
	}
	if u != nil {
		st.Index, st.Data, st.Patch = u.part(repo.UploadIndex), s.dataPart(ctx, u), u.part(repo.UploadPatch)
	}
	return st, nil
}

// part returns how far INDEX or patch has come.
func (u *upload) part(file string) repo.UploadPart {
	if st, err := os.Stat(u.path(file)); err == nil {
		return repo.UploadPart{Offset: st.Size(), Complete: true}
	}
	st, err := os.Stat(u.path(file + partExt))
	if err != nil {
		return repo.UploadPart{}
	}
	return repo.UploadPart{Offset: st.Size()}
}

// dataPart returns how far the CKM has come.
func (s *Store) dataPart(ctx context.Context, u *upload) (p repo.UploadPart) {
	if st, err := os.Stat(u.path(repo.UploadData)); err == nil {
		p.Offset = st.Size()
	}
	if plan, err := s.planned(ctx, u); err == nil {
		p.Until = plan.until(p.Offset)
		p.Complete = p.Offset == plan.length
	}
	return p
}

// Piece is a piece of a part.
type Piece struct {
	Part      string // repo.UploadIndex, UploadData or UploadPatch
	Offset    int64  // where it begins
	Bytes     int64  // how long it is
	Length    int64  // how long the part is
	Complete  bool   // the part ends with it
	Body      io.Reader
	Interrupt func() // ends the reading of Body
}

// Append adds a piece to an upload, which begins with the first one. What has come
// before an error stays.
func (s *Store) Append(ctx context.Context, id ID, p Piece) (repo.UploadPart, error) {
	if there, err := s.c.Folder.Vacant(id.Name, id.Version, id.Digest); err != nil {
		return repo.UploadPart{}, err
	} else if there && p.Part != repo.UploadIndex && p.Part != repo.UploadPatch {
		return repo.UploadPart{}, fmt.Errorf("%w: %s is there already", ErrOrder, id.image())
	}
	u, err := s.begin(ctx, id)
	if err != nil {
		return repo.UploadPart{}, err
	}
	leave, err := s.take(ctx, u, p.Interrupt)
	if err != nil {
		return repo.UploadPart{}, err
	}
	defer leave()
	if p.Part == repo.UploadData {
		return s.appendData(ctx, u, p)
	}
	return s.appendSmall(ctx, u, p)
}

// appendSmall adds to the INDEX or to the patch.
func (s *Store) appendSmall(ctx context.Context, u *upload, p Piece) (repo.UploadPart, error) {
	have := u.part(p.Part)
	if have.Complete || p.Offset != have.Offset {
		return have, ErrOffset
	}
	most := int64(ckm.MaxIndexSize)
	if p.Part == repo.UploadPatch {
		plan, err := s.planned(ctx, u)
		if err != nil {
			return have, err
		}
		most = plan.length // a larger one saves nothing
	}
	if p.Length > most || p.Offset+p.Bytes > p.Length {
		return have, fmt.Errorf("%w: %s of %d bytes; it may have %d", ErrTooLarge, p.Part, p.Length, most)
	}
	if p.Offset == 0 {
		if err := s.reserve(u, p.Part, p.Length); err != nil {
			s.forgetEmpty(u)
			return have, err
		}
	}
	n, err := s.write(u, p.Part+partExt, p)
	have.Offset += n
	if err != nil || !p.Complete {
		return have, err
	}
	if have.Offset != p.Length {
		return have, fmt.Errorf("%w: it should have %d bytes", ErrOffset, p.Length)
	}
	if p.Part == repo.UploadIndex {
		err = s.accept(ctx, u)
	}
	if err == nil {
		err = durable.Replace(u.path(p.Part+partExt), u.path(p.Part))
	}
	if errors.Is(err, ErrDamaged) { // begin anew
		err = errors.Join(err, os.Remove(u.path(p.Part+partExt)))
	}
	have.Complete = err == nil
	return have, noRoom(err)
}

// forgetEmpty removes an upload that has nothing yet.
func (s *Store) forgetEmpty(u *upload) {
	for _, file := range []string{repo.UploadIndex, repo.UploadIndex + partExt} {
		if _, err := os.Lstat(u.path(file)); err == nil {
			return
		}
	}
	s.remove(u)
}

// accept checks an INDEX that has come, and finds room for its CKM.
func (s *Store) accept(ctx context.Context, u *upload) error {
	leave, err := s.decoder(ctx)
	if err != nil {
		return err
	}
	defer leave()
	path := u.path(repo.UploadIndex + partExt)
	x, _, err := s.readIndex(path, u.ID)
	if err != nil {
		return err
	}
	if err := s.c.Trust.Check(x); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if there, err := s.c.Folder.Vacant(u.Name, u.Version, u.Digest); err != nil {
		return err
	} else if !there {
		if err := s.reserve(u, repo.UploadData, int64(x.CKMLength)); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	if err := durable.SyncClose(f); err != nil {
		return err
	}
	return nil
}

// appendData adds to the CKM.
func (s *Store) appendData(ctx context.Context, u *upload, p Piece) (repo.UploadPart, error) {
	plan, err := s.planned(ctx, u)
	if err != nil {
		return repo.UploadPart{}, err
	}
	have := s.dataPart(ctx, u)
	if p.Offset != have.Offset {
		return have, ErrOffset
	}
	if p.Length != plan.length || p.Offset+p.Bytes > plan.length {
		return have, fmt.Errorf("%w: the CKM of %s has %d bytes", ErrTooLarge, u.image(), plan.length)
	}
	_, err = s.write(u, repo.UploadData, p)
	if err == nil {
		err = s.fill(ctx, u, plan)
	}
	return s.dataPart(ctx, u), err
}

// Pieces are read in slices; the disk's room is looked at every so many bytes.
const (
	slice    = 256 << 10
	lookFree = 8 << 20
)

// write adds a piece to the end of a file.
func (s *Store) write(u *upload, file string, p Piece) (n int64, err error) {
	f, err := os.OpenFile(u.path(file), os.O_WRONLY|os.O_CREATE, 0o644)
	if err != nil {
		return 0, noRoom(err)
	}
	defer f.Close()
	flusher := durable.NewFlusher(f)
	defer flusher.Close()
	buf := make([]byte, min(slice, max(p.Bytes, 1)))
	for n < p.Bytes {
		if n%lookFree == 0 {
			if free, err := durable.FreeSpace(s.dir); err == nil && free < spare {
				return n, fmt.Errorf("%w: the disk is full", ErrNoRoom)
			}
			s.mu.Lock()
			u.received += min(n, lookFree)
			s.mu.Unlock()
		}
		m, readErr := p.Body.Read(buf[:min(int64(len(buf)), p.Bytes-n, lookFree-n%lookFree)])
		if m > 0 {
			if _, err := f.WriteAt(buf[:m], p.Offset+n); err != nil {
				f.Truncate(p.Offset + n) // a half written slice is none
				return n, noRoom(err)
			}
			n += int64(m)
			flusher.Wrote(m)
		}
		if readErr != nil && n < p.Bytes {
			if errors.Is(readErr, io.EOF) {
				readErr = io.ErrUnexpectedEOF
			}
			return n, fmt.Errorf("the piece ended early: %w", readErr)
		}
	}
	return n, nil
}

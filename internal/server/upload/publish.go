package upload

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/patch"
	"prestage/internal/repo"
	"prestage/internal/verify"
)

// job is the checking and publishing of an upload.
type job struct {
	done chan struct{}
	err  error
}

// Publish checks an upload and publishes it, and waits for that for some time. It
// reports false when more time is needed: who asks again goes on waiting.
func (s *Store) Publish(ctx context.Context, id ID, wait time.Duration) (done bool, err error) {
	u, err := s.find(ctx, id)
	if err != nil {
		return false, err
	}
	if u == nil {
		there, err := s.c.Folder.Vacant(id.Name, id.Version, id.Digest)
		if err == nil && !there {
			err = fmt.Errorf("%w: an upload of %s", repo.ErrNotFound, id.image())
		}
		return err == nil, err
	}
	j, err := s.work(ctx, u)
	if err != nil {
		return false, err
	}
	select {
	case <-j.done:
		s.mu.Lock()
		defer s.mu.Unlock()
		if u.job == j {
			u.job = nil // told; the next one looks again
		}
		return j.err == nil, j.err
	case <-time.After(wait):
		return false, nil
	case <-ctx.Done():
		return false, ctx.Err()
	}
}

// work returns the job of an upload, which it begins if need be. It goes on when
// whoever asked for it is gone.
func (s *Store) work(ctx context.Context, u *upload) (*job, error) {
	s.mu.Lock()
	j := u.job
	s.mu.Unlock()
	if j != nil {
		return j, nil
	}
	leave, err := s.take(ctx, u, nil)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.life.Err() != nil {
		go leave()
		return nil, fmt.Errorf("%w: the server ends", ErrBusy)
	}
	j = &job{done: make(chan struct{})}
	u.job = j
	s.jobs.Add(1)
	go func() {
		defer s.jobs.Done()
		defer close(j.done)
		defer leave()
		j.err = s.publish(s.life, u)
	}()
	return j, nil
}

// publish checks an upload and publishes it. The caller has the turn.
func (s *Store) publish(ctx context.Context, u *upload) error {
	select {
	case s.check <- struct{}{}:
		defer func() { <-s.check }()
	case <-ctx.Done():
		return fmt.Errorf("%w: the server ends", ErrBusy)
	}
	leave, err := s.decoder(ctx)
	if err != nil {
		return fmt.Errorf("%w: the server ends", ErrBusy)
	}
	defer leave()
	x, encoded, err := s.index(u)
	if err != nil {
		return err
	}
	there, err := s.c.Folder.Vacant(u.Name, u.Version, u.Digest)
	if err != nil {
		return err
	}
	if !there {
		if err := s.checkData(ctx, u, x); err != nil {
			return err
		}
	}
	p := repo.Published{Index: x, Encoded: encoded, Data: u.path(repo.UploadData)}
	if u.part(repo.UploadPatch).Complete {
		p.Patch = u.path(repo.UploadPatch)
		if err := s.checkPatch(ctx, u, x); err != nil {
			return err
		}
	}
	// Trusted keys are asked about again: an upload may be older than they are.
	if err := s.c.Trust.Check(x); err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	added, err := s.c.Folder.Publish(ctx, p)
	var catalog repo.CatalogError
	if errors.As(err, &catalog) {
		s.c.Log.Warn(fmt.Sprintf("%s is published, but %v", u.image(), err))
		err = nil
	}
	if err != nil {
		return noRoom(err)
	}
	if added {
		s.c.Log.Info(fmt.Sprintf("%s is published; %s has uploaded it", u.image(), u.Owner))
		s.prune(ctx, u.Name, u.Version)
	}
	if err := s.remove(u); err != nil {
		s.c.Log.Error(fmt.Sprintf("%s is published, and what was left of its upload cannot be removed: %v", u.image(), err))
	}
	return nil
}

// checkData checks the CKM as a whole. Of one that is damaged, what comes before
// the damage stays.
func (s *Store) checkData(ctx context.Context, u *upload, x *ckm.Index) error {
	f, err := os.OpenFile(u.path(repo.UploadData), os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: the CKM", ErrOrder)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if st.Size() != int64(x.CKMLength) {
		return fmt.Errorf("%w: the CKM, from byte %d on", ErrOrder, st.Size())
	}
	bad, err := verify.Content(ctx, x, f, func(int64) {})
	if !errors.Is(err, ckm.ErrMismatch) {
		if err == nil {
			err = f.Sync()
		}
		if ctx.Err() != nil {
			err = fmt.Errorf("%w: the server ends", ErrBusy)
		}
		return noRoom(err)
	}
	at := int64(0)
	if bad >= 0 {
		at = int64(x.Frame(bad).Offset)
	}
	s.mu.Lock()
	u.unfilled, u.plan = true, nil // what was here already may be what is damaged
	s.mu.Unlock()
	return errors.Join(fmt.Errorf("%w: the CKM from byte %d on: %w", ErrDamaged, at, err), f.Truncate(at))
}

// checkPatch checks that the patch fits. One that does not is forgotten.
func (s *Store) checkPatch(ctx context.Context, u *upload, x *ckm.Index) error {
	err := s.tryPatch(ctx, u, x)
	if err == nil || ctx.Err() != nil {
		return err
	}
	return errors.Join(fmt.Errorf("%w: the patch: %w", ErrDamaged, err), os.Remove(u.path(repo.UploadPatch)))
}

func (s *Store) tryPatch(ctx context.Context, u *upload, x *ckm.Index) error {
	f, err := repo.OpenFile(u.path(repo.UploadPatch))
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	head := make([]byte, ckm.PatchHeaderSize)
	if size < int64(len(head)) {
		return fmt.Errorf("%w: it is cut short", ckm.ErrFormat)
	}
	if _, err := f.ReadAt(head, 0); err != nil {
		return err
	}
	h, err := ckm.ParsePatchHeader(head)
	if err != nil {
		return err
	}
	old := patch.Package{}
	if old.Index, err = repo.ReadIndex(ctx, s.c.Folder, u.Name, h.BaseVersion); err != nil {
		return fmt.Errorf("the version that it is based on: %w", err)
	}
	if old.Data, err = s.c.Folder.Data(ctx, u.Name, h.BaseVersion); err != nil {
		return err
	}
	defer old.Data.Close()
	if err := patch.Check(ctx, f, size, old, x); err != nil {
		return err
	}
	w, err := os.OpenFile(u.path(repo.UploadPatch), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return durable.SyncClose(w)
}

// prune removes the versions of an image that are not to be kept.
func (s *Store) prune(ctx context.Context, name string, latest uint32) {
	if s.c.Keep < 0 {
		return
	}
	removed, err := repo.Prune(ctx, s.c.Folder, name, s.c.Keep)
	for _, v := range removed {
		s.c.Log.Info(fmt.Sprintf("%s is removed: it is older than the %d versions that stay besides the latest", repo.ImageName(name, v), s.c.Keep))
	}
	if err != nil {
		s.c.Log.Error(fmt.Sprintf("old versions of %s cannot be removed: %v", name, err))
	}
	if slices.Contains(removed, latest) {
		s.c.Log.Warn(fmt.Sprintf("%s was uploaded, but there are later versions, and it is not to be kept", repo.ImageName(name, latest)))
	}
}

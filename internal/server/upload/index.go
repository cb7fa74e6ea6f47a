package upload

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"prestage/ckm"
	"prestage/internal/repo"
)

// decoders is how many uploads have their INDEX in memory at once, and that of the
// version before: one of the largest takes GiBs.
const decoders = 2

// decoder waits until an INDEX may be decoded. What was must not be kept when leave
// is called.
func (s *Store) decoder(ctx context.Context) (leave func(), err error) {
	select {
	case s.decoding <- struct{}{}:
		return func() { <-s.decoding }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting until other uploads are checked: %w", ctx.Err())
	}
}

// index returns the INDEX of an upload, which was accepted. The caller has a decoder.
func (s *Store) index(u *upload) (*ckm.Index, []byte, error) {
	x, b, err := s.readIndex(u.path(repo.UploadIndex), u.ID)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("%w: the INDEX", ErrOrder)
	}
	return x, b, err
}

func (s *Store) readIndex(path string, id ID) (*ckm.Index, []byte, error) {
	b, err := repo.ReadIndexFile(path)
	if err != nil {
		return nil, nil, err
	}
	x, err := s.decode(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: the INDEX: %w", ErrDamaged, err)
	}
	if x.Name != id.Name || x.Version != id.Version || x.Digest() != id.Digest {
		return nil, nil, fmt.Errorf("%w: it is the INDEX of %s with the digest %s, not of %s with %s", ErrDamaged,
			repo.ImageName(x.Name, x.Version), x.Digest(), id.image(), id.Digest)
	}
	return x, b, nil
}

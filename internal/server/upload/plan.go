package upload

import (
	"context"

	"prestage/ckm"
)

// plan says which bytes of a CKM must be sent, because nothing here has them.
type plan struct {
	length int64
}

// until returns where a piece from an offset on should end.
func (p *plan) until(int64) int64 { return p.length }

// planned returns an upload's plan.
func (s *Store) planned(ctx context.Context, u *upload) (*plan, error) {
	s.mu.Lock()
	p := u.plan
	s.mu.Unlock()
	if p != nil {
		return p, nil
	}
	x, _, err := u.index()
	if err != nil {
		return nil, err
	}
	return s.replan(ctx, u, x), nil
}

func (s *Store) replan(_ context.Context, u *upload, x *ckm.Index) *plan {
	p := &plan{length: int64(x.CKMLength)}
	s.mu.Lock()
	defer s.mu.Unlock()
	u.plan = p
	return p
}

// fill adds what is here already to the end of a CKM.
func (s *Store) fill(context.Context, *upload, *plan) error { return nil }

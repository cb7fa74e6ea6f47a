package repo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"prestage/internal/durable"
)

// PolicyName is the file beside the packages that says what machines are to do with
// them.
const PolicyName = "policy.json"

// maxPolicy is the largest policy that is read, in bytes.
const maxPolicy = 1 << 20

// Policy returns the file of the policy of a repository, nil if it has none.
func Policy(ctx context.Context, r Repository) (b []byte, err error) {
	switch r := r.(type) {
	case *Web:
		b, err = r.getAgain(ctx, PolicyName, maxPolicy)
	case *Folder:
		b, err = r.policy()
	}
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return b, err
}

// Guarded reports whether nobody on the way to a repository can change what comes
// from it.
func Guarded(r Repository) bool {
	w, ok := r.(*Web)
	return !ok || w.base.Scheme == "https" || isLoopback(w.base.Hostname())
}

func (r *Folder) policy() ([]byte, error) {
	f, err := r.open(PolicyName)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPolicy+1))
	if err == nil && len(b) > maxPolicy {
		err = fmt.Errorf("%s has more than %d bytes", r.Path(PolicyName), maxPolicy)
	}
	return b, err
}

// EditPolicy replaces the policy of a folder by what edit makes of it; nil is none.
func (r *Folder) EditPolicy(ctx context.Context, edit func(before []byte) ([]byte, error)) error {
	unlock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	before, err := r.policy()
	if err != nil {
		return err
	}
	after, err := edit(before)
	if err != nil || bytes.Equal(after, before) {
		return err
	}
	return durable.WriteFile(r.Path(PolicyName), after, 0o644)
}

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/durable"
	"prestage/internal/repo"
)

// spool brings packages from a server into a folder of this machine, from which
// they then go to many: each is downloaded, and checked, once. Packages in a
// folder stay where they are, since the system keeps what is read often in
// memory. The folder is gone after done.
func (a *app) spool(ctx context.Context, from repo.Repository, packages []imageVersion) (r repo.Repository, done func(), err error) {
	if _, local := from.(*repo.Folder); local {
		return from, func() {}, nil
	}
	dir, err := os.MkdirTemp("", "prestage-spool-")
	if err != nil {
		return nil, nil, err
	}
	done = func() { os.RemoveAll(dir) }
	for _, p := range packages {
		if err := a.spoolPackage(ctx, from, p, dir); err != nil {
			done()
			return nil, nil, err
		}
	}
	return repo.NewFolder(dir), done, nil
}

func (a *app) spoolPackage(ctx context.Context, from repo.Repository, p imageVersion, dir string) error {
	encoded, err := from.Index(ctx, p.name, p.version)
	if err != nil {
		return err
	}
	x, err := repo.DecodeIndex(from, encoded, p.name, p.version)
	if err != nil {
		return err
	}
	need := int64(x.CKMLength) + int64(len(encoded))
	if free, err := durable.FreeSpace(dir); err == nil && free < need {
		return fmt.Errorf("not enough space in %s to keep %s while it is pushed: %d bytes are needed and %d are free; make room, or name another folder with $TMPDIR",
			dir, p, need, free)
	}
	fetch := &assemble.Fetcher{Index: x, Sources: []assemble.Source{assemble.RepositorySource(from, x)}, Meter: a.meter}
	if err := fetch.NewCKM(ctx, filepath.Join(dir, ckm.DataName(p.name, p.version))); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ckm.IndexName(p.name, p.version)), encoded, 0o644)
}

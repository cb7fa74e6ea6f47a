package server

import (
	"context"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
)

// How long the shelf believes what it has seen.
const (
	// settled is the age at which a time of change is told from the next one,
	// on the coarsest of file systems.
	settled = 2 * time.Second
	// staleAfter is when the folder is looked at again although it seems the same:
	// files may have changed in it.
	staleAfter = 30 * time.Second
)

// shelf knows the packages of a folder that can be seen: those whose two files
// are there, the CKM in its full length. It looks at the folder again whenever
// that has changed.
type shelf struct {
	folder *repo.Folder
	log    *slog.Logger

	mu       sync.Mutex
	looked   time.Time // when it began to look
	changed  time.Time // of the folder, then
	unsure   bool      // something had changed so shortly before that more may have followed unseen
	entries  []repo.Entry
	packages map[string]*seen // by the names of all their files
	problems map[string]bool  // that were told
}

// seen is a package as it was when the shelf looked.
type seen struct {
	repo.Entry
	index, data fs.FileInfo
	patch       fs.FileInfo // nil: there is none
}

func newShelf(folder *repo.Folder, log *slog.Logger) *shelf { return &shelf{folder: folder, log: log} }

// list returns the packages that can be seen, in the order of a catalog. The
// slice is not changed afterwards.
func (s *shelf) list(ctx context.Context) ([]repo.Entry, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.look(ctx, time.Now(), false); err != nil {
		return nil, err
	}
	return s.entries, nil
}

// open opens a package's file. The error wraps repo.ErrNotFound when there is
// none that can be seen.
func (s *shelf) open(ctx context.Context, file string) (repo.Entry, *os.File, error) {
	asked := time.Now()
	for again := false; ; again = true {
		p, err := s.find(ctx, file, asked, again)
		if err != nil {
			return repo.Entry{}, nil, err
		}
		if f := s.openSeen(p, file); f != nil {
			return p.Entry, f, nil
		}
		if again {
			return repo.Entry{}, nil, repo.ErrNotFound // it changes all the time
		}
	}
}

func (s *shelf) find(ctx context.Context, file string, asked time.Time, anew bool) (*seen, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.packages[file]
	if p == nil || anew {
		if err := s.look(ctx, asked, anew); err != nil {
			return nil, err
		}
		if p = s.packages[file]; p == nil {
			return nil, repo.ErrNotFound
		}
	}
	return p, nil
}

// openSeen opens a file of a package, unless one of its two files is not the one
// that was seen any more.
func (s *shelf) openSeen(p *seen, file string) *os.File {
	for name, was := range map[string]fs.FileInfo{p.Index: p.index, p.CKM: p.data} {
		if name == file {
			continue // that is seen when it is open
		}
		if now, err := os.Stat(s.folder.Path(name)); err != nil || !same(now, was) {
			return nil
		}
	}
	f, err := durable.OpenShared(s.folder.Path(file))
	if err != nil {
		return nil
	}
	want := p.data
	switch file {
	case p.Index:
		want = p.index
	case ckm.PatchName(p.Name, p.Version):
		want = p.patch
	}
	if st, err := f.Stat(); err != nil || !same(st, want) {
		f.Close()
		return nil
	}
	return f
}

// same reports whether a file seems to be the one that it was.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// look looks at the folder, unless it did after somebody asked, or, if not anew,
// sees that it has not changed.
func (s *shelf) look(ctx context.Context, asked time.Time, anew bool) error {
	if s.packages != nil && s.looked.After(asked) {
		return nil
	}
	dir, err := os.Stat(s.folder.String())
	if err != nil {
		return err
	}
	now := time.Now()
	if s.packages != nil && !anew && !s.unsure && dir.ModTime().Equal(s.changed) && now.Sub(s.looked) < staleAfter {
		return nil
	}
	entries, problems, err := s.folder.Scan(ctx)
	if err != nil {
		return err
	}
	s.looked, s.changed, s.unsure = now, dir.ModTime(), recent(dir, now)
	s.entries, s.packages = nil, make(map[string]*seen)
	for _, e := range entries {
		p := &seen{Entry: e}
		if p.index, err = os.Stat(s.folder.Path(e.Index)); err != nil {
			continue
		}
		if p.data, err = os.Stat(s.folder.Path(e.CKM)); err != nil {
			continue
		}
		s.unsure = s.unsure || recent(p.index, now) || recent(p.data, now)
		if uint64(p.data.Size()) != e.FileSize {
			continue // by its length alone it is not what the INDEX says
		}
		s.entries = append(s.entries, e)
		s.packages[e.Index], s.packages[e.CKM] = p, p
		patch := ckm.PatchName(e.Name, e.Version)
		if p.patch, err = os.Stat(s.folder.Path(patch)); err == nil && p.patch.Mode().IsRegular() {
			s.packages[patch] = p
			s.unsure = s.unsure || recent(p.patch, now)
		}
	}
	s.tell(problems)
	return nil
}

func recent(f fs.FileInfo, now time.Time) bool { return now.Sub(f.ModTime()).Abs() < settled }

// tell logs what is wrong with packages, once for as long as it stays so.
func (s *shelf) tell(problems []error) {
	told := make(map[string]bool)
	for _, p := range problems {
		if told[p.Error()] = true; !s.problems[p.Error()] {
			s.log.Warn("a package is not served: " + p.Error())
		}
	}
	s.problems = told
}

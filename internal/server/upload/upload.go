// Package upload takes in packages that are sent to a server piece by piece, and
// publishes those that are whole. What is unfinished lies in a folder that nobody
// sees, belongs to who began it, has bounds, and goes when nobody goes on with it.
package upload

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/zeebo/blake3"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// What an upload is refused for. A conflict is repo.ErrConflict, an upload that is
// not there repo.ErrNotFound.
var (
	ErrTooLarge = errors.New("too large")
	ErrNoRoom   = errors.New("no room")
	ErrDamaged  = errors.New("not a good package")
	ErrOffset   = errors.New("the piece does not begin where the last one ended")
	ErrOrder    = errors.New("something else must be sent first")
	ErrBusy     = errors.New("busy") // the same request may succeed later
)

const (
	folderName = ".prestage-uploads" // in the folder of packages: the same file system
	metaName   = "upload.json"
	partExt    = ".part" // of INDEX and patch, until all of them has come

	mostOfImage = 8   // unfinished uploads of an image, of whatever version
	mostOfAll   = 256 // and of all
	// spare is how many bytes of the disk uploads leave to others.
	spare = 4 << 20
)

// Config says where uploads go, and what bounds them.
type Config struct {
	Folder *repo.Folder
	Log    *slog.Logger
	Trust  sign.Trust // whose signatures a package needs
	// Most and MostOfImage are how many bytes unfinished uploads may take, all
	// together and those of an image. 0 is as much as the disk has.
	Most, MostOfImage int64
	Age               time.Duration // of an upload that nobody goes on with, until it is removed
	// Keep is how many versions before the latest stay when one is published; less
	// than 0: all.
	Keep int
}

// ID says which upload is meant: whose, and of which package.
type ID struct {
	Owner   string     `json:"owner"`
	Name    string     `json:"name"`
	Version uint32     `json:"version"`
	Digest  ckm.Digest `json:"digest"`
}

func (id ID) image() string { return repo.ImageName(id.Name, id.Version) }

// folder is the name of the upload's folder: nothing of what a client says is in it.
func (id ID) folder() string {
	b, err := json.Marshal(id)
	if err != nil {
		panic(err) // plain data
	}
	sum := blake3.Sum256(b)
	return hex.EncodeToString(sum[:16])
}

// meta is what the folder of an upload says of it.
type meta struct {
	ID
	Promised map[string]int64 `json:"promised"` // bytes that its parts will have
}

func (m meta) promised() (n int64) {
	for _, bytes := range m.Promised {
		n += bytes
	}
	return n
}

// Store keeps the unfinished uploads of a folder of packages.
type Store struct {
	c   Config
	dir string

	check    chan struct{} // held while a package is checked: others need the processors, too
	decoding chan struct{} // held while an INDEX is in memory
	decode   func(b []byte) (*ckm.Index, error)
	life     context.Context
	end      context.CancelFunc
	jobs     sync.WaitGroup

	mu      sync.Mutex
	lock    *flock.Flock // nil: not open yet
	uploads map[string]*upload
}

// upload is an unfinished upload.
type upload struct {
	meta
	dir  string
	turn chan struct{} // held by who changes its files

	// Under the store's lock:
	gone      bool
	interrupt func() // ends who has the turn, if he can be ended
	received  int64  // bytes of its files, about
	job       *job   // that checks and publishes it, or has
	plan      *plan  // nil: not made yet
	unfilled  bool   // what lies here already did not help
}

// New returns the store of a folder. Close ends it.
func New(c Config) *Store {
	s := &Store{c: c, dir: c.Folder.Path(folderName), check: make(chan struct{}, 1), decoding: make(chan struct{}, decoders), decode: ckm.Decode}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Run finishes what a server that was killed was about to publish, and sweeps every
// now and then, until ctx ends.
func (s *Store) Run(ctx context.Context) {
	for {
		if _, err := os.Stat(s.dir); err == nil { // somebody has uploaded something
			if err := s.open(ctx); err == nil {
				s.Sweep(time.Now())
			} else if !errors.Is(err, ErrBusy) && ctx.Err() == nil {
				s.c.Log.Error(fmt.Sprintf("unfinished uploads cannot be looked at: %v", err))
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(min(max(s.c.Age/10, time.Second), time.Hour)):
		}
	}
}

// Close waits for what the store is at, which it ends, and lets another one have
// the folder.
func (s *Store) Close() {
	s.end()
	s.jobs.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		s.lock.Unlock()
	}
	s.lock, s.uploads = nil, nil
}

// open takes the folder of uploads and looks what is in it, unless that was done.
func (s *Store) open(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lock != nil {
		return nil
	}
	if s.life.Err() != nil {
		return fmt.Errorf("%w: the server ends", ErrBusy)
	}
	if err := durable.MkdirAll(s.dir, 0o700); err != nil {
		return noRoom(err)
	}
	lock := flock.New(filepath.Join(s.dir, ".lock"))
	if taken, err := lock.TryLock(); err != nil {
		return noRoom(err)
	} else if !taken {
		return fmt.Errorf("%w: another server takes the uploads to this folder", ErrBusy)
	}
	err := s.c.Folder.Recover(ctx)
	if err == nil {
		s.uploads, err = s.load()
	}
	if err != nil {
		lock.Unlock()
		return noRoom(err)
	}
	s.lock = lock
	return nil
}

// load finds the uploads that are there, and removes what is not one.
func (s *Store) load() (map[string]*upload, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	uploads := map[string]*upload{}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		u := newUpload(filepath.Join(s.dir, e.Name()))
		b, err := os.ReadFile(filepath.Join(u.dir, metaName))
		useless := err != nil || json.Unmarshal(b, &u.meta) != nil || u.folder() != e.Name() // half made, or half removed
		if !useless {                                                                        // or published, just before a crash
			useless, _ = s.c.Folder.Vacant(u.Name, u.Version, u.Digest)
		}
		if useless {
			if err := durable.RemoveTree(u.dir); err != nil {
				return nil, err
			}
			continue
		}
		u.received, _ = u.stored()
		uploads[e.Name()] = u
	}
	return uploads, nil
}

func newUpload(dir string) *upload { return &upload{dir: dir, turn: make(chan struct{}, 1)} }

func (u *upload) path(file string) string { return filepath.Join(u.dir, file) }

// stored returns how many bytes the upload's files have, and when the last of them
// changed.
func (u *upload) stored() (n int64, changed time.Time) {
	entries, err := os.ReadDir(u.dir)
	if err != nil {
		return 0, time.Time{}
	}
	for _, e := range entries {
		if st, err := e.Info(); err == nil {
			n += st.Size()
			if st.ModTime().After(changed) {
				changed = st.ModTime()
			}
		}
	}
	return n, changed
}

// find returns an upload, nil if there is none.
func (s *Store) find(ctx context.Context, id ID) (*upload, error) {
	if err := s.open(ctx); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.uploads[id.folder()], nil
}

// begin returns an upload, which it makes if need be.
func (s *Store) begin(ctx context.Context, id ID) (*upload, error) {
	if u, err := s.find(ctx, id); u != nil || err != nil {
		return u, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u := s.uploads[id.folder()]; u != nil {
		return u, nil
	}
	same := 0
	for _, u := range s.uploads {
		if u.Name == id.Name {
			same++
		}
	}
	if same >= mostOfImage || len(s.uploads) >= mostOfAll {
		return nil, fmt.Errorf("%w: %d unfinished uploads of %s, and %d in all; finish those that were begun, or wait: they go when nobody has gone on with them for %v",
			ErrNoRoom, same, id.Name, len(s.uploads), s.c.Age)
	}
	u := newUpload(filepath.Join(s.dir, id.folder()))
	u.ID = id
	if err := os.Mkdir(u.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, noRoom(err)
	}
	if err := u.save(); err != nil {
		durable.RemoveTree(u.dir)
		return nil, noRoom(err)
	}
	s.uploads[id.folder()] = u
	return u, nil
}

// save writes what the folder of the upload says of it.
func (u *upload) save() error {
	b, err := json.Marshal(u.meta)
	if err != nil {
		return err
	}
	return durable.WriteFile(u.path(metaName), append(b, '\n'), 0o600)
}

// reserve promises a part of an upload n bytes, or says that there is no room for
// them.
func (s *Store) reserve(u *upload, part string, n int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	more := n - u.Promised[part]
	all, ofImage, owed := more, more, more // owed: bytes that are promised and have not come
	for _, other := range s.uploads {
		all += other.promised()
		owed += max(0, other.promised()-other.received)
		if other.Name == u.Name {
			ofImage += other.promised()
		}
	}
	if s.c.MostOfImage > 0 && ofImage > s.c.MostOfImage {
		return fmt.Errorf("%w: unfinished uploads of %s would take %d bytes, and may take %d here", ErrTooLarge, u.Name, ofImage, s.c.MostOfImage)
	}
	if s.c.Most > 0 && all > s.c.Most {
		return fmt.Errorf("%w: unfinished uploads would take %d bytes, and may take %d here", ErrNoRoom, all, s.c.Most)
	}
	free, err := durable.FreeSpace(s.dir)
	if err != nil {
		return err
	}
	if owed > free-spare {
		return fmt.Errorf("%w: unfinished uploads would take %d bytes more, and the disk has %d", ErrNoRoom, owed, max(0, free-spare))
	}
	if u.Promised == nil {
		u.Promised = map[string]int64{}
	}
	u.Promised[part] = n
	return noRoom(u.save())
}

// take waits for the turn to change an upload's files. Who has it is interrupted: he
// may be a client that is gone and does not say so.
func (s *Store) take(ctx context.Context, u *upload, interrupt func()) (leave func(), err error) {
	s.mu.Lock()
	if u.interrupt != nil {
		u.interrupt()
	}
	s.mu.Unlock()
	select {
	case u.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(10 * time.Second):
		return nil, fmt.Errorf("%w: the package is being checked", ErrBusy)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if u.gone {
		<-u.turn
		return nil, fmt.Errorf("%w: the upload has ended meanwhile", ErrBusy)
	}
	u.interrupt = interrupt
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		u.interrupt = nil
		u.received, _ = u.stored()
		<-u.turn
	}, nil
}

// remove removes an upload. The caller has the turn.
func (s *Store) remove(u *upload) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	u.gone = true
	if s.uploads[u.folder()] == u {
		delete(s.uploads, u.folder())
	}
	// First what tells that it is an upload: what a crash leaves then is removed.
	if err := os.Remove(u.path(metaName)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return durable.RemoveTree(u.dir)
}

// Sweep removes the uploads that nobody has gone on with.
func (s *Store) Sweep(now time.Time) {
	s.mu.Lock()
	var all []*upload
	for _, u := range s.uploads {
		all = append(all, u)
	}
	s.mu.Unlock()
	for _, u := range all {
		select {
		case u.turn <- struct{}{}:
		default:
			continue // somebody is at it
		}
		if n, changed := u.stored(); now.Sub(changed) > s.c.Age {
			if err := s.remove(u); err != nil {
				s.c.Log.Error(fmt.Sprintf("an abandoned upload cannot be removed: %v", err))
			} else {
				s.c.Log.Info(fmt.Sprintf("the upload of %s by %s is removed: for %v nobody has gone on with it; it had %d bytes", u.image(), u.Owner, s.c.Age, n))
			}
		}
		<-u.turn
	}
}

// Unfinished returns how many uploads there are, and how many bytes they have.
func (s *Store) Unfinished() (n int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.uploads {
		bytes += u.received
	}
	return len(s.uploads), bytes
}

// noRoom makes an error of the disk being full one that is told as such.
func noRoom(err error) error {
	if durable.IsDiskFull(err) {
		return fmt.Errorf("%w: the disk is full: %w", ErrNoRoom, err)
	}
	return err
}

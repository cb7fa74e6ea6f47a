// Package ledger is what machines have told a server: which images they hold, and
// what has happened on them. It is kept in a database, which is a file of SQLite or
// on a server of PostgreSQL; one implementation speaks to both.
package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"

	"prestage/internal/event"
)

// OnlineWithin is how long ago a machine that counts as online has told something:
// three of the intervals at which machines ask the server.
const OnlineWithin = 3 * event.Interval

// What callers decide on.
var (
	ErrDamaged = errors.New("the database of events is damaged")
	ErrNewer   = errors.New("the database of events was written by a newer version of prestage")
	ErrOlder   = errors.New("the database of events was written by an older version of prestage")
	ErrForeign = errors.New("not a database of events")
	ErrFull    = errors.New("there is no room for more events")
	ErrBusy    = errors.New("the database of events is busy")
	ErrClosed  = errors.New("the database of events is closed")
)

// errMoved says that the file is not the one that was opened: what is written to it
// would be lost.
var errMoved = errors.New("the file of the database was moved, removed or replaced; it is opened anew")

// Ledger is a database of what machines have told. Its methods may be called by
// many at once.
type Ledger struct {
	place   place
	dialect *dialect
	write   *sql.DB     // nil: it is only read
	file    fs.FileInfo // nil: there is none
	read    *sql.DB

	takes   chan *take
	closing chan struct{}
	ended   chan struct{} // the one who writes has
	once    sync.Once
}

// Open opens the database at where, a file or a postgres:// URL. What is not there
// is made: the file, and tables in either. The password may be in the URL, in
// $PGPASSWORD or in the file that $PGPASSFILE names; no error tells it.
func Open(ctx context.Context, where string) (*Ledger, error) {
	return openAt(ctx, where, true)
}

// OpenToRead is Open for who will not change anything, while others may. The error
// is fs.ErrNotExist if there is no database.
func OpenToRead(ctx context.Context, where string) (*Ledger, error) {
	return openAt(ctx, where, false)
}

func openAt(ctx context.Context, where string, write bool) (*Ledger, error) {
	p, err := parsePlace(where)
	if err != nil {
		return nil, err
	}
	return p.open(ctx, write)
}

func (p place) open(ctx context.Context, write bool) (*Ledger, error) {
	l := &Ledger{place: p, dialect: p.dialect(), takes: make(chan *take, mostWaiting), closing: make(chan struct{}), ended: make(chan struct{})}
	if err := l.open(ctx, write); err != nil {
		l.closeAll()
		return nil, l.fail(err)
	}
	if !write {
		close(l.ended)
		return l, nil
	}
	go l.writer()
	return l, nil
}

func (l *Ledger) open(ctx context.Context, write bool) (err error) {
	if write {
		if l.write, err = l.place.connect(true); err != nil {
			return err
		}
		l.file = l.place.stat()
		if err := l.migrate(ctx, migrations); err != nil {
			return err
		}
	}
	if l.read, err = l.place.connect(false); err != nil || write {
		return err
	}
	have, err := l.version(ctx, l.read)
	switch {
	case err != nil:
		return err
	case have == 0:
		return fmt.Errorf("%w: it holds no events; name what a server has as --events", fs.ErrNotExist)
	case have < len(migrations):
		return fmt.Errorf("%w (%d; this one needs %d): start the server with this version first", ErrOlder, have, len(migrations))
	}
	return checkNewer(have, len(migrations))
}

// check reads all of the database, if that tells whether it is whole.
func (l *Ledger) check(ctx context.Context) error {
	if l.dialect.check == "" {
		return nil
	}
	var said string
	err := l.read.QueryRowContext(ctx, l.dialect.check).Scan(&said)
	if err == nil && said != "ok" {
		err = fmt.Errorf("%w: %s", ErrDamaged, said)
	}
	return l.fail(err)
}

// Close ends a ledger, after what was begun.
func (l *Ledger) Close() error {
	l.once.Do(func() { close(l.closing) })
	<-l.ended
	return l.closeAll()
}

func (l *Ledger) closeAll() error {
	var errs []error
	for _, db := range []*sql.DB{l.read, l.write} {
		if db != nil {
			errs = append(errs, db.Close())
		}
	}
	return errors.Join(errs...)
}

// String returns where the ledger is, without a password.
func (l *Ledger) String() string { return l.place.String() }

// fail says of which database an error is, what it means, and nothing secret.
func (l *Ledger) fail(err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return err
	}
	if kind := l.dialect.kind(err); kind != nil && !errors.Is(err, kind) {
		err = fmt.Errorf("%w: %w", kind, err)
	}
	err = fmt.Errorf("%s: %w", l.place, err)
	if s := l.place.password; s != "" && strings.Contains(err.Error(), s) {
		err = hushed{err, strings.ReplaceAll(err.Error(), s, "xxxxx")}
	}
	return err
}

// hushed is an error that tells less than it knows.
type hushed struct {
	error
	text string
}

func (h hushed) Error() string { return h.text }
func (h hushed) Unwrap() error { return h.error }

// Advice says what to do about an error of a ledger, "" if nothing is known.
func Advice(err error) string {
	switch {
	case errors.Is(err, ErrDamaged), errors.Is(err, ErrForeign):
		return "move the file away, with those beside it that end with -wal and -shm: a new one is made; or put a copy back that was saved. " +
			"Machines send again what was not acknowledged"
	case errors.Is(err, ErrFull):
		return "make room on the disk, let the file grow (--events-most), or keep events for a shorter time (--keep-events); machines send again what was not taken"
	case errors.Is(err, ErrNewer):
		return "use that version, or another database"
	case errors.Is(err, ErrBusy):
		return "another program holds it, or too much comes at once; machines send again what was not taken"
	}
	return ""
}

package ledger

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
)

// place is where a database is: a file, or a server.
type place struct {
	path     string          // "": a server
	server   *pgx.ConnConfig // nil: a file
	password string          // of the server, which nobody is to see
	most     int64           // bytes that a file may have, 0: no limit
}

// pageSize is SQLite's, of files that it makes by itself; in bytes.
const pageSize = 4096

// readers is how many look something up at once.
const readers = 4

// IsServer reports whether where names a server of databases, and not a file.
func IsServer(where string) bool {
	scheme, _, ok := strings.Cut(strings.ToLower(where), "://")
	return ok && (scheme == "postgres" || scheme == "postgresql")
}

// HasPassword reports whether a URL of a server holds a password, which others
// could see in a list of processes.
func HasPassword(where string) bool {
	if !IsServer(where) {
		return false
	}
	u, err := url.Parse(where)
	if err != nil {
		return true // as far as we can tell
	}
	_, set := u.User.Password()
	return set || u.Query().Has("password")
}

func parsePlace(where string) (p place, err error) {
	switch {
	case where == "":
		return p, errors.New("there is no name of a database of events: name a file, or postgres://USER@HOST/DATABASE")
	case IsServer(where):
		if p.server, err = pgx.ParseConfig(where); err != nil {
			// The library's own text may hold parts of what could not be read.
			return p, errors.New("the URL of the database of events cannot be read: it should be like postgres://USER@HOST:PORT/DATABASE?sslmode=verify-full, with special characters as %XX")
		}
		p.password = p.server.Password
		if p.server.ConnectTimeout == 0 {
			p.server.ConnectTimeout = 10 * time.Second
		}
		return p, nil
	case strings.Contains(where, "://"):
		return p, fmt.Errorf("a database of events is a file or a postgres:// URL, not %.20q", where)
	}
	p.path, err = filepath.Abs(where)
	return p, err
}

// String returns the place without a password.
func (p place) String() string {
	if p.server == nil {
		return p.path
	}
	return fmt.Sprintf("postgres://%s@%s:%d/%s", p.server.User, p.server.Host, p.server.Port, p.server.Database)
}

func (p place) dialect() *dialect {
	if p.server != nil {
		return &postgres
	}
	return &sqlite
}

// connect returns connections to the database. Those to write are one only: who
// writes waits for nobody then but for other programs.
func (p place) connect(write bool) (*sql.DB, error) {
	most := readers
	if write {
		most = 1
	}
	if p.server != nil {
		db := stdlib.OpenDB(*p.server)
		db.SetMaxOpenConns(most)
		db.SetConnMaxIdleTime(10 * time.Minute)
		return db, nil
	}
	if err := p.prepare(write); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", p.name(write))
	if err == nil {
		db.SetMaxOpenConns(most)
		db.SetMaxIdleConns(most)
	}
	return db, err
}

// prepare makes the file if need be. It holds names of people, and is nobody
// else's business; what SQLite puts beside it has the same rights.
func (p place) prepare(write bool) error {
	flag := os.O_RDONLY
	if write {
		flag = os.O_RDWR | os.O_CREATE
	}
	f, err := os.OpenFile(p.path, flag, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%w: it is not a file", ErrForeign)
	}
	return err
}

// name is what SQLite's driver takes. Synchronous is FULL, because what a commit has
// written in WAL mode outlives a power cut only then, and a machine forgets what was
// acknowledged. That costs a sync for each commit, which many reports share.
func (p place) name(write bool) string {
	slashed := filepath.ToSlash(p.path)
	if !strings.HasPrefix(slashed, "/") { // C:/…
		slashed = "/" + slashed
	}
	q := url.Values{"_pragma": {"busy_timeout(5000)", "trusted_schema(off)", "cell_size_check(on)"}}
	if write {
		q["_pragma"] = append(q["_pragma"], "journal_mode(wal)", "synchronous(full)", "cache_size(-32768)", "journal_size_limit(67108864)")
		if p.most > 0 {
			q.Add("_pragma", fmt.Sprintf("max_page_count(%d)", max(p.most/pageSize, 1)))
		}
		q.Set("_txlock", "immediate")
	} else {
		q["_pragma"] = append(q["_pragma"], "query_only(on)")
	}
	return (&url.URL{Scheme: "file", Path: slashed, RawQuery: q.Encode()}).String()
}

// stat tells files apart; nil where there is none to be told apart.
func (p place) stat() fs.FileInfo {
	if p.server != nil {
		return nil
	}
	st, err := os.Stat(p.path)
	if err != nil {
		return nil
	}
	return st
}

// query is what both a database and a transaction can do.
type query interface {
	QueryContext(ctx context.Context, q string, args ...any) (*sql.Rows, error)
	QueryRowContext(ctx context.Context, q string, args ...any) *sql.Row
	ExecContext(ctx context.Context, q string, args ...any) (sql.Result, error)
}

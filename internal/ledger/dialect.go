package ledger

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"io/fs"
	"net"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	sqlitedriver "modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"
)

// dialect is what SQLite and PostgreSQL do not have in common.
type dialect struct {
	numbered bool   // arguments are $1, $2 …, not ?
	serial   string // a column of numbers that the database makes
	fold     string // %s in lower case, of ASCII alone
	lock     string // makes others wait who change the schema; "" where a transaction does
	check    string // answers "ok" if the database is whole; "" where nobody can tell
	tables   string // counts the tables of the database that are there
	version  string // counts those with the name of the schema's version
	mustBe   string // says in a transaction that a commit means the disk; "" where it does
	kind     func(err error) error
	blames   func(err error) bool // the data of a report, and not the database
}

var sqlite = dialect{
	serial:  "INTEGER PRIMARY KEY",
	fold:    "lower(%s)",
	check:   "PRAGMA quick_check(1)",
	tables:  "SELECT count(*) FROM sqlite_master",
	version: "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'prestage_schema'",
	kind: func(err error) error {
		var e *sqlitedriver.Error
		if !errors.As(err, &e) {
			return nil
		}
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB:
			return ErrDamaged
		case sqlite3.SQLITE_FULL:
			return ErrFull
		case sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED:
			return ErrBusy
		case sqlite3.SQLITE_CANTOPEN:
			return fs.ErrPermission
		case sqlite3.SQLITE_IOERR: // a full disk may show so, as it grows the -shm
			if e.Code() == sqlite3.SQLITE_IOERR_SHMSIZE || e.Code() == sqlite3.SQLITE_IOERR_WRITE {
				return ErrFull
			}
		}
		return nil
	},
	blames: func(err error) bool {
		var e *sqlitedriver.Error
		if !errors.As(err, &e) {
			return false
		}
		switch e.Code() & 0xff {
		case sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_RANGE:
			return true
		}
		return false
	},
}

var postgres = dialect{
	numbered: true,
	serial:   "BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY",
	fold:     `lower(%s COLLATE "C")`,
	lock:     "SELECT pg_advisory_xact_lock(7238514196)",
	tables:   "SELECT 0",
	version:  "SELECT count(*) FROM pg_catalog.pg_class WHERE oid = to_regclass('prestage_schema')",
	mustBe:   "SELECT set_config('synchronous_commit', 'on', true) WHERE current_setting('synchronous_commit') = 'off'",
	kind: func(err error) error {
		var e *pgconn.PgError
		if !errors.As(err, &e) {
			return nil
		}
		switch {
		case e.Code == "53100":
			return ErrFull
		case strings.HasPrefix(e.Code, "53"), strings.HasPrefix(e.Code, "55"), strings.HasPrefix(e.Code, "57"), strings.HasPrefix(e.Code, "40"):
			return ErrBusy
		case strings.HasPrefix(e.Code, "XX"):
			return ErrDamaged
		case e.Code == "42501", strings.HasPrefix(e.Code, "28"):
			return fs.ErrPermission
		}
		return nil
	},
	blames: func(err error) bool {
		var e *pgconn.PgError
		return errors.As(err, &e) && (strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "23") || strings.HasPrefix(e.Code, "54"))
	},
}

// isCut reports whether a connection has ended, so that a new one may do better.
func isCut(err error) bool {
	var e *pgconn.PgError
	var network net.Error
	return errors.Is(err, driver.ErrBadConn) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.As(err, &e) && strings.HasPrefix(e.Code, "57P") || errors.As(err, &network) && !errors.Is(err, context.DeadlineExceeded)
}

// sql writes a statement, in which arguments are ?, in the dialect.
func (d *dialect) sql(q string) string {
	if !d.numbered {
		return q
	}
	var b strings.Builder
	n := 0
	for _, r := range q {
		if r != '?' {
			b.WriteRune(r)
			continue
		}
		n++
		b.WriteString("$" + strconv.Itoa(n))
	}
	return b.String()
}

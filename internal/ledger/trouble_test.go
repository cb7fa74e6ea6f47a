package ledger

import (
	"context"
	"database/sql"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"prestage/internal/pgtest"
)

func TestSchemaVersions(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		_, err := OpenToRead(t.Context(), where)
		if !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("reading what is not there: %v", err)
		}
		l, err := Open(t.Context(), where)
		must(t, err)
		taken(t, l, "", noon, report("a", 0, 2))

		// A migration that fails leaves all as it was.
		broken := append(append([]migration{}, migrations...), migration{"CREATE TABLE more (id SERIAL)", "CREATE NONSENSE"})
		if err := l.migrate(t.Context(), broken); err == nil || !strings.Contains(err.Error(), "version 2") {
			t.Errorf("a migration that makes no sense: %v", err)
		}
		good := append(append([]migration{}, migrations...), migration{"CREATE TABLE more (id SERIAL)", "INSERT INTO more DEFAULT VALUES"})
		must(t, l.migrate(t.Context(), good))
		must(t, l.migrate(t.Context(), good)) // nothing is left to do
		if n := len(entries(t, l, Filter{})); n != 2 {
			t.Errorf("%d events", n)
		}
		must(t, l.Close())

		for name, open := range map[string]func(context.Context, string) (*Ledger, error){"Open": Open, "OpenToRead": OpenToRead} {
			_, err := open(t.Context(), where)
			if !errors.Is(err, ErrNewer) || !strings.Contains(err.Error(), "2") || Advice(err) == "" {
				t.Errorf("%s of a newer schema: %v", name, err)
			}
		}
		p, err := parsePlace(where)
		must(t, err)
		db, err := p.connect(true)
		must(t, err)
		defer db.Close()
		_, err = db.Exec("UPDATE prestage_schema SET version = 0")
		must(t, err)
		if _, err := OpenToRead(t.Context(), where); err == nil {
			t.Error("reading an older schema is no error")
		}
	})
}

func TestReadOnly(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		taken(t, l, "", noon, report("a", 0, 2))
		r, err := OpenToRead(t.Context(), where)
		must(t, err)
		defer r.Close()
		if n := len(entries(t, r, Filter{})); n != 2 {
			t.Errorf("%d events", n)
		}
		if _, err := r.Take(t.Context(), "", noon, report("a", 2, 1)); err == nil {
			t.Error("it takes reports")
		}
		if _, err := r.Prune(t.Context(), noon); err == nil {
			t.Error("it forgets")
		}
		taken(t, l, "", noon, report("a", 2, 1)) // the reader is in nobody's way
		if n := len(entries(t, r, Filter{})); n != 3 {
			t.Errorf("%d events", n)
		}
	})
}

func TestClosed(t *testing.T) {
	onBoth(t, func(t *testing.T, where string) {
		l := opened(t, where)
		must(t, l.Close())
		must(t, l.Close())
		if _, err := l.Take(t.Context(), "", noon, report("a", 0, 1)); !errors.Is(err, ErrClosed) {
			t.Error(err)
		}
	})
}

// Nothing that is said of a database tells its password.
func TestPasswordStaysSecret(t *testing.T) {
	s := server.Get(t)
	where := s.Database(t)
	wrong := s.WithPassword(t, where, "wr0ng-s3cret")
	secret := func(what string, err error) {
		t.Helper()
		if err == nil {
			t.Fatalf("%s: no error", what)
		}
		for _, s := range []string{"wr0ng-s3cret", "s3cret"} {
			if strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	_, err := Open(t.Context(), wrong)
	secret("a wrong password", err)
	if !errors.Is(err, fs.ErrPermission) {
		t.Errorf("a wrong password: %v", err)
	}
	for _, bad := range []string{"postgres://u:wr0ng-s3cret@h:port/x", "postgres://u:wr0ng-s3cret%zz@h/x", "postgres://u:wr0ng-s3cret@h/x?sslmode=perhaps", "postgres://h/x?password=wr0ng-s3cret&connect_timeout=x", "postgresql://u:wr0ng-s3cret@[::1/x"} {
		_, err := Open(t.Context(), bad)
		secret(bad, err)
		_, err = Keep(bad, Bounds{}, nil)
		secret(bad, err)
		if !HasPassword(bad) {
			t.Errorf("%s has no password", bad)
		}
	}
	l := opened(t, where)
	if strings.Contains(l.String(), "s3cret") {
		t.Error(l)
	}
	// It need not be in the URL.
	t.Setenv("PGPASSWORD", pgtest.Password)
	without := s.WithPassword(t, where, "")
	if HasPassword(without) {
		t.Error(without)
	}
	opened(t, without)
}

func TestPlaces(t *testing.T) {
	for _, bad := range []string{"", "mysql://h/x", "http://h/x"} {
		if _, err := Open(t.Context(), bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
	dir := t.TempDir()
	for what, path := range map[string]string{"a folder": dir, "in no folder": filepath.Join(dir, "none", "x.db")} {
		if l, err := Open(t.Context(), path); err == nil {
			l.Close()
			t.Errorf("%s: no error", what)
		}
	}
	// Another program's file is left alone.
	other := filepath.Join(dir, "other.db")
	db, err := sql.Open("sqlite", other)
	must(t, err)
	_, err = db.Exec("CREATE TABLE things (id INTEGER)")
	must(t, err)
	must(t, db.Close())
	if _, err := Open(t.Context(), other); !errors.Is(err, ErrForeign) {
		t.Errorf("another program's file: %v", err)
	}
	text := filepath.Join(dir, "text")
	must(t, os.WriteFile(text, []byte(strings.Repeat("not a database\n", 1000)), 0o600))
	if _, err := Open(t.Context(), text); !errors.Is(err, ErrDamaged) || Advice(err) == "" {
		t.Errorf("text: %v", err)
	}
	if st, err := os.Stat(opened(t, filepath.Join(dir, "mine.db")).place.path); err != nil || st.Mode().Perm() != 0o600 && runtime.GOOS != "windows" {
		t.Errorf("%v %v: others can read it", st.Mode(), err)
	}
}

// While another program holds the file, reports are not acknowledged.
func TestLocked(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	l := opened(t, where)
	taken(t, l, "", noon, report("a", 0, 1))
	other, err := parsePlace(where)
	must(t, err)
	db, err := other.connect(true)
	must(t, err)
	defer db.Close()
	tx, err := db.Begin()
	must(t, err)
	if _, err := l.Take(t.Context(), "", noon, report("a", 1, 1)); !errors.Is(err, ErrBusy) || Advice(err) == "" {
		t.Errorf("locked: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := l.Take(ctx, "", noon, report("a", 1, 1)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("locked, and no patience: %v", err)
	}
	must(t, tx.Rollback())
	taken(t, l, "", noon, report("a", 1, 1))
	if n := len(entries(t, l, Filter{})); n != 2 {
		t.Errorf("%d events", n)
	}
}

// More than can wait is refused at once, and nothing that was acknowledged is lost.
func TestTooMuch(t *testing.T) {
	where := filepath.Join(t.TempDir(), "x.db")
	l := opened(t, where)
	other, err := parsePlace(where)
	must(t, err)
	db, err := other.connect(true)
	must(t, err)
	defer db.Close()
	tx, err := db.Begin()
	must(t, err)
	results := make(chan error, mostWaiting+mostReports+100)
	for i := range cap(results) {
		go func() {
			_, err := l.Take(t.Context(), "", noon, report("a", i, 1))
			results <- err
		}()
	}
	refused := 0
	for refused == 0 {
		if err := <-results; !errors.Is(err, ErrBusy) {
			t.Fatalf("while it is locked: %v", err)
		}
		refused++
	}
	must(t, tx.Rollback())
	took := 0
	for range cap(results) - refused {
		if err := <-results; err == nil {
			took++
		} else if !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
	}
	if n := len(entries(t, l, Filter{})); n < took || took == 0 {
		t.Errorf("%d events, %d acknowledged", n, took)
	}
}

package ledger

import (
	"context"
	"fmt"
	"strings"
)

// A migration makes a schema of the one before. What has been released stays as it
// is; SERIAL stands for the
// dialect's words. Times are milliseconds since
// 1970, by UTC: both databases order them alike. The severity is a number so that
// the worst is the greatest.
type migration []string

var migrations = []migration{
	{
		`CREATE TABLE prestage_machines (
			id SERIAL,
			reader TEXT NOT NULL,
			machine TEXT NOT NULL,
			host TEXT NOT NULL,
			person TEXT NOT NULL,
			client TEXT NOT NULL,
			system TEXT NOT NULL,
			seen BIGINT NOT NULL,
			clock BIGINT NOT NULL,
			held TEXT NOT NULL,
			UNIQUE (reader, machine))`,
		`CREATE INDEX prestage_machines_seen ON prestage_machines (seen)`,
		`CREATE TABLE prestage_held (
			machine BIGINT NOT NULL,
			image TEXT NOT NULL,
			version BIGINT NOT NULL,
			staged SMALLINT NOT NULL,
			digest TEXT NOT NULL,
			since BIGINT NOT NULL,
			PRIMARY KEY (machine, image, version, staged))`,
		`CREATE INDEX prestage_held_image ON prestage_held (image, version)`,
		// The same number twice is the same event only if time and kind are the same,
		// too: a machine that was put back to an earlier state counts anew from there,
		// and machines that were copied from one count from the same number.
		`CREATE TABLE prestage_events (
			id SERIAL,
			machine BIGINT NOT NULL,
			number BIGINT NOT NULL,
			clock BIGINT NOT NULL,
			kind BIGINT NOT NULL,
			received BIGINT NOT NULL,
			severity SMALLINT NOT NULL,
			category TEXT NOT NULL,
			description TEXT NOT NULL,
			host TEXT NOT NULL,
			person TEXT NOT NULL,
			image TEXT NOT NULL,
			version BIGINT NOT NULL,
			digest TEXT NOT NULL,
			fetched BIGINT NOT NULL,
			UNIQUE (machine, number, clock, kind))`,
		`CREATE INDEX prestage_events_received ON prestage_events (received)`,
		`CREATE INDEX prestage_events_errors ON prestage_events (received) WHERE severity >= 2`,
	},
}

// version returns the version of the schema that is there, 0 if there is none.
func (l *Ledger) version(ctx context.Context, db query) (n int, err error) {
	if err := db.QueryRowContext(ctx, l.dialect.version).Scan(&n); err != nil || n == 0 {
		return 0, err
	}
	err = db.QueryRowContext(ctx, "SELECT version FROM prestage_schema").Scan(&n)
	return n, err
}

func checkNewer(have, known int) error {
	if have > known {
		return fmt.Errorf("%w: its schema is %d, and this version knows those up to %d", ErrNewer, have, known)
	}
	return nil
}

// migrate brings the schema to the newest version, or leaves all as it was.
func (l *Ledger) migrate(ctx context.Context, all []migration) error {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if l.dialect.lock != "" {
		if _, err := tx.ExecContext(ctx, l.dialect.lock); err != nil {
			return err
		}
	}
	have, err := l.version(ctx, tx)
	if err != nil {
		return err
	}
	if err := checkNewer(have, len(all)); err != nil || have == len(all) {
		return err
	}
	if have == 0 {
		var others int
		if err := tx.QueryRowContext(ctx, l.dialect.tables).Scan(&others); err != nil {
			return err
		}
		if others > 0 {
			return fmt.Errorf("%w, but another program's", ErrForeign)
		}
		for _, q := range []string{"CREATE TABLE prestage_schema (version INTEGER NOT NULL)", "INSERT INTO prestage_schema (version) VALUES (0)"} {
			if _, err := tx.ExecContext(ctx, q); err != nil {
				return err
			}
		}
	}
	for n, m := range all[have:] {
		for _, q := range m {
			if _, err := tx.ExecContext(ctx, strings.ReplaceAll(q, "SERIAL", l.dialect.serial)); err != nil {
				return fmt.Errorf("to version %d of the schema: %w", have+n+1, err)
			}
		}
	}
	if _, err := tx.ExecContext(ctx, l.dialect.sql("UPDATE prestage_schema SET version = ?"), len(all)); err != nil {
		return err
	}
	return tx.Commit()
}

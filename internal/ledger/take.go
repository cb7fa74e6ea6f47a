package ledger

import (
	"cmp"
	"context"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"time"

	"prestage/internal/event"
)

// Bounds of what is written at once. Reports that come while others are being
// written wait and are then written together: one sync of the disk is for all of
// them.
const (
	mostWaiting = 4_096 // reports; those beyond are to come again
	mostReports = 256   // in a transaction
	mostEvents  = 10_000
	mostRows    = 100 // in a statement
	writeTime   = 20 * time.Second
)

// take is a report that waits to be written.
type take struct {
	reader   string
	received time.Time
	report   *event.Report
	done     chan error // one
}

// Take keeps what a machine has told, of which reader told it. When it returns an
// acknowledgement, the report is on the disk. A report that comes again counts once.
// What another reader has told of a machine of the same name is another machine's.
// After an error it may or may not have been kept; it wraps ErrBusy when there is
// too much to do.
func (l *Ledger) Take(ctx context.Context, reader string, received time.Time, r *event.Report) (event.Ack, error) {
	if l.write == nil {
		return event.Ack{}, l.fail(errors.New("it was opened to be read"))
	}
	t := &take{reader, received, r, make(chan error, 1)}
	select {
	case <-l.closing:
		return event.Ack{}, l.fail(ErrClosed)
	case l.takes <- t:
	default:
		return event.Ack{}, l.fail(ErrBusy)
	}
	select {
	case err := <-t.done:
		if err != nil {
			return event.Ack{}, l.fail(err)
		}
	case <-ctx.Done():
		return event.Ack{}, ctx.Err()
	case <-l.ended: // perhaps it was still written, but it will come again
		return event.Ack{}, l.fail(ErrClosed)
	}
	var ack event.Ack
	if n := len(r.Events); n > 0 {
		ack.Number = r.Events[n-1].Number
	}
	return ack, nil
}

// writer writes what waits, all that has come meanwhile at once.
func (l *Ledger) writer() {
	defer close(l.ended)
	for {
		var batch []*take
		select {
		case t := <-l.takes:
			batch = append(batch, t)
		case <-l.closing:
			select { // what had come before
			case t := <-l.takes:
				batch = append(batch, t)
			default:
				return
			}
		}
		for events := len(batch[0].report.Events); len(batch) < mostReports && events < mostEvents; {
			select {
			case t := <-l.takes:
				batch = append(batch, t)
				events += len(t.report.Events)
				continue
			default:
			}
			break
		}
		l.keepAll(batch)
	}
}

// keepAll writes reports, and tells those who wait what came of it.
func (l *Ledger) keepAll(batch []*take) {
	// Other servers may write the same machines: who takes rows in order waits for
	// them, and not they for him too.
	slices.SortStableFunc(batch, func(a, b *take) int {
		return cmp.Or(strings.Compare(a.reader, b.reader), strings.Compare(a.report.Machine, b.report.Machine))
	})
	ctx, cancel := context.WithTimeout(context.Background(), writeTime)
	defer cancel()
	err := l.keep(ctx, batch)
	if err != nil && isCut(err) {
		err = l.keep(ctx, batch)
	}
	if err != nil && len(batch) > 1 && l.dialect.blames(err) {
		for _, t := range batch { // one spoils it for the others
			t.done <- l.keep(ctx, []*take{t})
		}
		return
	}
	for _, t := range batch {
		t.done <- err
	}
}

// keep writes reports, all or none.
func (l *Ledger) keep(ctx context.Context, batch []*take) error {
	if now := l.place.stat(); l.file != nil && (now == nil || !os.SameFile(l.file, now)) {
		return errMoved
	}
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if l.dialect.mustBe != "" {
		if _, err := tx.ExecContext(ctx, l.dialect.mustBe); err != nil {
			return err
		}
	}
	events := rows{into: "prestage_events (machine, number, clock, kind, received, severity, category, description, host, person, image, version, digest, fetched)"}
	held := map[int64][]event.Held{} // by machine; the last report of one counts
	for _, t := range batch {
		r := t.report
		id, changed, err := l.keepMachine(ctx, tx, t)
		if err != nil {
			return err
		}
		if changed {
			held[id] = r.Held
		}
		for i := range r.Events {
			e := &r.Events[i]
			events.add(id, int64(e.Number), e.Time.UnixMilli(), int64(e.Kind), t.received.UnixMilli(), rank(e.Severity), e.Category, e.Description,
				r.Host, cmp.Or(e.User, r.User), e.Image, int64(e.Version), e.Digest, e.Fetched)
		}
	}
	if err := keepHeld(ctx, tx, l.dialect, held); err != nil {
		return err
	}
	if err := events.insert(ctx, tx, l.dialect); err != nil {
		return err
	}
	return tx.Commit()
}

// keepMachine writes what a machine is, and returns what it is called in other
// tables. If it holds something else than before, that is forgotten, for what it
// holds now to be written.
func (l *Ledger) keepMachine(ctx context.Context, tx *sql.Tx, t *take) (id int64, changed bool, err error) {
	r := t.report
	var had string
	err = tx.QueryRowContext(ctx, l.dialect.sql(`INSERT INTO prestage_machines (reader, machine, host, person, client, system, seen, clock, held)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, '')
		ON CONFLICT (reader, machine) DO UPDATE SET host = excluded.host, person = excluded.person, client = excluded.client,
			system = excluded.system, seen = excluded.seen, clock = excluded.clock
		RETURNING id, held`), t.reader, r.Machine, r.Host, r.User, r.Client, r.System, t.received.UnixMilli(), r.Time.UnixMilli()).Scan(&id, &had)
	has := digest(r.Held)
	if err != nil || has == had {
		return id, false, err
	}
	if had != "" {
		if _, err := tx.ExecContext(ctx, l.dialect.sql("DELETE FROM prestage_held WHERE machine = ?"), id); err != nil {
			return id, false, err
		}
	}
	_, err = tx.ExecContext(ctx, l.dialect.sql("UPDATE prestage_machines SET held = ? WHERE id = ?"), has, id)
	return id, true, err
}

// keepHeld writes what machines hold, of which nothing is there.
func keepHeld(ctx context.Context, tx *sql.Tx, d *dialect, held map[int64][]event.Held) error {
	list := rows{into: "prestage_held (machine, image, version, staged, digest, since)"}
	for id, versions := range held {
		for _, h := range versions {
			staged := 0
			if h.Staged {
				staged = 1
			}
			list.add(id, h.Image, int64(h.Version), staged, h.Digest, h.Time.UnixMilli())
		}
	}
	return list.insert(ctx, tx, d)
}

// digest tells lists of versions apart, "" is that of none: most reports tell of the
// same as the one before.
func digest(held []event.Held) string {
	if len(held) == 0 {
		return ""
	}
	h := sha256.New()
	json.NewEncoder(h).Encode(held) // plain data, and a hash takes all
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// rank is a severity as a number: the worst is the greatest.
func rank(s event.Severity) int { return slices.Index(severities, s) }

var severities = []event.Severity{"", event.Information, event.Warning, event.Error}

// rows are to be inserted; those that are there already stay as they are.
type rows struct {
	into   string
	values [][]any
}

func (r *rows) add(values ...any) { r.values = append(r.values, values) }

func (r *rows) insert(ctx context.Context, tx *sql.Tx, d *dialect) error {
	for part := range slices.Chunk(r.values, mostRows) {
		row := "(" + strings.Repeat("?, ", len(part[0])-1) + "?)"
		q := "INSERT INTO " + r.into + " VALUES " + row + strings.Repeat(", "+row, len(part)-1) + " ON CONFLICT DO NOTHING"
		if _, err := tx.ExecContext(ctx, d.sql(q), slices.Concat(part...)...); err != nil {
			return err
		}
	}
	return nil
}

// Prune forgets events that were received before a time, and machines that were not
// heard of since; it returns how many events that was. It goes in steps, between
// which others write.
func (l *Ledger) Prune(ctx context.Context, before time.Time) (events int64, err error) {
	if l.write == nil {
		return 0, l.fail(errors.New("it was opened to be read"))
	}
	const step = 2_000
	for {
		n, err := l.delete(ctx, "DELETE FROM prestage_events WHERE id IN (SELECT id FROM prestage_events WHERE received < ? ORDER BY received LIMIT ?)", before, step)
		events += n
		if err != nil {
			return events, l.fail(err)
		}
		if n < step {
			break
		}
	}
	for {
		n, err := l.forget(ctx, before, step)
		if err != nil || n < step {
			return events, l.fail(err)
		}
	}
}

func (l *Ledger) delete(ctx context.Context, q string, before time.Time, step int64) (int64, error) {
	done, err := l.write.ExecContext(ctx, l.dialect.sql(q), before.UnixMilli(), step)
	if err != nil {
		return 0, err
	}
	return done.RowsAffected()
}

// forget forgets machines, at most step of them, together with what they hold.
func (l *Ledger) forget(ctx context.Context, before time.Time, step int64) (int64, error) {
	tx, err := l.write.BeginTx(ctx, nil)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	old, err := tx.QueryContext(ctx, l.dialect.sql("DELETE FROM prestage_machines WHERE id IN (SELECT id FROM prestage_machines WHERE seen < ? ORDER BY id LIMIT ?) AND seen < ? RETURNING id"),
		before.UnixMilli(), step, before.UnixMilli())
	if err != nil {
		return 0, err
	}
	var ids []any
	for old.Next() {
		var id int64
		if err := old.Scan(&id); err != nil {
			return 0, err
		}
		ids = append(ids, id)
	}
	if err := old.Err(); err != nil {
		return 0, err
	}
	for part := range slices.Chunk(ids, 500) {
		q := "DELETE FROM prestage_held WHERE machine IN (?" + strings.Repeat(", ?", len(part)-1) + ")"
		if _, err := tx.ExecContext(ctx, l.dialect.sql(q), part...); err != nil {
			return 0, err
		}
	}
	return int64(len(ids)), tx.Commit()
}

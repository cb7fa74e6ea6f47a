package ledger

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"time"

	"prestage/internal/event"
)

// Filter says what somebody wants to see. The zero value of each field is all.
// Texts are compared without regard to the case of ASCII letters; * stands for any
// characters.
type Filter struct {
	Since    time.Time // received since then, by the server's clock
	User     string
	Host     string
	Image    string
	Severity event.Severity // of events, and worse ones
	Category string         // of events

	Limit  int // 0: all
	Offset int // how many to leave out before
}

// Standing is what a machine has told last, of one of the versions that it holds.
type Standing struct {
	Time    time.Time `json:"time"` // when it told something last, by the server's clock
	User    string    `json:"user"`
	Host    string    `json:"host"`
	Image   string    `json:"image,omitempty"` // "": it holds none
	Version uint32    `json:"version,omitempty"`
	Digest  string    `json:"digest,omitempty"`
	Staged  bool      `json:"staged,omitempty"` // as a package, not as an image that can be started
	Since   time.Time `json:"since,omitzero"`   // when it got that, by its clock
	Client  string    `json:"client"`
	System  string    `json:"system"`
	Online  bool      `json:"online"`

	Machine string `json:"machine"` // which tells machines apart
	Reader  string `json:"reader"`  // who said that it is that machine
}

// Entry is something that has happened on a machine.
type Entry struct {
	Kind        event.Kind     `json:"event_id"`
	Severity    event.Severity `json:"severity"`
	Category    string         `json:"category"`
	Description string         `json:"description"`
	Received    time.Time      `json:"received"` // by the server's clock
	Time        time.Time      `json:"time"`     // by the machine's
	Host        string         `json:"host"`
	User        string         `json:"user"`
	Image       string         `json:"image,omitempty"`
	Version     uint32         `json:"version,omitempty"`
	Digest      string         `json:"digest,omitempty"`
	Fetched     int64          `json:"fetched,omitempty"`

	Number  uint64 `json:"number"`
	Machine string `json:"machine"`
	Reader  string `json:"reader"`
}

// conditions are what a filter comes to.
type conditions struct {
	d     *dialect
	terms []string
	args  []any
}

func (c *conditions) add(term string, args ...any) {
	c.terms = append(c.terms, term)
	c.args = append(c.args, args...)
}

// like adds that a column is like a text.
func (c *conditions) like(column, pattern string) {
	if pattern == "" {
		return
	}
	// Of ASCII alone, as both databases do it: what is no ASCII is compared as it is.
	lower := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' {
			return r + 'a' - 'A'
		}
		return r
	}, pattern)
	escaped := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`, `*`, `%`).Replace(lower)
	c.add(fmt.Sprintf(c.d.fold, column)+` LIKE ? ESCAPE '\'`, escaped)
}

func (c *conditions) since(column string, t time.Time) {
	if !t.IsZero() {
		c.add(column+" >= ?", t.UnixMilli())
	}
}

// end is the rest of a query: conditions, order and limits.
func (c *conditions) end(order string, f *Filter) string {
	q := ""
	if len(c.terms) > 0 {
		q = " WHERE " + strings.Join(c.terms, " AND ")
	}
	q += " ORDER BY " + order
	limit := int64(f.Limit)
	if limit <= 0 {
		limit = 1 << 62
	}
	c.args = append(c.args, limit, max(f.Offset, 0))
	return q + " LIMIT ? OFFSET ?"
}

// Status returns what machines have told last, those first that did so last: a
// machine once for each version that it holds, or once if it holds none.
func (l *Ledger) Status(ctx context.Context, f Filter) iter.Seq2[Standing, error] {
	c := &conditions{d: l.dialect}
	c.since("m.seen", f.Since)
	c.like("m.person", f.User)
	c.like("m.host", f.Host)
	c.like("h.image", f.Image)
	q := `SELECT m.seen, m.person, m.host, COALESCE(h.image, ''), COALESCE(h.version, 0), COALESCE(h.digest, ''), COALESCE(h.staged, 0), COALESCE(h.since, 0),
		m.client, m.system, m.machine, m.reader
		FROM prestage_machines m LEFT JOIN prestage_held h ON h.machine = m.id` + c.end("m.seen DESC, m.id, h.image, h.version DESC, h.staged", &f)
	online := time.Now().Add(-OnlineWithin)
	return each(ctx, l, q, c.args, func(scan func(...any) error) (s Standing, err error) {
		var seen, since int64
		var staged int
		err = scan(&seen, &s.User, &s.Host, &s.Image, &s.Version, &s.Digest, &staged, &since, &s.Client, &s.System, &s.Machine, &s.Reader)
		s.Time, s.Staged = instant(seen), staged != 0
		if s.Image != "" {
			s.Since = instant(since)
		}
		s.Online = s.Time.After(online)
		return s, err
	})
}

// Activity returns what has happened on machines, what was received last first.
func (l *Ledger) Activity(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	c := &conditions{d: l.dialect}
	c.since("e.received", f.Since)
	c.like("e.person", f.User)
	c.like("e.host", f.Host)
	c.like("e.image", f.Image)
	c.like("e.category", f.Category)
	if n := rank(f.Severity); n > 1 {
		c.add(fmt.Sprintf("e.severity >= %d", n)) // as it is: the index of errors says so
	}
	q := `SELECT e.kind, e.severity, e.category, e.description, e.received, e.clock, e.host, e.person, e.image, e.version, e.digest, e.fetched, e.number,
		COALESCE(m.machine, ''), COALESCE(m.reader, '')
		FROM prestage_events e LEFT JOIN prestage_machines m ON m.id = e.machine` + c.end("e.received DESC, e.id DESC", &f)
	return each(ctx, l, q, c.args, func(scan func(...any) error) (e Entry, err error) {
		var received, clock, number int64
		var severity int
		err = scan(&e.Kind, &severity, &e.Category, &e.Description, &received, &clock, &e.Host, &e.User, &e.Image, &e.Version, &e.Digest, &e.Fetched, &number, &e.Machine, &e.Reader)
		e.Received, e.Time, e.Number = instant(received), instant(clock), uint64(number)
		if severity > 0 && severity < len(severities) {
			e.Severity = severities[severity]
		}
		return e, err
	})
}

// Errors is Activity of what went wrong: warnings and errors.
func (l *Ledger) Errors(ctx context.Context, f Filter) iter.Seq2[Entry, error] {
	if rank(f.Severity) < rank(event.Warning) {
		f.Severity = event.Warning
	}
	return l.Activity(ctx, f)
}

func instant(ms int64) time.Time { return time.UnixMilli(ms).UTC() }

// each returns what a query finds, one after the other: it may be much. What is seen
// is the state of one moment.
func each[T any](ctx context.Context, l *Ledger, q string, args []any, read func(scan func(...any) error) (T, error)) iter.Seq2[T, error] {
	return func(yield func(T, error) bool) {
		var none T
		found, err := l.read.QueryContext(ctx, l.dialect.sql(q), args...)
		if err != nil {
			yield(none, l.fail(err))
			return
		}
		defer found.Close()
		for found.Next() {
			v, err := read(found.Scan)
			if err != nil {
				yield(none, l.fail(err))
				return
			}
			if !yield(v, nil) {
				return
			}
		}
		if err := found.Err(); err != nil {
			yield(none, l.fail(err))
		}
	}
}

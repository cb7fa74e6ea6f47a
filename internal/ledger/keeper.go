package ledger

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"sync"
	"time"

	"prestage/internal/event"
)

// Keeper keeps a ledger open for a server, whatever becomes of the database: it is
// opened as soon as it can be, and again after it was damaged and mended, or
// replaced. What is too old is forgotten.
type Keeper struct {
	place  place
	oldest time.Duration
	log    *slog.Logger

	mu     sync.Mutex
	ledger *Ledger // nil: it cannot be used
	why    error   // then
	said   string  // of what goes wrong, "" if nothing does
	when   time.Time

	broken chan struct{} // it must be opened anew
	tried  chan struct{} // it was opened once, or could not be
	cancel context.CancelFunc
	ended  chan struct{}
	waits  waits
	clock  *clock
}

// waits is how long a keeper waits.
type waits struct {
	again, againMost time.Duration // before it tries to open a database that could not be opened
	prune            time.Duration // between times of forgetting
	even             time.Duration // that a clock must not have been set ahead before it says what is old
	repeat           time.Duration // before it says again what goes wrong
	first            time.Duration // for the database, before the server starts without
}

var usualWaits = waits{again: time.Second, againMost: time.Minute, prune: time.Hour, even: time.Hour, repeat: 10 * time.Minute, first: 3 * time.Second}

// Bounds say how much a keeper keeps. The zero value is no bound.
type Bounds struct {
	Oldest time.Duration // events that are older are forgotten
	Most   int64         // bytes of a file, about: what would make it larger is refused
}

// Keep begins to keep the ledger at where, see Open, within bounds. What goes wrong
// with the database is told to log, with what to do about it, and ends nothing; only
// a where that cannot be understood is an error.
func Keep(where string, b Bounds, log *slog.Logger) (*Keeper, error) {
	return keep(where, b, log, usualWaits)
}

func keep(where string, b Bounds, log *slog.Logger, w waits) (*Keeper, error) {
	p, err := parsePlace(where)
	if err != nil {
		return nil, err
	}
	p.most = b.Most
	ctx, cancel := context.WithCancel(context.Background())
	k := &Keeper{place: p, oldest: b.Oldest, log: log, why: ErrBusy, waits: w, clock: newClock(), broken: make(chan struct{}, 1), tried: make(chan struct{}), cancel: cancel, ended: make(chan struct{})}
	go k.run(ctx)
	select {
	case <-k.tried:
	case <-time.After(w.first):
	}
	return k, nil
}

// Close ends the keeper, after what was begun.
func (k *Keeper) Close() error {
	k.cancel()
	<-k.ended
	return nil
}

// Take is Ledger.Take.
func (k *Keeper) Take(ctx context.Context, reader string, received time.Time, r *event.Report) (event.Ack, error) {
	k.mu.Lock()
	l, why := k.ledger, k.why
	k.mu.Unlock()
	if l == nil {
		return event.Ack{}, why
	}
	ack, err := l.Take(ctx, reader, received, r)
	switch {
	case err == nil:
		k.fine()
	case ctx.Err() != nil:
	default:
		k.complain(err)
		if errors.Is(err, ErrDamaged) || errors.Is(err, errMoved) {
			k.giveUp(l, err)
		}
	}
	return ack, err
}

// giveUp has the database opened anew.
func (k *Keeper) giveUp(l *Ledger, why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.ledger == l {
		k.ledger, k.why = nil, why
		k.broken <- struct{}{}
	}
}

// complain says what goes wrong, and what to do, but not with each report.
func (k *Keeper) complain(err error) {
	kind := err.Error()
	for _, known := range []error{ErrDamaged, ErrFull, ErrBusy, ErrNewer, ErrForeign, fs.ErrPermission} {
		if errors.Is(err, known) {
			kind = known.Error()
		}
	}
	k.mu.Lock()
	quiet := k.said == kind && time.Since(k.when) < k.waits.repeat
	if !quiet {
		k.said, k.when = kind, time.Now()
	}
	k.mu.Unlock()
	if quiet {
		return
	}
	text := fmt.Sprintf("no events of machines are taken, packages are still served: %v", err)
	if advice := Advice(err); advice != "" {
		text += "; " + advice
	}
	k.log.Error(text)
}

// fine notes that the database works.
func (k *Keeper) fine() {
	k.mu.Lock()
	said := k.said
	k.said = ""
	k.mu.Unlock()
	if said != "" {
		k.log.Info(fmt.Sprintf("events of machines are taken again, into %s", k.place))
	}
}

// run opens the database, again and again if need be, and forgets what is old.
func (k *Keeper) run(ctx context.Context) {
	defer close(k.ended)
	first := sync.OnceFunc(func() { close(k.tried) })
	defer first()
	var suspect fs.FileInfo // the file, as it was when it was found to be damaged
	doubt := false          // it was damaged
	for wait := k.waits.again; ctx.Err() == nil; wait = min(2*wait, k.waits.againMost) {
		var err error
		if now := k.place.stat(); suspect == nil || now == nil || !same(suspect, now) {
			suspect = nil
			err = k.use(ctx, doubt, first)
			if errors.Is(err, ErrDamaged) || errors.Is(err, ErrForeign) {
				suspect, doubt = k.place.stat(), true
			}
		}
		first()
		if errors.Is(err, errMoved) {
			wait = k.waits.again / 2
			continue
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
	}
}

// same reports whether a file is as it was.
func same(a, b fs.FileInfo) bool {
	return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

// use opens the database and keeps it open until it cannot be used, or until the
// keeper ends.
func (k *Keeper) use(ctx context.Context, doubt bool, opened func()) error {
	l, err := k.place.open(ctx, true)
	if err == nil && doubt {
		if err = l.check(ctx); err != nil {
			l.Close()
		}
	}
	k.mu.Lock()
	k.ledger, k.why = l, err
	if err != nil {
		k.ledger = nil
	}
	k.mu.Unlock()
	if err != nil {
		if ctx.Err() == nil {
			k.complain(err)
		}
		return err
	}
	defer l.Close()
	k.fine()
	k.log.Info(fmt.Sprintf("events of machines are kept in %s", l))
	opened()
	for {
		k.prune(ctx, l)
		select {
		case <-ctx.Done():
			k.mu.Lock()
			k.ledger, k.why = nil, ErrClosed
			k.mu.Unlock()
			return nil
		case <-k.broken:
			k.mu.Lock()
			defer k.mu.Unlock()
			return k.why
		case <-time.After(k.waits.prune):
		}
	}
}

func (k *Keeper) prune(ctx context.Context, l *Ledger) {
	// A clock that was set to another year by mistake, or that is not set yet, would
	// have all of them forgotten.
	now, even := k.clock.runsEvenly(k.waits.even)
	if k.oldest <= 0 || !even {
		return
	}
	n, err := l.Prune(ctx, now.Add(-k.oldest))
	if err != nil && ctx.Err() == nil {
		k.complain(fmt.Errorf("forgetting old events: %w", err))
	}
	if n > 0 {
		k.log.Info(fmt.Sprintf("%d events older than %d days were forgotten", n, int(k.oldest.Hours()/24)))
	}
}

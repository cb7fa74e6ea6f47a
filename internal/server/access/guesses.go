package access

import (
	"container/list"
	"context"
	"crypto/sha256"
	"fmt"
	"sync"
	"time"
)

// GuessError says that a client has sent so many wrong passwords that for some time
// none is looked at.
type GuessError struct{ Wait time.Duration }

// Error implements error.
func (e GuessError) Error() string {
	return fmt.Sprintf("too many wrong passwords; try again in %v", e.Wait.Round(time.Second/10))
}

// leniency is how many wrong passwords are taken for mistakes.
type leniency struct {
	wrong  int
	forget time.Duration // without a pause, until one of them is forgotten
}

// A person needs no more for one name. Behind one address there may be many people.
var (
	ofUser   = leniency{5, 5 * time.Minute}
	ofClient = leniency{50, time.Minute}
)

// The pause after the first wrong password too many; each further one doubles it.
const (
	leastPause = time.Second
	mostPause  = 5 * time.Minute
	doublings  = 9 // from the least pause to the most
)

// mostGuesses is how many clients, and users of clients, with wrong passwords are
// remembered. Nobody can have others forgotten from few addresses: what is taken from a
// client is for all names together.
const mostGuesses = 10_000

// guesses slows those who guess passwords. What counts is the user's name as said by
// one client: who guesses elsewhere locks nobody out. And the client, whatever names
// it says. While there is a pause, a right password is refused too, or the answer
// would tell which one it is.
//
// Tokens are not slowed: they are 256 random bits, which nobody guesses, and checking
// one costs no more than saying no.
type guesses struct {
	code func(parts ...string) [sha256.Size]byte // of bounded size, whatever clients send

	mu       sync.Mutex
	known    map[[sha256.Size]byte]*list.Element // of order
	order    *list.List                          // of *guess; who was wrong last comes last
	checking map[[sha256.Size]byte]int           // passwords of a client that are being checked
	turns    *turns
}

// guess is what was wrong.
type guess struct {
	key   [sha256.Size]byte
	of    leniency
	wrong int
	since time.Time // from when on they are forgotten
	until time.Time // nothing is looked at
}

func newGuesses(code func(parts ...string) [sha256.Size]byte) *guesses {
	return &guesses{code: code, known: map[[sha256.Size]byte]*list.Element{}, order: list.New(),
		checking: map[[sha256.Size]byte]int{}, turns: newTurns()}
}

// try returns whether a user's password is right, as proven and check say, of which
// the first is fast. The error is a GuessError if that is not asked.
func (g *guesses) try(ctx context.Context, client, user string, proven func() bool, check func() (bool, error)) (bool, error) {
	of, all := g.code(client, user), g.code(client)
	// One after another: else a thousand guesses are made before the first is wrong.
	leave, err := g.turns.take(ctx, of)
	if err != nil {
		return false, err
	}
	defer leave()
	if ok, err := g.admit(of, all, proven); ok || err != nil {
		return ok, err
	}
	ok, err := check()
	g.count(of, all, ok, err)
	return ok, err
}

// admit returns whether a password is proven, or whether it is to be checked: then
// count must follow.
func (g *guesses) admit(of, all [sha256.Size]byte, proven func() bool) (ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	if wait := max(g.pause(of, now), g.pause(all, now)); wait > 0 {
		return false, GuessError{wait}
	}
	if proven() {
		g.drop(of)
		return true, nil
	}
	g.checking[all]++
	return false, nil
}

// count counts what came of checking a password.
func (g *guesses) count(of, all [sha256.Size]byte, ok bool, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.checking[all]--; g.checking[all] == 0 {
		delete(g.checking, all)
	}
	switch {
	case err != nil: // nobody knows
	case ok:
		g.drop(of) // not what the client has said of other names
	default:
		now := time.Now()
		g.add(of, ofUser, now)
		g.add(all, ofClient, now)
	}
}

// pause returns for how long nothing is looked at.
func (g *guesses) pause(key [sha256.Size]byte, now time.Time) time.Duration {
	wrong, allowed := 0, ofClient.wrong
	if e := g.known[key]; e != nil {
		c := e.Value.(*guess)
		if wait := c.until.Sub(now); wait > 0 {
			return wait
		}
		c.forget(now)
		wrong, allowed = c.wrong, c.of.wrong
	}
	if n := g.checking[key]; n > 0 && wrong+n >= allowed { // each of them may be wrong
		return leastPause
	}
	return 0
}

// add counts a wrong password.
func (g *guesses) add(key [sha256.Size]byte, of leniency, now time.Time) {
	e := g.known[key]
	if e == nil {
		if g.order.Len() >= mostGuesses {
			g.drop(g.order.Front().Value.(*guess).key)
		}
		e = g.order.PushBack(&guess{key: key, of: of})
		g.known[key] = e
	}
	g.order.MoveToBack(e)
	c := e.Value.(*guess)
	c.forget(now)
	if c.wrong == 0 {
		c.since = now
	}
	c.wrong = min(c.wrong+1, of.wrong+doublings)
	if over := c.wrong - of.wrong; over >= 0 {
		c.until = now.Add(min(leastPause<<over, mostPause))
		c.since = c.until
	}
}

func (g *guesses) drop(key [sha256.Size]byte) {
	if e := g.known[key]; e != nil {
		g.order.Remove(e)
		delete(g.known, key)
	}
}

// forget forgets what was wrong long ago.
func (c *guess) forget(now time.Time) {
	n := int(max(0, now.Sub(c.since)) / c.of.forget)
	c.wrong = max(0, c.wrong-n)
	c.since = c.since.Add(time.Duration(n) * c.of.forget)
}

package access

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// guesser asks a gate for alice and others, whose passwords are all secret.
type guesser struct {
	*Gate
	t *testing.T
}

// whileGuessing runs a test in which time is what the test makes of it.
func whileGuessing(t *testing.T, test func(t *testing.T, g guesser)) {
	t.Helper()
	users := file(t, user(t, "alice", "secret")+user(t, "bob", "secret"))
	synctest.Test(t, func(t *testing.T) { test(t, guesser{newGate(t, Config{Users: users}), t}) })
}

// is asks, and checks what comes of it: let in, not let in, or, when it is not looked
// at, for how long.
func (g guesser) is(client, name, password string, want any) {
	g.t.Helper()
	reader, err := g.Identify(basic(name, password), client)
	var guess GuessError
	var got any = err == nil && reader == Reader("user:"+name)
	if errors.As(err, &guess) {
		got = guess.Wait
	} else if err != nil && !errors.Is(err, ErrUnknown) {
		g.t.Error(err)
	}
	if got != want {
		g.t.Errorf("%s as %s with %q: %v, want %v", client, name, password, got, want)
	}
}

// busy has no password checked: who would be waits for ever, which ends the test.
func (g guesser) busy(do func()) {
	g.t.Helper()
	for len(g.proven.turn) < cap(g.proven.turn) {
		g.proven.turn <- struct{}{}
	}
	do()
	for len(g.proven.turn) > 0 {
		<-g.proven.turn
	}
}

func TestGuesses(t *testing.T) {
	whileGuessing(t, func(t *testing.T, g guesser) {
		// Five are free, then each wrong one doubles the pause.
		for range 5 {
			g.is("a", "alice", "wrong", false)
		}
		for _, pause := range []time.Duration{1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300} {
			pause *= time.Second
			g.busy(func() {
				g.is("a", "alice", "wrong", pause)
				time.Sleep(pause - time.Millisecond)
				g.is("a", "alice", "other", time.Millisecond)
				g.is("a", "alice", "secret", time.Millisecond)
			})
			time.Sleep(time.Millisecond)
			g.is("a", "alice", "wrong", false)
		}
		// It is about this name, from there: not others, nor the name from elsewhere.
		g.is("a", "bob", "secret", true)
		g.is("b", "alice", "secret", true)
		// A password that was right elsewhere is not told from others by a client that guesses.
		g.busy(func() { g.is("a", "alice", "secret", 5*time.Minute) })
		// Then the right one counts, and all before it is forgotten.
		time.Sleep(5 * time.Minute)
		g.is("a", "alice", "secret", true)
		for range 5 {
			g.is("a", "alice", "wrong", false)
		}
		g.is("a", "alice", "wrong", time.Second)
	})
}

// Who there is not can be guessed at no faster.
func TestGuessesAtNobody(t *testing.T) {
	whileGuessing(t, func(t *testing.T, g guesser) {
		for range 5 {
			g.is("a", "eve", "secret", false)
		}
		g.is("a", "eve", "secret", time.Second)
	})
}

// What was wrong long ago is forgotten.
func TestGuessesAreForgotten(t *testing.T) {
	whileGuessing(t, func(t *testing.T, g guesser) {
		for range 20 { // now and then
			g.is("a", "alice", "wrong", false)
			time.Sleep(ofUser.forget)
		}
		for range 3 {
			for range 5 {
				g.is("a", "alice", "wrong", false)
			}
			g.is("a", "alice", "wrong", time.Second)
			time.Sleep(leastPause + 5*ofUser.forget)
		}
	})
}

// A client that says many names is slowed as a whole; others are not.
func TestGuessesOfManyNames(t *testing.T) {
	whileGuessing(t, func(t *testing.T, g guesser) {
		for i := range ofClient.wrong {
			g.is("a", fmt.Sprint("eve", i), "secret", false)
			if i%10 == 0 { // its own password helps it to no more
				g.is("a", "bob", "secret", true)
			}
		}
		g.busy(func() {
			g.is("a", "eve", "secret", time.Second)
			g.is("a", "bob", "secret", time.Second)
			g.is("b", "bob", "secret", true)
		})
		time.Sleep(time.Second)
		g.is("a", "another", "secret", false)
		g.is("a", "bob", "secret", 2*time.Second)
		time.Sleep(time.Hour)
		g.is("a", "bob", "secret", true)
		for i := range ofClient.wrong {
			g.is("a", fmt.Sprint("eve", i), "secret", false)
		}
		g.is("a", "eve", "secret", time.Second)
	})
}

// Guesses that are made at once are not more than those that are made in turn; and
// who is right at once, as a client that fetches several files is, is let in.
func TestGuessesAtOnce(t *testing.T) {
	whileGuessing(t, func(t *testing.T, g guesser) {
		at := func(n int, name, password func(i int) string) (in, out, slowed int) {
			t.Helper()
			var mu sync.Mutex
			var wait sync.WaitGroup
			for i := range n {
				wait.Go(func() {
					_, err := g.Identify(basic(name(i), password(i)), "a")
					mu.Lock()
					defer mu.Unlock()
					var guess GuessError
					switch {
					case err == nil:
						in++
					case errors.As(err, &guess):
						slowed++
					default:
						out++
					}
				})
			}
			wait.Wait()
			return in, out, slowed
		}
		say := func(s string) func(int) string { return func(int) string { return s } }
		number := func(i int) string { return fmt.Sprint(i) }
		if in, out, slowed := at(200, say("alice"), say("secret")); in != 200 {
			t.Errorf("who is right: %d in, %d out, %d slowed", in, out, slowed)
		}
		if in, out, slowed := at(200, say("alice"), number); in != 0 || out != 5 {
			t.Errorf("who guesses: %d in, %d out, %d slowed", in, out, slowed)
		}
		time.Sleep(time.Hour)
		if in, out, slowed := at(200, number, say("secret")); in != 0 || out > ofClient.wrong || slowed == 0 {
			t.Errorf("who says many names: %d in, %d out, %d slowed", in, out, slowed)
		}
		if n := len(g.guesses.turns.each) + len(g.guesses.checking); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// A password that nobody has checked was not wrong.
func TestGuessesInterrupted(t *testing.T) {
	whileGuessing(t, func(t *testing.T, g guesser) {
		g.busy(func() {
			for range 2 * ofClient.wrong {
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				_, err := g.Identify(basic("alice", "secret").WithContext(ctx), "a")
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Fatal(err)
				}
				cancel()
			}
		})
		g.is("a", "alice", "secret", true)
		if n := len(g.guesses.turns.each) + len(g.guesses.checking) + len(g.guesses.known); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// What is remembered has bounds, and those who were wrong last are.
func TestGuessesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newProven()
		g := newGuesses(p.code)
		wrong := func(client string) error {
			_, err := g.try(t.Context(), client, "alice", func() bool { return false }, func() (bool, error) { return false, nil })
			return err
		}
		for range 5 {
			must(t, wrong("first"))
			must(t, wrong("second"))
		}
		for i := range mostGuesses {
			must(t, wrong(fmt.Sprint(i)))
			if i == mostGuesses/4 {
				time.Sleep(time.Second)
				must(t, wrong("second"))
			}
			if len(g.known) > mostGuesses || g.order.Len() != len(g.known) {
				t.Fatalf("%d, %d are remembered", len(g.known), g.order.Len())
			}
			if i == mostGuesses/2 {
				if err := wrong("second"); err == nil {
					t.Error("who was wrong a short time ago is forgotten")
				}
			}
		}
		must(t, wrong("first")) // forgotten
	})
}

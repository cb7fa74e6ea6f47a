package access

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"sync"

	"golang.org/x/crypto/bcrypt"
)

// mostCost is the highest cost of a hash that is taken: 65,536 rounds, seconds of
// a processor.
const mostCost = 16

// users are names and the bcrypt hashes of their passwords.
type users struct {
	hashes map[string][]byte
	decoy  []byte // checked for those that there are not: it takes as long
}

// parseUsers reads a file as htpasswd -B writes it.
func parseUsers(b []byte) (users, error) {
	u := users{hashes: map[string][]byte{}}
	cost := bcrypt.DefaultCost
	err := lines(b, func(name, hash string) error {
		c, err := bcrypt.Cost([]byte(hash))
		switch {
		case err != nil:
			return fmt.Errorf("user %q: only bcrypt is taken; use htpasswd -B", name)
		case c > mostCost:
			return fmt.Errorf("user %q: a hash of cost %d takes too long to check; use one of at most %d", name, c, mostCost)
		case u.hashes[name] != nil:
			return fmt.Errorf("user %q is there twice", name)
		}
		u.hashes[name], cost = []byte(hash), c
		return nil
	})
	if err != nil {
		return users{}, err
	}
	u.decoy, err = decoy(cost)
	return u, err
}

var (
	decoyLock sync.Mutex
	decoys    = map[int][]byte{}
)

// decoy returns the hash of a password that nobody knows.
func decoy(cost int) ([]byte, error) {
	decoyLock.Lock()
	defer decoyLock.Unlock()
	if decoys[cost] == nil {
		hash, err := bcrypt.GenerateFromPassword([]byte(rand.Text()), cost)
		if err != nil {
			return nil, err
		}
		decoys[cost] = hash
	}
	return decoys[cost], nil
}

// proven remembers which passwords were right: a client asks with the same one
// hundreds of times, and bcrypt is slow on purpose. It keeps no password, but a
// code that only this process can make.
type proven struct {
	key  []byte
	turn chan struct{} // held while a password is checked: others need processors too

	mu    *sync.Mutex
	codes map[[sha256.Size]byte]bool
}

// mostProven is how many passwords are remembered.
const mostProven = 20_000

func newProven() proven {
	return proven{
		key: []byte(rand.Text()), turn: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		mu: new(sync.Mutex), codes: map[[sha256.Size]byte]bool{},
	}
}

// knows reports whether a password is the user's and was found right before.
func (p *proven) knows(u users, name, password string) bool {
	hash, known := u.hashes[name]
	return known && p.has(p.code(name, password, string(hash)))
}

// check reports whether a password is the user's.
func (p *proven) check(ctx context.Context, u users, name, password string) (bool, error) {
	hash, known := u.hashes[name]
	if !known {
		hash = u.decoy
	}
	code := p.code(name, password, string(hash))
	if p.has(code) {
		return true, nil
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return false, interrupted(ctx)
	}
	if p.has(code) { // another request of the same client was before
		return true, nil
	}
	if bcrypt.CompareHashAndPassword(hash, []byte(password)) != nil || !known {
		return false, nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.codes) >= mostProven {
		clear(p.codes)
	}
	p.codes[code] = true
	return true, nil
}

func (p *proven) has(code [sha256.Size]byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.codes[code]
}

// code is of name, password and hash: another hash makes it another one.
func (p *proven) code(parts ...string) (code [sha256.Size]byte) {
	m := hmac.New(sha256.New, p.key)
	for _, s := range parts {
		fmt.Fprintf(m, "%d:%s", len(s), s)
	}
	m.Sum(code[:0])
	return code
}

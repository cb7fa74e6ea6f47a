//go:build !windows

package ticket

import (
	"context"
	"sync"
)

// Renew says how one gets a new ticket.
const Renew = "get a new one with kinit"

// Tokens are tokens of SPNEGO for whom the program runs as: by the user's credential
// cache, on Windows by the account itself. The zero value is ready for use.
type Tokens struct {
	mu    sync.Mutex
	cache *Cache // nil: there was no ticket yet
}

// Token returns what tells a service, as in HTTP/images.example, once, who we are.
// The error wraps ErrNone or ErrRefused, unless the KDC does not answer.
func (t *Tokens) Token(ctx context.Context, service string) ([]byte, error) {
	c, err := t.open()
	if err != nil {
		return nil, err
	}
	return c.Token(ctx, service)
}

func (t *Tokens) open() (*Cache, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.cache == nil {
		c, err := Open()
		if err != nil {
			return nil, err
		}
		t.cache = c
	}
	return t.cache, nil
}

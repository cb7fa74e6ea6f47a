package ticket

import (
	"context"
	"fmt"
	"strings"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"
)

// grant is a ticket for a service.
type grant struct {
	client *client.Client // which has it
	ticket messages.Ticket
	key    types.EncryptionKey
}

// Service gets the ticket for a service, as in cifs/pc-001, and returns a client
// that has it. The error wraps ErrNone or ErrRefused, unless the KDC does not
// answer.
func (c *Cache) Service(ctx context.Context, service string) (*client.Client, error) {
	g, err := c.grant(ctx, service)
	return g.client, err
}

// Token returns what tells a service, once, whose ticket it is: a token of SPNEGO
// (RFC 4178). The errors are those of Service.
func (c *Cache) Token(ctx context.Context, service string) ([]byte, error) {
	g, err := c.grant(ctx, service)
	if err != nil {
		return nil, err
	}
	// To the service, two that were made in the same microsecond are one.
	c.sealing.Lock()
	defer c.sealing.Unlock()
	t, err := spnego.NewKRB5TokenAPREQ(g.client, g.ticket, g.key, []int{gssapi.ContextFlagInteg, gssapi.ContextFlagConf}, nil)
	if err != nil {
		return nil, err
	}
	b, err := t.Marshal()
	if err != nil {
		return nil, err
	}
	return wrap(b)
}

func (c *Cache) grant(ctx context.Context, service string) (grant, error) {
	from, err := c.current()
	if err != nil {
		return grant{}, err
	}
	type answer struct {
		grant
		err error
	}
	done := make(chan answer, 1)
	go func() { // it does not end with ctx, but after some seconds
		t, key, err := from.GetServiceTicket(service)
		done <- answer{grant{from, t, key}, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
		return grant{}, ctx.Err()
	}
	if a.err == nil {
		return a.grant, nil
	}
	for code, what := range advice {
		if text := errorcode.Lookup(code); strings.Contains(a.err.Error(), text) { // it has no type
			return grant{}, refusal{fmt.Errorf("a ticket of %s for %s: %s (%s)", c.User(), service, what, text)}
		}
	}
	return grant{}, fmt.Errorf("a ticket of %s for %s: %w; see whether /etc/krb5.conf or the DNS name a KDC that can be reached", c.User(), service, a.err)
}

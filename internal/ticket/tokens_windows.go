package ticket

import (
	"context"
	"errors"
	"fmt"
)

// Renew says how one gets a new ticket.
const Renew = "drop the old one with klist purge"

// Tokens are tokens of SPNEGO for whom the program runs as. The zero value is ready
// for use.
type Tokens struct{}

// Token returns what tells a service, as in HTTP/images.example, once, who we are.
func (*Tokens) Token(context.Context, string) ([]byte, error) {
	return nil, fmt.Errorf("%w: the tickets of Windows are not used; name a user in the URL, or give a token: %w", ErrNone, errors.ErrUnsupported)
}

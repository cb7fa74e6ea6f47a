package ticket

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/alexbrainman/sspi"
)

// Renew says how one gets a new ticket.
const Renew = "drop the old one with klist purge"

// Tokens are tokens of SPNEGO for whom the program runs as: a service as LocalSystem
// is the machine. The zero value is ready for use.
type Tokens struct{}

// mostToken is how many bytes a token may have: the most that Windows can be set to.
const mostToken = 65535

// Token returns what tells a service, as in HTTP/images.example, once, who we are.
// The error wraps ErrNone or ErrRefused, unless no domain controller answers.
func (*Tokens) Token(ctx context.Context, service string) ([]byte, error) {
	type answer struct {
		token []byte
		err   error
	}
	done := make(chan answer, 1)
	go func() { // it does not end with ctx, but after some seconds
		token, err := systemToken(service)
		done <- answer{token, err}
	}()
	select {
	case a := <-done:
		return a.token, a.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// systemToken has Windows make a token. It asks for Kerberos by name: what Windows
// negotiates may be NTLM, which could be passed on to others.
func systemToken(service string) ([]byte, error) {
	own, err := sspi.AcquireCredentials("", sspi.MICROSOFT_KERBEROS_NAME, sspi.SECPKG_CRED_OUTBOUND, nil)
	if err != nil {
		return nil, explain(service, err)
	}
	defer own.Release()
	name, err := syscall.UTF16PtrFromString(service)
	if err != nil {
		return nil, err
	}
	var out [1]sspi.SecBuffer
	out[0].Set(sspi.SECBUFFER_TOKEN, make([]byte, mostToken))
	c := sspi.NewClientContext(own, sspi.ISC_REQ_CONNECTION)
	if code := c.Update(name, sspi.NewSecBufferDesc(out[:]), nil); code != sspi.SEC_E_OK {
		return nil, explain(service, code)
	}
	defer c.Release()
	return wrap(out[0].Bytes())
}

// Codes of SSPI that are no ticket (winerror.h).
const (
	secTargetUnknown = syscall.Errno(0x80090303)
	secNoCredentials = syscall.Errno(0x8009030e)
	secNoAuthority   = syscall.Errno(0x80090311)
	secTimeSkew      = syscall.Errno(0x80090324)
)

// explain says what an error of SSPI means for a service's ticket.
func explain(service string, err error) error {
	var code syscall.Errno
	errors.As(err, &code)
	err = fmt.Errorf("a ticket for %s: %w (%#x)", service, err, uint32(code))
	switch code {
	case secNoCredentials:
		return fmt.Errorf("%w: %w; the account that this runs as must be of a domain: a service, as LocalSystem, is the machine", ErrNone, err)
	case secNoAuthority:
		return fmt.Errorf("%w; see whether a domain controller can be reached", err)
	case secTargetUnknown:
		return refusal{fmt.Errorf("%w; the domain knows no such service: name the server as the domain does, or add the name to its account with setspn", err)}
	case secTimeSkew:
		return refusal{fmt.Errorf("%w; check the clock here", err)}
	}
	return refusal{err}
}

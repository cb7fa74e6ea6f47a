package smbhost

import (
	"context"
	"errors"
	"fmt"
	"net"

	smb2 "github.com/cloudsoda/go-smb2"
	"github.com/jcmturner/gokrb5/v8/spnego"

	"prestage/internal/host"
	"prestage/internal/ticket"
)

// ticketInitiator logs on to a machine with a ticket, and notes how the machine
// refuses it.
type ticketInitiator struct {
	smb2.Krb5Initiator
	refusal error
}

// newTicketInitiator gets the ticket for a machine. Kerberos knows machines by name.
func newTicketInitiator(ctx context.Context, cache *ticket.Cache, machine string) (*ticketInitiator, error) {
	if net.ParseIP(machine) != nil {
		return nil, fmt.Errorf("%w: Kerberos knows machines by their names and not by addresses such as %s; write NAME address=%[2]s into a hosts file", host.ErrLogon, machine)
	}
	spn := "cifs/" + machine
	c, err := cache.Service(ctx, spn)
	if errors.Is(err, ticket.ErrNone) || errors.Is(err, ticket.ErrRefused) {
		return nil, fmt.Errorf("%w: %w", host.ErrLogon, err)
	}
	if err != nil {
		return nil, err
	}
	return &ticketInitiator{Krb5Initiator: smb2.Krb5Initiator{Client: c, TargetSPN: spn}}, nil
}

// AcceptSecContext implements smb2.Initiator.
func (i *ticketInitiator) AcceptSecContext(b []byte) ([]byte, error) {
	var t spnego.KRB5Token
	if err := t.Unmarshal(b); err == nil && t.IsKRBError() {
		what := ticket.Advice(t.KRBError.ErrorCode)
		if what == "" {
			what = "it does not accept the ticket"
		}
		i.refusal = fmt.Errorf("%s: %s: %w", i.TargetSPN, what, t.KRBError)
		return nil, i.refusal
	}
	return i.Krb5Initiator.AcceptSecContext(b)
}

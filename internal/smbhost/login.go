package smbhost

import (
	"context"
	"errors"
	"fmt"
	"strings"

	smb2 "github.com/cloudsoda/go-smb2"

	"prestage/internal/host"
)

// logon negotiates and logs on.
func (h *Host) logon(ctx context.Context) error {
	o := h.o
	var initiator smb2.Initiator
	var k *ticketInitiator
	if o.Kerberos != nil {
		var err error
		if k, err = newTicketInitiator(ctx, o.Kerberos, o.Name); err != nil {
			return err
		}
		initiator = k
	} else {
		n := &smb2.NTLMInitiator{User: o.User, Password: o.Password}
		if domain, user, ok := strings.Cut(o.User, `\`); ok {
			n.Domain, n.User = domain, user
		}
		initiator = n
	}
	err := h.negotiate(ctx, initiator)
	if err == nil {
		return nil
	}
	c, _ := h.conn.guard.loggedOn() // the library's own errors do not always have the code
	switch {
	case errors.Is(err, ErrProtocol), h.conn.gone.Load():
		return fmt.Errorf("logging on to %s: %w", o.Name, err)
	case k != nil && k.refusal != nil:
		err = k.refusal
	case k != nil && c == statusLogonFailure:
		err = fmt.Errorf("%s does not know %s, or cannot read the Kerberos ticket (if its key has changed, get a new one with kinit): %w", o.Name, o.Kerberos.User(), err)
	case k != nil && c != 0 && c != statusMoreProcessing:
		err = fmt.Errorf("%s does not accept the Kerberos ticket of %s%s: %w", o.Name, o.Kerberos.User(), because(c), err)
	case k == nil && refusals[c] != "":
		err = fmt.Errorf("user %s%s: %w", o.User, because(c), err)
	default:
		return fmt.Errorf("logging on to %s: %w", o.Name, err)
	}
	return fmt.Errorf("%w: %w", host.ErrLogon, err)
}

// negotiate negotiates the protocol and logs on with an initiator.
func (h *Host) negotiate(ctx context.Context, i smb2.Initiator) error {
	d := &smb2.Dialer{MaxCreditBalance: 512, Negotiator: smb2.Negotiator{RequireMessageSigning: true}, Initiator: i}
	s, err := called(h, func() (*smb2.Session, error) { return d.DialConn(ctx, h.conn, h.o.Address) })
	if err == nil {
		h.session = s.WithContext(h.life)
		_, h.encrypted = h.conn.guard.loggedOn()
	}
	return err
}

// NTSTATUS codes that refuse a logon (MS-ERREF 2.3.1).
const (
	statusNoSuchUser         = 0xc0000064
	statusAccountRestriction = 0xc000006e
	statusLogonHours         = 0xc000006f
	statusWorkstation        = 0xc0000070
	statusTimeDifference     = 0xc0000133
	statusLogonType          = 0xc000015b
	statusAccountExpired     = 0xc0000193
	statusMustChange         = 0xc0000224
	statusNTLMBlocked        = 0xc0000418
)

// refusals says what the codes mean to whoever reads of it.
var refusals = map[uint32]string{
	statusLogonFailure:       "unknown, or the password is wrong",
	statusNoSuchUser:         "unknown",
	statusAccountRestriction: "the account may not log on like that; members of Protected Users log on with Kerberos only (kinit), and an empty password is refused",
	statusLogonHours:         "the account may not log on at this time of day",
	statusWorkstation:        "the account may not log on from here",
	statusPasswordExpired:    "the password has expired; change it",
	statusMustChange:         "the password must be changed first",
	statusAccountDisabled:    "the account is disabled",
	statusAccountExpired:     "the account has expired",
	statusAccountLocked:      "the account is locked",
	statusLogonType:          "policy does not let the account log on over the network",
	statusTimeDifference:     "the clocks differ too much; set the clock here, and that of the machine",
	statusNTLMBlocked:        "NTLM is turned off there; log on with Kerberos (kinit)",
}

func because(code uint32) string {
	if r := refusals[code]; r != "" {
		return ": " + r
	}
	return ""
}

// Package ticket is the user's Kerberos ticket, and those for services that are
// got with it.
package ticket

import (
	"errors"

	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/spnego"
)

// ErrNone says that there is no Kerberos ticket that could be used.
var ErrNone = errors.New("no Kerberos ticket")

// ErrRefused says that the KDC gives no ticket for a service.
var ErrRefused = errors.New("the KDC gives no ticket")

// refusal is an error that is ErrRefused.
type refusal struct{ error }

func (r refusal) Is(target error) bool { return target == ErrRefused }

// Advice returns what an error code of Kerberos (RFC 4120, 7.5.9) means and what to
// do about it, or "".
func Advice(code int32) string { return advice[code] }

var advice = map[int32]string{
	errorcode.KDC_ERR_S_PRINCIPAL_UNKNOWN: "the domain has no machine of that name; name it as the domain does",
	errorcode.KDC_ERR_CLIENT_REVOKED:      "the account is disabled or locked",
	errorcode.KDC_ERR_TGT_REVOKED:         "the ticket was revoked; get one with kinit",
	errorcode.KDC_ERR_ETYPE_NOSUPP:        "the domain and this program have no encryption in common",
	errorcode.KRB_AP_ERR_TKT_EXPIRED:      "the ticket has expired; get one with kinit",
	errorcode.KRB_AP_ERR_TKT_NYV:          "the ticket is not valid yet; check the clock here, and that of the machine",
	errorcode.KRB_AP_ERR_SKEW:             "the clocks differ too much; check the clock here, and that of the machine",
	errorcode.KRB_AP_ERR_MODIFIED:         "the machine cannot read the ticket: another machine answers at its address, or it has lost the trust of the domain",
	errorcode.KRB_AP_ERR_BADKEYVER:        "the key of the machine has changed; get a new ticket with kinit",
	errorcode.KRB_AP_ERR_NOKEY:            "the key of the machine has changed; get a new ticket with kinit",
}

// wrap returns a token of Kerberos (RFC 4121) as the first one of SPNEGO.
func wrap(token []byte) ([]byte, error) {
	t := spnego.SPNEGOToken{Init: true, NegTokenInit: spnego.NegTokenInit{MechTokenBytes: token}}
	t.NegTokenInit.MechTypes = append(t.NegTokenInit.MechTypes, gssapi.OIDKRB5.OID())
	return t.Marshal()
}

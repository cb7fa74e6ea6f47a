package server

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// errRevoked says that who has signed a certificate has taken it back.
var errRevoked = errors.New("the certificate is revoked")

// revocations are certificates that count no more, although they have not expired,
// by the lists of those who signed them.
type revocations struct {
	lists   []list
	revoked map[certificateID]bool

	mu   sync.Mutex
	told map[certificateID]bool // of which the log knows
}

// list is what is said of a revocation list.
type list struct {
	issuer string
	until  time.Time // when there should be a later one, or zero
	told   *sync.Once
}

// certificateID tells a certificate from all others (RFC 5280, 4.1.2.2): who signed
// it, and the number that it has there.
type certificateID struct{ issuer, serial string }

// newRevocations returns what lists say that signers have signed.
func newRevocations(lists []*x509.RevocationList, signers []*x509.Certificate) (*revocations, error) {
	r := &revocations{revoked: map[certificateID]bool{}, told: map[certificateID]bool{}}
	for _, l := range lists {
		if err := checkList(l, signers); err != nil {
			return nil, fmt.Errorf("the revocation list of %q %w", l.Issuer, err)
		}
		r.lists = append(r.lists, list{l.Issuer.String(), l.NextUpdate, new(sync.Once)})
		for _, e := range l.RevokedCertificateEntries {
			r.revoked[certificateID{string(l.RawIssuer), e.SerialNumber.Text(16)}] = true
		}
	}
	return r, nil
}

// find returns a certificate that is revoked, if one is in each of the chains, from a
// client's certificate to those who are trusted; else nil.
func (r *revocations) find(chains [][]*x509.Certificate) (found *x509.Certificate) {
	for _, chain := range chains {
		i := slices.IndexFunc(chain, func(c *x509.Certificate) bool { return r.revoked[idOf(c)] })
		if i < 0 {
			return nil
		}
		found = chain[i]
	}
	return found
}

func idOf(c *x509.Certificate) certificateID {
	return certificateID{string(c.RawIssuer), c.SerialNumber.Text(16)}
}

// check returns an error if a connection is by a certificate that is revoked. The
// log has each of them once: whoever has a copy of one can have it refused for ever.
func (r *revocations) check(c tls.ConnectionState, log *slog.Logger) error {
	found := r.find(c.VerifiedChains)
	if found == nil {
		return nil
	}
	err := fmt.Errorf("%w: %q, serial number %X, of %q", errRevoked, found.Subject, found.SerialNumber, found.Issuer)
	r.mu.Lock()
	defer r.mu.Unlock()
	if id := idOf(found); !r.told[id] {
		r.told[id] = true
		log.Warn(fmt.Sprintf("a client is refused: %v", err))
	}
	return err
}

// tellOld tells the log, once, of lists that should have been followed by others.
// They stay in force: it is better that few are let in who should not be than that
// all are locked out.
func (r *revocations) tellOld(log *slog.Logger, now time.Time) {
	for _, l := range r.lists {
		if !l.until.IsZero() && now.After(l.until) {
			l.told.Do(func() {
				log.Warn(fmt.Sprintf("the revocation list of %q is old: there should have been another one by %s; it is used still, but who was revoked since is let in: fetch the latest",
					l.issuer, l.until.UTC().Format(time.RFC3339)))
			})
		}
	}
}

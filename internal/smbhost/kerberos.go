package smbhost

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"
	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/spnego"
	"github.com/jcmturner/gokrb5/v8/types"

	"prestage/internal/host"
)

// ErrNoTicket says that there is no Kerberos ticket that could be used.
var ErrNoTicket = errors.New("no Kerberos ticket")

// Kerberos logs on with the ticket in a credential cache, as kinit leaves it. It
// is for any number of machines at once. A cache that is renewed meanwhile is
// read again.
type Kerberos struct {
	file string

	mu     sync.Mutex
	seen   os.FileInfo // the file that was read
	client *client.Client
	user   string // USER@REALM
	until  time.Time
}

// OpenKerberos returns the user's credential cache: $KRB5CCNAME, or the one in
// /tmp. It fails with ErrNoTicket if there is none, or its ticket has expired.
// $KRB5_CONFIG or /etc/krb5.conf says where the KDCs are, or the DNS.
func OpenKerberos() (*Kerberos, error) {
	file, err := cacheFile(os.Getenv("KRB5CCNAME"))
	if err != nil {
		return nil, err
	}
	k := &Kerberos{file: file}
	_, err = k.current()
	return k, err
}

// cacheFile returns the file that a cache's name means.
func cacheFile(name string) (string, error) {
	if name == "" {
		return "/tmp/krb5cc_" + strconv.Itoa(os.Getuid()), nil
	}
	kind, path, ok := strings.Cut(name, ":")
	switch {
	case !ok || len(kind) == 1: // a drive of Windows
		return name, nil
	case kind == "FILE" || kind == "WRFILE":
		return path, nil
	}
	return "", fmt.Errorf("%w: a credential cache of the kind %s cannot be read here; have kinit write a file (KRB5CCNAME=FILE:…)", ErrNoTicket, kind)
}

// User returns whose ticket it is, as USER@REALM.
func (k *Kerberos) User() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.user
}

// Is reports whether the ticket is that of a user as people name them: user,
// user@realm, or DOMAIN\user, where DOMAIN is the realm or its first part.
func (k *Kerberos) Is(user string) bool {
	name, realm, _ := strings.Cut(k.User(), "@")
	if domain, u, ok := strings.Cut(user, `\`); ok {
		short, _, _ := strings.Cut(realm, ".")
		return strings.EqualFold(u, name) && (strings.EqualFold(domain, realm) || strings.EqualFold(domain, short))
	}
	if u, domain, ok := strings.Cut(user, "@"); ok {
		return strings.EqualFold(u, name) && strings.EqualFold(domain, realm)
	}
	return strings.EqualFold(user, name)
}

// current returns a client with the ticket of the cache as it is now.
func (k *Kerberos) current() (*client.Client, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	st, err := os.Stat(k.file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; get one with kinit", ErrNoTicket, err)
	}
	if k.seen == nil || !os.SameFile(st, k.seen) || !st.ModTime().Equal(k.seen.ModTime()) || st.Size() != k.seen.Size() {
		if err := k.read(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w; get one with kinit", ErrNoTicket, k.file, err)
		}
		k.seen = st
	}
	if !time.Now().Before(k.until) {
		return nil, fmt.Errorf("%w: that of %s in %s has expired at %s; get one with kinit", ErrNoTicket, k.user, k.file, k.until.Format("2006-01-02 15:04:05"))
	}
	return k.client, nil
}

// read reads the cache, whose reader takes it on trust.
func (k *Kerberos) read() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("it is not a credential cache")
		}
	}()
	cache, err := credentials.LoadCCache(k.file)
	if err != nil {
		return err
	}
	realm := cache.GetClientRealm()
	tgt, ok := cache.GetEntry(types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", realm}})
	if !ok {
		return errors.New("it has no ticket to get others with")
	}
	conf, err := kerberosConfig(realm)
	if err != nil {
		return err
	}
	c, err := client.NewFromCCache(cache, conf, client.DisablePAFXFAST(true))
	if err != nil {
		return err
	}
	k.client, k.until = c, tgt.EndTime
	k.user = cache.GetClientPrincipalName().PrincipalNameString() + "@" + realm
	return nil
}

// kerberosConfig returns the configuration of the system. A realm whose KDCs it
// does not name is asked of the DNS.
func kerberosConfig(realm string) (*config.Config, error) {
	c := config.New()
	files := filepath.SplitList(os.Getenv("KRB5_CONFIG"))
	if len(files) == 0 {
		files = []string{"/etc/krb5.conf"}
	}
	for _, file := range files {
		if _, err := os.Stat(file); errors.Is(err, os.ErrNotExist) {
			continue
		}
		read, err := config.Load(file)
		var unsupported config.UnsupportedDirective
		if err != nil && !errors.As(err, &unsupported) {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		c = read
		break
	}
	named := false
	for _, r := range c.Realms {
		named = named || r.Realm == realm && len(r.KDC) > 0
	}
	if !named {
		c.LibDefaults.DNSLookupKDC = true
	}
	return c, nil
}

// ticketInitiator logs on to a machine with a ticket, and notes how the machine
// refuses it.
type ticketInitiator struct {
	smb2.Krb5Initiator
	refusal error
}

// initiator gets the ticket for a machine. Kerberos knows machines by name.
func (k *Kerberos) initiator(ctx context.Context, machine string) (*ticketInitiator, error) {
	if net.ParseIP(machine) != nil {
		return nil, fmt.Errorf("%w: Kerberos knows machines by their names and not by addresses such as %s; write NAME address=%[2]s into a hosts file", host.ErrLogon, machine)
	}
	c, err := k.current()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", host.ErrLogon, err)
	}
	spn := "cifs/" + machine
	done := make(chan error, 1)
	go func() { // it does not end with ctx, but after some seconds
		_, _, err := c.GetServiceTicket(spn)
		done <- err
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err != nil {
		for code, what := range kerberosErrors {
			if text := errorcode.Lookup(code); strings.Contains(err.Error(), text) { // it has no type
				return nil, fmt.Errorf("%w: a ticket of %s for %s: %s (%s)", host.ErrLogon, k.User(), spn, what, text)
			}
		}
		return nil, fmt.Errorf("a ticket of %s for %s: %w; see whether /etc/krb5.conf or the DNS name a KDC that can be reached", k.User(), spn, err)
	}
	return &ticketInitiator{Krb5Initiator: smb2.Krb5Initiator{Client: c, TargetSPN: spn}}, nil
}

// kerberosErrors says what to do about errors of the KDC or the machine.
var kerberosErrors = map[int32]string{
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

// AcceptSecContext implements smb2.Initiator.
func (i *ticketInitiator) AcceptSecContext(b []byte) ([]byte, error) {
	var t spnego.KRB5Token
	if err := t.Unmarshal(b); err == nil && t.IsKRBError() {
		what := kerberosErrors[t.KRBError.ErrorCode]
		if what == "" {
			what = "it does not accept the ticket"
		}
		i.refusal = fmt.Errorf("%s: %s: %w", i.TargetSPN, what, t.KRBError)
		return nil, i.refusal
	}
	return i.Krb5Initiator.AcceptSecContext(b)
}

package ticket

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/jcmturner/gokrb5/v8/client"
	"github.com/jcmturner/gokrb5/v8/config"
	"github.com/jcmturner/gokrb5/v8/credentials"
	"github.com/jcmturner/gokrb5/v8/iana/nametype"
	"github.com/jcmturner/gokrb5/v8/types"
)

// Cache is a credential cache with a ticket, as kinit leaves it. It is for any
// number of services at once. A cache that is renewed meanwhile is read again.
type Cache struct {
	file string

	mu     sync.Mutex
	seen   os.FileInfo // the file that was read
	client *client.Client
	user   string // USER@REALM
	until  time.Time

	sealing sync.Mutex // while a token is made
}

// Open returns the user's credential cache: $KRB5CCNAME, or the one in /tmp. It
// fails with ErrNone if there is none, or its ticket has expired.
// $KRB5_CONFIG or /etc/krb5.conf says where the KDCs are, or the DNS.
func Open() (*Cache, error) {
	file, err := cacheFile(os.Getenv("KRB5CCNAME"))
	if err != nil {
		return nil, err
	}
	c := &Cache{file: file}
	_, err = c.current()
	return c, err
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
	return "", fmt.Errorf("%w: a credential cache of the kind %s cannot be read here; have kinit write a file (KRB5CCNAME=FILE:…)", ErrNone, kind)
}

// User returns whose ticket it is, as USER@REALM.
func (c *Cache) User() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.user
}

// Is reports whether the ticket is that of a user as people name them: user,
// user@realm, or DOMAIN\user, where DOMAIN is the realm or its first part.
func (c *Cache) Is(user string) bool {
	name, realm, _ := strings.Cut(c.User(), "@")
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
func (c *Cache) current() (*client.Client, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	st, err := os.Stat(c.file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w; get one with kinit", ErrNone, err)
	}
	if c.seen == nil || !os.SameFile(st, c.seen) || !st.ModTime().Equal(c.seen.ModTime()) || st.Size() != c.seen.Size() {
		if err := c.read(); err != nil {
			return nil, fmt.Errorf("%w: %s: %w; get one with kinit", ErrNone, c.file, err)
		}
		c.seen = st
	}
	if !time.Now().Before(c.until) {
		return nil, fmt.Errorf("%w: that of %s in %s has expired at %s; get one with kinit", ErrNone, c.user, c.file, c.until.Format("2006-01-02 15:04:05"))
	}
	return c.client, nil
}

// read reads the cache, whose reader takes it on trust.
func (c *Cache) read() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = errors.New("it is not a credential cache")
		}
	}()
	cache, err := credentials.LoadCCache(c.file)
	if err != nil {
		return err
	}
	realm := cache.GetClientRealm()
	tgt, ok := cache.GetEntry(types.PrincipalName{NameType: nametype.KRB_NT_SRV_INST, NameString: []string{"krbtgt", realm}})
	if !ok {
		return errors.New("it has no ticket to get others with")
	}
	conf, err := systemConfig(realm)
	if err != nil {
		return err
	}
	from, err := client.NewFromCCache(cache, conf, client.DisablePAFXFAST(true))
	if err != nil {
		return err
	}
	c.client, c.until = from, tgt.EndTime
	c.user = cache.GetClientPrincipalName().PrincipalNameString() + "@" + realm
	return nil
}

// systemConfig returns the configuration of the system. A realm whose KDCs it
// does not name is asked of the DNS.
func systemConfig(realm string) (*config.Config, error) {
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

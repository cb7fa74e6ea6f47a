package ticket

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"prestage/internal/krbtest"
)

func open(t *testing.T) *Cache {
	t.Helper()
	c, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func has(t *testing.T, err, kind error, want string) {
	t.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nshould be %q with %q", err, kind, want)
	}
}

func TestService(t *testing.T) {
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	r.AddUser(t, "alice")
	r.Keytab(t, "cifs/pc-001")
	r.Login(t, "root", "1h")
	c := open(t)
	if c.User() != "root@PRESTAGE.TEST" || !c.Is("root") || !c.Is(`prestage\Root`) || !c.Is("root@prestage.test") || c.Is("admin") || c.Is(`OTHER\root`) || c.Is("root@OTHER") {
		t.Errorf("the ticket is that of %s", c.User())
	}
	for range 2 {
		if _, err := c.Service(t.Context(), "cifs/pc-001"); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Service(t.Context(), "cifs/pc-unknown")
	has(t, err, ErrRefused, "the domain has no machine of that name")
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := c.Service(ended, "cifs/pc-002"); !errors.Is(err, context.Canceled) && !errors.Is(err, ErrRefused) {
		t.Errorf("interrupted: %v", err)
	}

	// Another user's ticket in the same place is noticed.
	r.Relogin(t, "alice", "1h")
	if _, err := c.Service(t.Context(), "cifs/pc-001"); err != nil || !c.Is("alice") {
		t.Errorf("the ticket is that of %s, %v", c.User(), err)
	}
	if err := os.Remove(c.file); err != nil {
		t.Fatal(err)
	}
	_, err = c.Service(t.Context(), "cifs/pc-001")
	has(t, err, ErrNone, "kinit")
}

// Tokens are for one use each, and there may be a ticket later.
func TestTokens(t *testing.T) {
	r := krbtest.Start(t)
	r.AddUser(t, "alice")
	r.Keytab(t, "HTTP/localhost")
	t.Setenv("KRB5CCNAME", r.Path("cache"))
	var tokens Tokens
	_, err := tokens.Token(t.Context(), "HTTP/localhost")
	has(t, err, ErrNone, "kinit")
	r.Relogin(t, "alice", "1h")
	seen := map[string]bool{}
	for range 3 {
		b, err := tokens.Token(t.Context(), "HTTP/localhost")
		if err != nil {
			t.Fatal(err)
		}
		seen[string(b)] = true
	}
	if len(seen) != 3 {
		t.Error("a token comes twice")
	}
	_, err = tokens.Token(t.Context(), "HTTP/elsewhere")
	has(t, err, ErrRefused, "HTTP/elsewhere")
}

func TestNone(t *testing.T) {
	none := func(name, want string) {
		t.Helper()
		t.Setenv("KRB5CCNAME", name)
		_, err := Open()
		has(t, err, ErrNone, want)
	}
	dir := t.TempDir()
	none("FILE:"+filepath.Join(dir, "none"), "kinit")
	none("KCM:1000", "KCM")
	for _, bytes := range []string{"", "\x05\x04", "hello", "\x05\x04\x00\x00\x00\x00\x00\x01\x7f\xff\xff\xff"} {
		broken := filepath.Join(dir, "broken")
		if err := os.WriteFile(broken, []byte(bytes), 0o600); err != nil {
			t.Fatal(err)
		}
		none(broken, "kinit")
	}
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	r.Login(t, "root", "6s")
	c := open(t)
	for end := time.Now().Add(time.Minute); time.Now().Before(c.until); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the ticket is valid until %v", c.until)
		}
	}
	none(os.Getenv("KRB5CCNAME"), "has expired")
	_, err := c.Service(t.Context(), "cifs/pc-001")
	has(t, err, ErrNone, "get one with kinit")
}

// A KDC whose clock differs too much, and one that is not there.
func TestKDCErrors(t *testing.T) {
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	r.Login(t, "root", "1h")
	kdc, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			c, err := kdc.Accept()
			if err != nil {
				return
			}
			e := messages.NewKRBError(types.PrincipalName{NameString: []string{"cifs", "pc-001"}}, krbtest.Name, errorcode.KRB_AP_ERR_SKEW, "")
			b, _ := e.Marshal()
			c.Read(make([]byte, 1<<16))
			c.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...))
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	conf, err := os.ReadFile(r.Path("krb5.conf"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(conf), "127.0.0.1:"+r.Port, kdc.Addr().String())
	text = strings.Replace(text, "[libdefaults]", "[libdefaults]\n udp_preference_limit = 1", 1)
	if err := os.WriteFile(r.Path("krb5.conf"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := open(t)
	_, err = c.Service(t.Context(), "cifs/pc-001")
	has(t, err, ErrRefused, "check the clock")
	kdc.Close()
	if _, err = c.Service(t.Context(), "cifs/pc-001"); err == nil || errors.Is(err, ErrRefused) || errors.Is(err, ErrNone) || !strings.Contains(err.Error(), "a KDC that can be reached") {
		t.Errorf("without a KDC: %v", err)
	}
}

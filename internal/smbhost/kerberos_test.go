package smbhost

import (
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"
	"github.com/jcmturner/gokrb5/v8/asn1tools"
	"github.com/jcmturner/gokrb5/v8/gssapi"
	"github.com/jcmturner/gokrb5/v8/iana/errorcode"
	"github.com/jcmturner/gokrb5/v8/messages"
	"github.com/jcmturner/gokrb5/v8/types"

	"prestage/internal/host"
	"prestage/internal/krbtest"
	"prestage/internal/prestage"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// startDomain starts a realm with users root and nobody, and a machine pc-001
// that takes its tickets, and those for names that are not its own.
func startDomain(t *testing.T, others ...string) (*krbtest.Realm, *sambatest.Server) {
	testenv.NeedRoot(t)
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	r.AddUser(t, "nobody")
	keys := r.Keytab(t, append([]string{"cifs/pc-001"}, others...)...)
	return r, sambatest.Start(t, "realm = "+krbtest.Name, "kerberos method = dedicated keytab", "dedicated keytab file = FILE:"+keys)
}

// openTicket opens the user's cache; there is no password in these tests.
func openTicket(t *testing.T) *Kerberos {
	t.Helper()
	k, err := OpenKerberos()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// dialTicket dials a machine by its name, with a ticket alone.
func dialTicket(t *testing.T, k *Kerberos, name, port string) (*Host, error) {
	h, err := Dial(t.Context(), Options{Name: name, Address: "127.0.0.1", Port: port, Kerberos: k})
	if err == nil {
		t.Cleanup(func() { h.Close() })
	}
	return h, err
}

// refused asserts an error that is host.ErrLogon and says what to do.
func refused(t *testing.T, err error, want string) {
	t.Helper()
	if !errors.Is(err, host.ErrLogon) || !strings.Contains(err.Error(), want) {
		t.Errorf("%v\nshould be host.ErrLogon with %q", err, want)
	}
}

func TestKerberos(t *testing.T) {
	r, s := startDomain(t, "cifs/pc-stale")
	r.Login(t, "root", "1h")
	k := openTicket(t)
	if k.User() != "root@PRESTAGE.TEST" || !k.Is("root") || !k.Is(`prestage\Root`) || !k.Is("root@prestage.test") || k.Is("admin") || k.Is(`OTHER\root`) || k.Is("root@OTHER") {
		t.Errorf("the ticket is that of %s", k.User())
	}
	h, err := dialTicket(t, k, "pc-001", s.Port)
	if err != nil {
		t.Fatal(err)
	}
	if !h.Encrypted() {
		t.Error("it is not encrypted")
	}
	if _, err := prestage.Setup(t.Context(), h, `C:\`, ""); err != nil {
		t.Fatal(err)
	}
	if st, err := prestage.GetStatus(t.Context(), h); err != nil || !st.OK() {
		t.Errorf("status %+v, %v", st, err)
	}

	_, err = dialTicket(t, k, "pc-unknown", s.Port)
	refused(t, err, "the domain has no machine of that name")
	_, err = dialTicket(t, k, "127.0.0.1", s.Port)
	refused(t, err, "Kerberos knows machines by their names")
	r.Change(t, "cifs/pc-stale")
	_, err = dialTicket(t, k, "pc-stale", s.Port)
	refused(t, err, "pc-stale")

	// Another user's ticket in the same place is noticed.
	t.Setenv("KRB5CCNAME", k.file)
	r.Relogin(t, "nobody", "1h")
	if h, err = dialTicket(t, k, "pc-001", s.Port); err != nil {
		t.Fatal(err)
	}
	if _, err := h.OpenWrite(t.Context(), `C:\MED-V Images\PrestagedImages\x.ckm`); !errors.Is(err, fs.ErrPermission) || !k.Is("nobody") {
		t.Errorf("an ordinary user, %s, who writes: %v", k.User(), err)
	}
	if err := os.Remove(k.file); err != nil {
		t.Fatal(err)
	}
	_, err = dialTicket(t, k, "pc-001", s.Port)
	refused(t, err, "kinit")
}

func TestNoTicket(t *testing.T) {
	noTicket := func(name, want string) {
		t.Helper()
		t.Setenv("KRB5CCNAME", name)
		if _, err := OpenKerberos(); !errors.Is(err, ErrNoTicket) || !strings.Contains(err.Error(), want) {
			t.Errorf("cache %q: %v, should have %q", name, err, want)
		}
	}
	dir := t.TempDir()
	noTicket("FILE:"+filepath.Join(dir, "none"), "kinit")
	noTicket("KCM:1000", "KCM")
	for _, bytes := range []string{"", "\x05\x04", "hello", "\x05\x04\x00\x00\x00\x00\x00\x01\x7f\xff\xff\xff"} {
		broken := filepath.Join(dir, "broken")
		if err := os.WriteFile(broken, []byte(bytes), 0o600); err != nil {
			t.Fatal(err)
		}
		noTicket(broken, "kinit")
	}
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	r.Login(t, "root", "2s")
	k := openTicket(t)
	for end := time.Now().Add(10 * time.Second); time.Now().Before(k.until); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the ticket is valid until %v", k.until)
		}
	}
	noTicket(os.Getenv("KRB5CCNAME"), "has expired")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	_, err = dialTicket(t, k, "pc-001", port)
	refused(t, err, "get one with kinit")
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
	machine, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	_, port, _ := net.SplitHostPort(machine.Addr().String())
	k := openTicket(t)
	_, err = dialTicket(t, k, "pc-001", port)
	refused(t, err, "check the clock")
	kdc.Close()
	if _, err = dialTicket(t, k, "pc-001", port); err == nil || errors.Is(err, host.ErrLogon) || errors.Is(err, host.ErrUnreachable) || !strings.Contains(err.Error(), "a KDC that can be reached") {
		t.Errorf("without a KDC: %v", err)
	}
}

// A machine says what is wrong with a ticket in Kerberos' own words.
func TestRefusedTicket(t *testing.T) {
	for code, want := range map[int32]string{errorcode.KRB_AP_ERR_SKEW: "check the clock", errorcode.KRB_AP_ERR_MODIFIED: "another machine answers",
		errorcode.KRB_AP_ERR_BADADDR: "it does not accept the ticket"} {
		e := messages.NewKRBError(types.PrincipalName{NameString: []string{"cifs", "pc-001"}}, krbtest.Name, code, "")
		b, err := e.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		token, err := asn1.Marshal(asn1.ObjectIdentifier(gssapi.OIDKRB5.OID()))
		if err != nil {
			t.Fatal(err)
		}
		i := &ticketInitiator{Krb5Initiator: smb2.Krb5Initiator{TargetSPN: "cifs/pc-001"}}
		_, err = i.AcceptSecContext(asn1tools.AddASNAppTag(append(append(token, 3, 0), b...), 0))
		if err == nil || i.refusal == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %d: %v, should have %q", code, err, want)
		}
	}
}

package smbhost

import (
	"bytes"
	"encoding/asn1"
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"testing"

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
	"prestage/internal/ticket"
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
func openTicket(t *testing.T) *ticket.Cache {
	t.Helper()
	k, err := ticket.Open()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// dialTicket dials a machine by its name, with a ticket alone.
func dialTicket(t *testing.T, k *ticket.Cache, name, port string) (*Host, error) {
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
	r.Relogin(t, "nobody", "1h")
	if h, err = dialTicket(t, k, "pc-001", s.Port); err != nil {
		t.Fatal(err)
	}
	if _, err := h.OpenWrite(t.Context(), `C:\MED-V Images\PrestagedImages\x.ckm`); !errors.Is(err, fs.ErrPermission) || !k.Is("nobody") {
		t.Errorf("an ordinary user, %s, who writes: %v", k.User(), err)
	}
	if err := os.Remove(strings.TrimPrefix(os.Getenv("KRB5CCNAME"), "FILE:")); err != nil {
		t.Fatal(err)
	}
	_, err = dialTicket(t, k, "pc-001", s.Port)
	refused(t, err, "kinit")
}

// A KDC that is not there is not the machine's refusal.
func TestNoKDC(t *testing.T) {
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	r.Login(t, "root", "1h")
	conf, err := os.ReadFile(r.Path("krb5.conf"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(r.Path("krb5.conf"), bytes.ReplaceAll(conf, []byte("127.0.0.1:"+r.Port), []byte("127.0.0.1:1")), 0o600); err != nil {
		t.Fatal(err)
	}
	machine, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer machine.Close()
	_, port, _ := net.SplitHostPort(machine.Addr().String())
	if _, err = dialTicket(t, openTicket(t), "pc-001", port); err == nil || errors.Is(err, host.ErrLogon) || errors.Is(err, host.ErrUnreachable) || !strings.Contains(err.Error(), "a KDC that can be reached") {
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

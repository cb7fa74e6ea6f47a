package access

import (
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jcmturner/gokrb5/v8/keytab"

	"prestage/internal/krbtest"
	"prestage/internal/server/reload"
	"prestage/internal/testenv"
)

// newKeytab is a keytab with a key that nobody has a ticket for.
func newKeytab(t testing.TB) *reload.Value[negotiator] {
	t.Helper()
	keys := keytab.New()
	must(t, keys.AddEntry("HTTP/localhost", krbtest.Name, "x", time.Unix(1e9, 0), 1, 18))
	b, err := keys.Marshal()
	must(t, err)
	v, err := open(slog.New(slog.DiscardHandler), "keytab", file(t, string(b)), parseKeytab)
	must(t, err)
	return v
}

// curl shows the ticket of a real KDC.
func TestNegotiate(t *testing.T) {
	testenv.NeedTime(t)
	testenv.Need(t, "curl")
	realm := krbtest.Start(t)
	realm.AddUser(t, "alice")
	keys := realm.Keytab(t, "HTTP/localhost")
	g := newGate(t, Config{Keytab: keys})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		who, err := g.Identify(r, "10.0.0.1")
		if err != nil || who == Nobody {
			g.Challenge(w.Header())
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.Write([]byte(who))
	}))
	defer s.Close()
	url := strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	get := func() string {
		t.Helper()
		out, err := exec.Command("curl", "--silent", "--noproxy", "*", "--ipv4", "--max-time", "30", "--negotiate", "--user", ":", "--write-out", "%{http_code}", url).CombinedOutput()
		must(t, err)
		return string(out)
	}
	t.Setenv("KRB5CCNAME", "FILE:"+realm.Path("none"))
	if got := get(); got != "401" {
		t.Errorf("without a ticket: %s", got)
	}
	realm.Login(t, "alice", "1h")
	const want = "kerberos:alice@" + krbtest.Name + "200"
	for range 2 {
		if got := get(); got != want {
			t.Errorf("with a ticket: %s", got)
		}
	}
	// Our keys are changed: tickets for the old ones are of no use.
	b, err := os.ReadFile(realm.Keytab(t, "HTTP/other"))
	must(t, err)
	must(t, os.WriteFile(keys, b, 0o600))
	if got := get(); got != "401" {
		t.Errorf("with another keytab: %s", got)
	}
}

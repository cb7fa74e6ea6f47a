// Package krbtest starts Kerberos KDCs for tests.
package krbtest

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// Name is the name of the realm.
const Name = "PRESTAGE.TEST"

// Password is the password of all users.
const Password = "Prestage-1!"

// Realm is a realm with a KDC on loopback.
type Realm struct {
	Dir  string // holds all that is its own
	Port string // of the KDC
}

// Start starts the KDC of a new realm. It ends with the test. Until then
// $KRB5_CONFIG leads to it, for the test and the programs that it starts.
//
// Tickets have no PAC, which only the KDC of a Windows domain could fill: a
// standalone Samba refuses tickets that have one.
func Start(t *testing.T) *Realm {
	t.Helper()
	testenv.Need(t, "krb5kdc", "kdb5_util", "kadmin.local", "kinit")
	r := &Realm{Dir: t.TempDir(), Port: freePort(t)}
	r.write(t, "krb5.conf", fmt.Sprintf(`[libdefaults]
 default_realm = %s
 dns_lookup_kdc = false
 rdns = false
[realms]
 %[1]s = {
  kdc = 127.0.0.1:%s
 }
`, Name, r.Port))
	r.write(t, "kdc.conf", fmt.Sprintf(`[kdcdefaults]
 kdc_listen = 127.0.0.1:%s
 kdc_tcp_listen = 127.0.0.1:%[1]s
[realms]
 %s = {
  database_name = %s/principal
  key_stash_file = %[3]s/stash
  acl_file = %[3]s/acl
  supported_enctypes = aes256-cts:normal
  disable_pac = true
 }
[logging]
 kdc = STDERR
`, r.Port, Name, r.Dir))
	t.Setenv("KRB5_CONFIG", r.Path("krb5.conf"))
	t.Setenv("KRB5_KDC_PROFILE", r.Path("kdc.conf"))
	t.Setenv("KRB5RCACHENAME", "none:") // services of tests leave no replay caches
	r.run(t, "", "kdb5_util", "create", "-s", "-r", Name, "-P", "master")
	kdc, _ := testenv.Look("krb5kdc")
	cmd := exec.Command(kdc, "-n")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("the KDC says:\n%s", out.Bytes())
		}
	})
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+r.Port)
		if err == nil {
			c.Close()
			return r
		}
		if time.Now().After(end) {
			t.Fatalf("the KDC does not listen: %v", err)
		}
	}
}

func freePort(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// Path returns the path of a file of the realm.
func (r *Realm) Path(elem ...string) string {
	return filepath.Join(append([]string{r.Dir}, elem...)...)
}

// AddUser adds a user, who has Password.
func (r *Realm) AddUser(t testing.TB, name string) {
	t.Helper()
	r.admin(t, "addprinc -pw "+Password+" "+name)
}

// Keytab adds services, as in cifs/pc-001, and returns a file with their keys.
func (r *Realm) Keytab(t testing.TB, services ...string) string {
	t.Helper()
	f, err := os.CreateTemp(r.Dir, "keytab-")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	os.Remove(f.Name())
	for _, s := range services {
		r.admin(t, "addprinc -randkey "+s)
		r.admin(t, "ktadd -norandkey -k "+f.Name()+" "+s)
	}
	return f.Name()
}

// Change gives services new keys: keytabs that have the old ones are stale.
func (r *Realm) Change(t testing.TB, services ...string) {
	t.Helper()
	for _, s := range services {
		r.admin(t, "cpw -randkey "+s)
	}
}

// Login gets a user's ticket and makes it the one that $KRB5CCNAME names, to
// the end of the test. A lifetime is as kinit has it, 10s for instance.
func (r *Realm) Login(t *testing.T, user, lifetime string) {
	t.Helper()
	t.Setenv("KRB5CCNAME", "FILE:"+r.Path("cache-"+user+"-"+lifetime))
	r.Relogin(t, user, lifetime)
}

// Relogin gets a user's ticket into the cache that $KRB5CCNAME names.
func (r *Realm) Relogin(t *testing.T, user, lifetime string) {
	t.Helper()
	r.run(t, Password+"\n", "kinit", "-l", lifetime, user)
}

// admin runs a command of kadmin.local, which exits with 0 even if it fails.
func (r *Realm) admin(t testing.TB, command string) {
	t.Helper()
	if out := r.run(t, "", "kadmin.local", "-q", command); strings.Contains(out, "kadmin.local: ") || strings.Contains(out, " while ") {
		t.Fatalf("kadmin.local: %s\n%s", command, out)
	}
}

func (r *Realm) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.WriteFile(r.Path(name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (r *Realm) run(t testing.TB, in string, args ...string) string {
	t.Helper()
	program, err := testenv.Look(args[0])
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, args[1:]...)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
	return string(out)
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/krbtest"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// Machines of a domain are set up with a ticket, and no password anywhere.
func TestFleetKerberos(t *testing.T) {
	testenv.NeedRoot(t)
	d := newDesk(t)
	r := krbtest.Start(t)
	r.AddUser(t, "root")
	keys := r.Keytab(t, "cifs/pc-001", "cifs/pc-002")
	hosts := ""
	var servers []*sambatest.Server
	for _, name := range []string{"pc-001", "pc-002"} {
		s := sambatest.Start(t, "realm = "+krbtest.Name, "kerberos method = dedicated keytab", "dedicated keytab file = FILE:"+keys)
		servers = append(servers, s)
		hosts += fmt.Sprintf("%s address=127.0.0.1 port=%s\n", name, s.Port)
	}
	domain := d.write(t, "domain.txt", hosts)
	mixed := d.write(t, "mixed.txt", strings.ReplaceAll(hosts, "\n", ` user=PRESTAGE\root`+"\n")+
		fmt.Sprintf("pc-003 address=127.0.0.1 port=%s\n127.0.0.1 port=%s\npc-004 address=127.0.0.1 port=%s user=admin\n",
			sambatest.Start(t).Port, sambatest.Start(t).Port, sambatest.Start(t).Port))
	d.write(t, "a.img", string(testenv.Text(1, 1<<20)))
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("nothing of %q in\n%s", w, out)
			}
		}
	}
	d.run(t, 0, nil, "pack", "a.img", "--name", "win11", "--images", "repo")

	t.Setenv("KRB5CCNAME", filepath.Join(d.dir, "cache"))
	says(d.run(t, 5, nil, "push", "win11", "--images", "repo", "--hosts", domain),
		"there is no password for root", "PRESTAGE_PASSWORD", "no Kerberos ticket", "kinit")
	r.Relogin(t, "root", "1h")
	d.run(t, 0, nil, "push", "win11", "--images", "repo", "--hosts", domain)
	for _, s := range servers {
		if _, err := os.Stat(s.Path("c", "MED-V Images", "PrestagedImages", "win11_1.index")); err != nil {
			t.Error(err)
		}
	}
	out := d.run(t, 5, nil, "status", "--hosts", mixed)
	says(out, "pc-001: already", "pc-002: already", "the domain has no machine of that name", "not by addresses such as 127.0.0.1",
		"there is no password for admin", "the Kerberos ticket is that of root@PRESTAGE.TEST", "3 of 5 machines need attention")

	// A password that is given wins.
	says(d.run(t, 5, []string{"PRESTAGE_PASSWORD=wrong"}, "status", "--hosts", domain), "user root: unknown, or the password is wrong", "Check the user and the password")
	d.run(t, 0, []string{"PRESTAGE_PASSWORD_COMMAND=sh " + d.write(t, "password.sh", "echo '"+sambatest.Password+"'\n")}, "status", "--hosts", domain)
}

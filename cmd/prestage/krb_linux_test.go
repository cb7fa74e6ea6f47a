package main

import (
	"fmt"
	"os"
	"os/exec"
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
	dir := t.TempDir()
	exe := filepath.Join(dir, "prestage")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("building: %v\n%s", err, out)
	}
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
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	domain := write("domain.txt", hosts)
	mixed := write("mixed.txt", strings.ReplaceAll(hosts, "\n", ` user=PRESTAGE\root`+"\n")+
		fmt.Sprintf("pc-003 address=127.0.0.1 port=%s\n127.0.0.1 port=%s\npc-004 address=127.0.0.1 port=%s user=admin\n",
			sambatest.Start(t).Port, sambatest.Start(t).Port, sambatest.Start(t).Port))
	write("a.img", string(testenv.Text(1, 1<<20)))
	run := func(wantCode int, env []string, args ...string) string {
		t.Helper()
		cmd := exec.Command(exe, args...)
		cmd.Dir = dir
		for _, v := range os.Environ() {
			if !strings.HasPrefix(v, "PRESTAGE_") {
				cmd.Env = append(cmd.Env, v)
			}
		}
		cmd.Env = append(append(cmd.Env, "PRESTAGE_CONFIG="+filepath.Join(dir, "none.toml")), env...)
		b, err := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != wantCode {
			t.Fatalf("prestage %s: exit code %d, want %d (%v)\n%s", strings.Join(args, " "), code, wantCode, err, b)
		}
		return string(b)
	}
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("nothing of %q in\n%s", w, out)
			}
		}
	}
	run(0, nil, "pack", "a.img", "--name", "win11", "--images", "repo")

	t.Setenv("KRB5CCNAME", filepath.Join(dir, "cache"))
	says(run(5, nil, "push", "win11", "--images", "repo", "--hosts", domain),
		"there is no password for root", "PRESTAGE_PASSWORD", "no Kerberos ticket", "kinit")
	r.Relogin(t, "root", "1h")
	run(0, nil, "push", "win11", "--images", "repo", "--hosts", domain)
	for _, s := range servers {
		if _, err := os.Stat(s.Path("c", "MED-V Images", "PrestagedImages", "win11_1.index")); err != nil {
			t.Error(err)
		}
	}
	out := run(5, nil, "status", "--hosts", mixed)
	says(out, "pc-001: already", "pc-002: already", "the domain has no machine of that name", "not by addresses such as 127.0.0.1",
		"there is no password for admin", "the Kerberos ticket is that of root@PRESTAGE.TEST", "3 of 5 machines need attention")

	// A password that is given wins.
	says(run(5, []string{"PRESTAGE_PASSWORD=wrong"}, "status", "--hosts", domain), "user root: unknown, or the password is wrong", "Check the user and the password")
	run(0, []string{"PRESTAGE_PASSWORD_COMMAND=sh " + write("password.sh", "echo '"+sambatest.Password+"'\n")}, "status", "--hosts", domain)
}

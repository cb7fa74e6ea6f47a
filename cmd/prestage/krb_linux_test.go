package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

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

// A server that knows readers and writers by tickets, and programs that have no more
// than one.
func TestServeKerberos(t *testing.T) {
	testenv.NeedTime(t)
	d := newDesk(t)
	r := krbtest.Start(t)
	r.AddUser(t, "alice")
	r.AddUser(t, "host/pc-001")
	authority := testenv.NewAuthority(t)
	cert, key := authority.Issue(t, "localhost", time.Hour)
	t.Setenv("SSL_CERT_FILE", authority.File)
	served, events := filepath.Join(d.dir, "served"), filepath.Join(d.dir, "events.db")
	if err := os.Mkdir(served, 0o755); err != nil {
		t.Fatal(err)
	}
	rights := d.write(t, "rights.toml", `[[allow]]
images = ["*"]
readers = ["kerberos:*@PRESTAGE.TEST"]
writers = ["kerberos:alice@PRESTAGE.TEST"]
`)
	server, _ := serving(t, d.exe, "serve", "--listen", "127.0.0.1:0", "--images", served, "--tls-cert", cert, "--tls-key", key,
		"--keytab", r.Keytab(t, "HTTP/localhost"), "--rights", rights, "--events", events)
	server = strings.Replace(server, "127.0.0.1", "localhost", 1)
	config := d.write(t, "prestage.toml", "")
	env := []string{"PRESTAGE_CONFIG=" + config}
	run := func(code int, args ...string) (out string) {
		t.Helper()
		return d.run(t, code, env, args...)
	}
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("nothing of %q in\n%s", w, out)
			}
		}
	}
	image := testenv.Random(1, 3<<20)
	pack := func() {
		t.Helper()
		image[1<<20]++
		d.write(t, "a.img", string(image))
		run(0, "pack", "a.img", "--name", "win11", "--images", "repo")
	}
	run(0, "setup", d.dir)
	pack()

	t.Setenv("KRB5CCNAME", r.Path("cache"))
	for _, args := range [][]string{{"list", "--images", server}, {"upload", "win11", "--images", "repo", "--to", server}, {"remove", "win11:1", "--images", server}} {
		says(run(1, args...), "the server refused: 401", "no Kerberos ticket", "get one with kinit")
	}
	says(run(4, "install", "win11", "--images", server), "the server refused: 401", "no Kerberos ticket", "get one with kinit")

	r.Relogin(t, "alice", "1h")
	says(run(0, "upload", "win11", "--images", "repo", "--to", server), "uploaded win11:1")
	says(run(0, "list", "--images", server), "win11")
	says(run(0, "install", "win11", "--images", server), server)
	pack()
	run(0, "upload", "win11", "--images", "repo", "--to", server)
	says(run(0, "update", "win11", "--images", server), "win11:2")
	if got, err := os.ReadFile(filepath.Join(d.dir, "MED-V Images", "win11", "2", "a.img")); err != nil || string(got) != string(image) {
		t.Errorf("another image: %v", err)
	}
	run(0, "remove", "win11:1", "--images", server)
	pack()
	run(0, "upload", "win11", "--images", "repo", "--to", server)

	// A machine has a ticket of its own, which is renewed while its agent runs.
	r.Relogin(t, "host/pc-001", "1h")
	says(run(1, "remove", "win11:2", "--images", server), "403", "kerberos:host/pc-001@PRESTAGE.TEST is no writer")
	run(0, "policy", "set", "win11", "--machines", "*", "--update", "force", "--images", served)
	d.write(t, "prestage.toml", fmt.Sprintf("server = %q\n", server)+read(t, config))
	agent := d.command(env, "agent", "run")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	until(t, "the agent has updated the image", func() bool {
		_, err := os.Stat(filepath.Join(d.dir, "MED-V Images", "win11", "3"))
		return err == nil
	})
	r.Relogin(t, "host/pc-001", "2s")
	var out string
	until(t, "the ticket has expired", func() bool {
		cmd := d.command(env, "list", "--images", server)
		b, _ := cmd.CombinedOutput()
		out = string(b)
		return cmd.ProcessState.ExitCode() != 0
	})
	says(out, "the server refused: 401", "that of host/pc-001@PRESTAGE.TEST", "has expired", "get one with kinit")
	run(1, "agent", "poll", "--wait", "1s")
	r.Relogin(t, "host/pc-001", "1h")
	run(0, "agent", "poll", "--wait", "2m")
	until(t, "the agent has told of the update", func() bool {
		out = run(0, "report", "activity", "--events", events, "--json")
		return strings.Contains(out, "win11:3")
	})
	says(out, `"reader":"kerberos:host/pc-001@PRESTAGE.TEST"`)
}

// A server that shows something to anyone, and more to whom it knows by tickets.
func TestServeKerberosAnyone(t *testing.T) {
	testenv.NeedTime(t)
	d := newDesk(t)
	says := func(out string, want ...string) {
		t.Helper()
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("nothing of %q in\n%s", w, out)
			}
		}
	}
	r := krbtest.Start(t)
	r.AddUser(t, "alice")
	r.AddUser(t, "host/pc-001")
	served, log := filepath.Join(d.dir, "served"), filepath.Join(d.dir, "log")
	pack := func(name string, seed byte) {
		t.Helper()
		d.write(t, "a.img", string(testenv.Random(seed, 1<<20)))
		d.run(t, 0, nil, "pack", "a.img", "--name", name, "--images", served)
	}
	pack("demo", 1)
	pack("win11", 2)
	rights := d.write(t, "rights.toml", `[[allow]]
images = ["demo"]
readers = ["anyone"]
[[allow]]
images = ["win*"]
readers = ["kerberos:*@PRESTAGE.TEST"]
`)
	server, _ := serving(t, d.exe, "serve", "--listen", "127.0.0.1:0", "--images", served, "--keytab", r.Keytab(t, "HTTP/localhost"), "--rights", rights, "--access-log", log)
	server = strings.Replace(server, "127.0.0.1", "localhost", 1)
	config := d.write(t, "prestage.toml", "")
	env := []string{"PRESTAGE_CONFIG=" + config}
	run := func(code int, args ...string) (out string) {
		t.Helper()
		return d.run(t, code, env, args...)
	}
	sees := func(want ...string) {
		t.Helper()
		out := run(0, "list", "--images", server)
		for _, image := range []string{"demo", "win11"} {
			if strings.Contains(out, image) != slices.Contains(want, image) {
				t.Errorf("it should see %v:\n%s", want, out)
			}
		}
	}
	run(0, "setup", d.dir)

	t.Setenv("KRB5CCNAME", r.Path("cache"))
	sees("demo")
	run(0, "install", "demo", "--images", server)
	says(run(4, "install", "win11", "--images", server), "not found: image win11", "there may be more for who shows a Kerberos ticket: no Kerberos ticket", "get one with kinit")
	r.Relogin(t, "alice", "1h")
	sees("demo", "win11")
	run(0, "install", "win11", "--images", server)
	pack("win11", 3)
	run(0, "update", "win11", "--images", server)
	r.Relogin(t, "alice", "1s")
	time.Sleep(1500 * time.Millisecond)
	sees("demo")

	// The agent follows with the machine's ticket, which it shows at once after the
	// first time; without one it goes on with what anyone may have.
	d.run(t, 0, nil, "policy", "set", "win11", "--machines", "*", "--update", "force", "--images", served)
	d.run(t, 0, nil, "policy", "set", "demo", "--machines", "*", "--update", "force", "--images", served)
	r.Relogin(t, "host/pc-001", "1h")
	pack("win11", 4)
	d.write(t, "prestage.toml", fmt.Sprintf("server = %q\n", server)+read(t, config))
	agent := d.command(env, "agent", "run")
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { agent.Process.Kill(); agent.Wait() })
	has := func(version string) func() bool {
		return func() bool {
			_, err := os.Stat(filepath.Join(d.dir, "MED-V Images", filepath.FromSlash(version)))
			return err == nil
		}
	}
	until(t, "the agent has updated the image", has("win11/3"))
	before := len(read(t, log))
	run(0, "agent", "poll", "--wait", "2m")
	asked := 0
	for line := range strings.Lines(read(t, log)[before:]) {
		if strings.Contains(line, "/catalog.json") || strings.Contains(line, "/policy.json") {
			asked++
			if !strings.Contains(line, `"reader":"kerberos:host/pc-001@PRESTAGE.TEST"`) {
				t.Errorf("the agent has not said at once who it is: %s", line)
			}
		}
	}
	if asked != 2 {
		t.Errorf("the agent has asked %d times for catalog and policy:\n%s", asked, read(t, log)[before:])
	}
	pack("demo", 5)
	pack("win11", 6)
	if err := os.Remove(r.Path("cache")); err != nil {
		t.Fatal(err)
	}
	run(0, "agent", "poll", "--wait", "2m")
	until(t, "the agent has updated what anyone may have", has("demo/2"))
	if has("win11/4")() {
		t.Error("the agent has got what it may not see")
	}

	// A ticket for a key that the server has no more.
	r.Change(t, "HTTP/localhost")
	r.Relogin(t, "alice", "1h")
	sees("demo")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

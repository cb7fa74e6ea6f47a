package fleet

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

const floor = "\ufeff# the second floor\r\n" + `
pc-alone            # a comment
[floor2] user=EXAMPLE\admin folder="D:\VM Data"   # "defaults" of the group
PC-[008-010] port=1445
pc-021 address=192.0.2.7 folder=D:\ user="Some One"

[servers] kind=ssh
srv[1-2,7].example
r[1,2]u[3-4]
fe80::1
`

func TestParseHosts(t *testing.T) {
	inv, err := ParseHosts(strings.NewReader(floor), "hosts.txt")
	if err != nil {
		t.Fatal(err)
	}
	admin := Machine{Group: "floor2", Kind: "smb", User: `EXAMPLE\admin`, Port: "1445", Folder: `D:\VM Data`}
	named := func(m Machine, name string) Machine { m.Name = name; return m }
	server := Machine{Group: "servers", Kind: "ssh"}
	want := []Machine{
		{Name: "pc-alone", Kind: "smb"}, named(admin, "PC-008"), named(admin, "PC-009"), named(admin, "PC-010"),
		{Name: "pc-021", Group: "floor2", Kind: "smb", User: "Some One", Address: "192.0.2.7", Folder: `D:\`},
	}
	for _, name := range []string{"srv1.example", "srv2.example", "srv7.example", "r1u3", "r1u4", "r2u3", "r2u4", "fe80::1"} {
		want = append(want, named(server, name))
	}
	if !reflect.DeepEqual(inv.Machines, want) {
		t.Errorf("got  %+v\nwant %+v", inv.Machines, want)
	}
	if g, ok := inv.Group("servers"); !ok || !reflect.DeepEqual(g, want[5:]) {
		t.Errorf("the group has %+v, %v", g, ok)
	}
	if got := inv.Machines[4].Target(); got != "192.0.2.7" {
		t.Errorf("pc-021 is reached at %s", got)
	}
}

func TestParseHostsRefuses(t *testing.T) {
	for text, want := range map[string][]string{
		"a\nb\nA":                       {"h.txt:3:", "A is named in line 1", "again in line 3"},
		"a\n\npc-[1-3] kind=ssh\npc-2":  {"h.txt:4:", "line 3", "line 4"},
		"a\nb address=A":                {"h.txt:2:", "same machine as a in line 1"},
		"a\nb address=a port=445":       {"h.txt:2:", "same machine"},
		"a color=blue":                  {"h.txt:1:", `"color"`, "kind, user, port, folder and address"},
		"a kind=ftp":                    {"smb or ssh"},
		"a port=0":                      {"65535"},
		"a port=66000":                  {"65535"},
		"a user=":                       {"user="},
		"a user=x user=y":               {"twice"},
		"a address=b:1":                 {"port=NUMBER"},
		"a:22":                          {"port=NUMBER"},
		"root@a":                        {"user=NAME"},
		"-oProxyCommand=x":              {"not the name"},
		"pc[1-3":                        {"without ]"},
		"pc1-3]":                        {"not the name"},
		"pc[]":                          {"not a number"},
		"pc[3-1]":                       {"backwards"},
		"pc[1-020]":                     {"digits"},
		"pc[0-99999]\nx":                {"h.txt:2:", "more than 100000"},
		"pc[0-999][0-999]":              {"more than 100000"},
		"pc[0-999999999]":               {"more than 100000"},
		strings.Repeat("x", 300):        {"too long"},
		strings.Repeat("[1]", 300):      {"too long"},
		"pc[1-2] address=x":             {"one machine"},
		"[g] address=x":                 {"not of a group"},
		"[g]\n[h]\n[g]":                 {"h.txt:3:", "line 1"},
		"[1-3]":                         {"name of a group"},
		"[]":                            {"name of a group"},
		`a folder="D:\VM Data`:          {"not closed"},
		`"a"`:                           {"only values"},
		"a\xff":                         {"UTF-8"},
		"\xff\xfea\x00":                 {"UTF-16"},
		"a folder=x\x01":                {"printable"},
		strings.Repeat("a ", 40000):     {"h.txt:1:", "65536 bytes"},
		strings.Repeat("# \n", 6000000): {"is it a hosts file"},
	} {
		_, err := ParseHosts(strings.NewReader(text), "h.txt")
		if err == nil {
			t.Errorf("%.40q was accepted", text)
			continue
		}
		for _, w := range want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%.40q: %q does not say %q", text, err, w)
			}
		}
	}
}

// A password is refused, and not repeated on the screen.
func TestPasswordsAreRefused(t *testing.T) {
	for _, line := range []string{
		"a password=hunter2", "a Password=hunter2", "[g] pwd=hunter2", "a passphrase=hunter2",
		"a user=admin:hunter2", `a user=EXAMPLE\admin%hunter2`, "a token=hunter2", "a hunter2", `a "hunter2"`,
	} {
		_, err := ParseHosts(strings.NewReader(line), "h.txt")
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", line, err)
		}
		if strings.Contains(line, "=") && !strings.Contains(fmt.Sprint(err), "PRESTAGE_PASSWORD") {
			t.Errorf("%s: %v does not say where it belongs", line, err)
		}
	}
}

func TestParseList(t *testing.T) {
	inv, err := ParseHosts(strings.NewReader(floor+"[empty]\n"), "hosts.txt")
	if err != nil {
		t.Fatal(err)
	}
	machines, err := ParseList("new-[001-002], pc-021,srv[1,7].example,@floor2", inv)
	if err == nil || !strings.Contains(err.Error(), "pc-021") || !strings.Contains(err.Error(), "@floor2") {
		t.Errorf("a machine that is named twice: %v, %v", machines, err)
	}
	machines, err = ParseList("new-[001-002], pc-008,srv[1,7].example", inv)
	var names []string
	for _, m := range machines {
		names = append(names, m.Name+"/"+m.Kind+"/"+m.Port)
	}
	if got := strings.Join(names, " "); err != nil || got != "new-001/smb/ new-002/smb/ PC-008/smb/1445 srv1.example/ssh/ srv7.example/ssh/" {
		t.Errorf("%s, %v", got, err)
	}
	if g, err := ParseList("@servers", inv); err != nil || len(g) != 8 {
		t.Errorf("%v, %v", g, err)
	}
	for list, want := range map[string]string{
		"": "missing", "a,": "missing", "a,,b": "missing", "@nope": "there are empty, floor2, servers", "@empty": "no machines",
		"a,A": "twice", "a b": "not the name", "pc-[1-3,5": "without ]", "@servers,x[1-100000]": "more than",
	} {
		if m, err := ParseList(list, inv); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, %v does not say %q", list, m, err, want)
		}
	}
	if _, err := ParseList("@floor2", nil); err == nil || !strings.Contains(err.Error(), "hosts file") {
		t.Errorf("a group without a hosts file: %v", err)
	}
}

// What is accepted is bounded, has only machines that can be told apart, and is
// found again by its names.
func FuzzParseHosts(f *testing.F) {
	f.Add(floor)
	f.Add("a[0-9][0-9]\n[x] kind=ssh port=1\nb user=\"x y\"#z")
	f.Add("[1-3]\n")
	f.Fuzz(func(t *testing.T, text string) {
		inv, err := ParseHosts(strings.NewReader(text), "h")
		if err != nil {
			return
		}
		if len(inv.Machines) > MaxMachines {
			t.Fatalf("%d machines", len(inv.Machines))
		}
		seen := map[string]bool{}
		for i, m := range inv.Machines {
			if key := strings.ToLower(m.Name); m.Name == "" || seen[key] || m.Kind != KindSMB && m.Kind != KindSSH {
				t.Fatalf("%+v", m)
			} else {
				seen[key] = true
			}
			if i > 50 || strings.Contains(m.Name, ":") {
				continue
			}
			if found, err := ParseList(m.Name, inv); err != nil || len(found) != 1 || found[0] != m {
				t.Fatalf("%+v was found as %+v, %v", m, found, err)
			}
		}
	})
}

func FuzzParseList(f *testing.F) {
	f.Add("pc-[001-020],srv[1-3,7].example,@floor2")
	f.Add("a,[,]]b")
	f.Fuzz(func(t *testing.T, list string) {
		machines, err := ParseList(list, nil)
		if err == nil && (len(machines) == 0 || len(machines) > MaxMachines) {
			t.Fatalf("%d machines", len(machines))
		}
	})
}

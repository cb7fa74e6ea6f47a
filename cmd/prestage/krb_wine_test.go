//go:build linux

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/krbtest"
	"prestage/internal/winetest"
)

// The Windows program has the system make its tokens. Wine has the libraries of
// this machine make them, from the ticket of whoever runs it.
func TestWineKerberos(t *testing.T) {
	p, exe := winetest.New(t), winetest.Build(t)
	r := krbtest.Start(t)
	r.AddUser(t, "alice")
	keys := r.Keytab(t, "HTTP/localhost")
	folder, _ := servedPackage(t)
	dir := t.TempDir()
	rights := filepath.Join(dir, "rights.toml")
	if err := os.WriteFile(rights, []byte("[[allow]]\nimages = [\"*\"]\nreaders = [\"*\"]\nwriters = [\"kerberos:alice@PRESTAGE.TEST\"]\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	served := filepath.Join(dir, "served")
	if err := os.Mkdir(served, 0o755); err != nil {
		t.Fatal(err)
	}
	server, _ := serving(t, "prestage", "serve", "--listen", "127.0.0.1:0", "--images", served, "--keytab", keys, "--rights", rights)
	server = strings.Replace(server, "127.0.0.1", "localhost", 1)
	wine := func(args []string) (code int, out string) {
		t.Helper()
		said, err := os.Create(filepath.Join(t.TempDir(), "said")) // no pipe: see Environment
		if err != nil {
			t.Fatal(err)
		}
		defer said.Close()
		cmd := exec.Command("wine", append([]string{exe}, args...)...)
		cmd.Env = append(p.Environment(), "KRB5_CONFIG="+os.Getenv("KRB5_CONFIG"), "KRB5CCNAME="+os.Getenv("KRB5CCNAME"))
		cmd.Stdout, cmd.Stderr = said, said
		if err := cmd.Run(); cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return cmd.ProcessState.ExitCode(), read(t, said.Name())
	}
	run := func(code int, args []string, want ...string) {
		t.Helper()
		got, out := wine(args)
		for n := 0; n < 2 && got == 1 && out == ""; n++ { // Wine has not started it: see runWindows
			got, out = wine(args)
		}
		if got != code {
			t.Errorf("%v: exit code %d, want %d\n%s", args, got, code, out)
		}
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%v: nothing of %q in\n%s", args, w, out)
			}
		}
	}
	list := []string{"list", "--images", server}
	t.Setenv("KRB5CCNAME", "FILE:"+r.Path("none"))
	run(1, list, "the server refused: 401", "no Kerberos ticket", "must be of a domain")
	r.Login(t, "alice", "1h")
	run(0, []string{"upload", "win11", "--images", p.Windows(folder), "--to", server}, "uploaded win11:1")
	run(0, list, "win11")
	run(0, []string{"remove", "win11:1", "--images", server}, "removed win11:1")
	run(1, []string{"list", "--images", strings.Replace(server, "localhost", "127.0.0.1", 1)}, "not for an address such as 127.0.0.1")
}

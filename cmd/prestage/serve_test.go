package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/spf13/cobra"

	"prestage/internal/testenv"
)

// serverKey is where a script keeps its server.
type serverKey struct{}

// scriptServer is a running "prestage serve".
type scriptServer struct {
	cmd   *exec.Cmd
	ended chan error
}

var servedAt = regexp.MustCompile(`is served at (\S+)`)

// server ARG… starts "prestage serve ARG…" on a free port of loopback, with what
// it says in the files server.err and server.out, and sets $SERVER to the URL of
// the packages. "server stop" tells it to end, which it must do with exit code 0;
// so does the end of the script.
func startServer(ts *testscript.TestScript, _ bool, args []string) {
	s := ts.Value(serverKey{}).(*scriptServer)
	if slices.Equal(args, []string{"stop"}) {
		s.stop(ts)
		return
	}
	exe, err := exec.LookPath("prestage")
	ts.Check(err)
	said, err := os.Create(ts.MkAbs("server.err"))
	ts.Check(err)
	defer said.Close()
	out, err := os.Create(ts.MkAbs("server.out"))
	ts.Check(err)
	defer out.Close()
	cmd := exec.Command(exe, append([]string{"serve", "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = ts.MkAbs("."), out, said
	cmd.Env = append(os.Environ(), "PRESTAGE_CONFIG="+ts.Getenv("PRESTAGE_CONFIG"))
	ts.Check(cmd.Start())
	s.cmd, s.ended = cmd, make(chan error, 1)
	go func() { s.ended <- cmd.Wait() }()
	ts.Defer(func() { s.stop(ts) })
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		b, err := os.ReadFile(said.Name())
		ts.Check(err)
		if m := servedAt.FindSubmatch(b); m != nil {
			ts.Setenv("SERVER", string(m[1]))
			return
		}
		if len(s.ended) > 0 || time.Now().After(end) {
			ts.Fatalf("the server does not say where it listens:\n%s", b)
		}
	}
}

func (s *scriptServer) stop(ts *testscript.TestScript) {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	err := <-s.ended
	s.cmd = nil
	b, _ := os.ReadFile(ts.MkAbs("server.err"))
	ts.Logf("the server says:\n%s", b)
	ts.Check(err)
}

// certificates DIR NAME… makes files for TLS: ca.pem, and NAME.pem and NAME.key,
// which it has signed, with NAME for a name. Certificates called expired are; crl.pem
// revokes those called revoked.
func certificates(t *testing.T) func(ts *testscript.TestScript, _ bool, args []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		dir := ts.MkAbs(args[0])
		ts.Check(os.MkdirAll(dir, 0o755))
		a := testenv.NewAuthority(t)
		b, err := os.ReadFile(a.File)
		ts.Check(err)
		ts.Check(os.WriteFile(filepath.Join(dir, "ca.pem"), b, 0o644))
		var revoked []string
		for _, name := range args[1:] {
			lasts := time.Hour
			if name == "expired" {
				lasts = -time.Hour
			}
			a.IssueTo(t, filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"), name, lasts)
			if name == "revoked" {
				revoked = append(revoked, filepath.Join(dir, name+".pem"))
			}
		}
		a.Revoke(t, filepath.Join(dir, "crl.pem"), time.Hour, revoked...)
	}
}

// A service gets the flags of "serve install", wherever it is started.
func TestServeGiven(t *testing.T) {
	var f serveFlags
	cmd := &cobra.Command{}
	f.add(cmd)
	if err := cmd.ParseFlags([]string{"--images", "repo", "--client-ca", "ca.pem", "--client-crl", "crl.pem", "--access-log", "-",
		"--trusted-proxy", "10.0.0.7", "--trusted-proxy", "2001:db8::/64", "--limit", "1MiB"}); err != nil {
		t.Fatal(err)
	}
	got := f.given(cmd)
	want := []string{"--access-log=-", "--client-ca=" + absolute("ca.pem"), "--client-crl=" + absolute("crl.pem"), "--limit=1MiB",
		"--trusted-proxy=10.0.0.7", "--trusted-proxy=2001:db8::/64"}
	if !slices.Equal(got, want) || !filepath.IsAbs(absolute("crl.pem")) {
		t.Errorf("%q\nwant %q", got, want)
	}
}

// env-file NAME FILE sets an environment variable to a file's first line.
func envFile(ts *testscript.TestScript, _ bool, args []string) {
	line, _, _ := strings.Cut(ts.ReadFile(args[1]), "\n")
	ts.Setenv(args[0], strings.TrimSpace(line))
}

// Package sambatest starts Samba servers that behave like Windows clients, for
// tests.
package sambatest

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

// Password is the password of all users.
const Password = "Prestage-1!"

// Server is a Samba server that stands for a Windows client.
type Server struct {
	Dir  string // holds all that is its own; the drive C: is the folder c in it
	Port string
}

// Start starts a server on loopback that keeps NT ACLs and attributes to the bit,
// with root as administrator and nobody as an ordinary user. It ends with the
// test. Settings, as in "server smb encrypt = off", win over those it has.
func Start(t testing.TB, settings ...string) *Server {
	testenv.NeedRoot(t)
	testenv.Need(t, "smbd", "smbpasswd", "net")
	// Not t.TempDir, which ordinary users cannot pass through.
	dir, err := os.MkdirTemp("", "prestage-samba-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir}
	for _, d := range []string{"lock", "state", "cache", "pid", "private", "ncalrpc", "c"} {
		if err := os.Mkdir(s.Path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, s.Port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	conf := fmt.Sprintf(`[global]
  server role = standalone server
  netbios name = CLIENT
  workgroup = WORKGROUP
  interfaces = 127.0.0.1/8
  bind interfaces only = yes
  smb ports = %[2]s
  disable netbios = yes
  lock directory = %[1]s/lock
  state directory = %[1]s/state
  cache directory = %[1]s/cache
  pid directory = %[1]s/pid
  private dir = %[1]s/private
  ncalrpc dir = %[1]s/ncalrpc
  passdb backend = tdbsam:%[1]s/private/passdb.tdb
  log file = %[1]s/log
  log level = 1
  server signing = mandatory
  load printers = no
  printing = bsd
  printcap name = /dev/null
  disable spoolss = yes
  map to guest = never
  vfs objects = acl_xattr
  acl_xattr:ignore system acls = yes
  acl_xattr:default acl style = windows
  map acl inherit = yes
  store dos attributes = yes
  map readonly = no
  map archive = no
  dos filemode = yes
  create mask = 0777
  directory mask = 0777
%[3]s
[c$]
  path = %[1]s/c
  read only = no
  admin users = root
  valid users = root nobody
`, s.Dir, s.Port, strings.Join(settings, "\n"))
	if err := os.WriteFile(s.Path("smb.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"root", "nobody"} {
		s.run(t, Password+"\n"+Password+"\n", "smbpasswd", "-c", s.Path("smb.conf"), "-a", "-s", user)
	}
	s.run(t, "", "net", "-s", s.Path("smb.conf"), "groupmap", "add", "sid=S-1-5-32-544", "unixgroup=root", "type=builtin")
	cmd := exec.Command("smbd", "-F", "--no-process-group", "-s", s.Path("smb.conf"))
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		done := make(chan struct{})
		go func() { cmd.Wait(); close(done) }()
		select {
		case <-done:
		case <-time.After(5 * time.Second):
			cmd.Process.Kill()
			<-done
		}
	})
	for end := time.Now().Add(15 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.Port)
		if err == nil {
			c.Close()
			return s
		}
		if time.Now().After(end) {
			t.Fatalf("smbd does not listen: %v\n%s", err, out.Bytes())
		}
	}
}

// Path returns the path of a file of the server.
func (s *Server) Path(elem ...string) string {
	return filepath.Join(append([]string{s.Dir}, elem...)...)
}

func (s *Server) run(t testing.TB, in string, args ...string) {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin = strings.NewReader(in)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", args, err, out)
	}
}

// Package sambatest starts Samba servers that behave like Windows clients, for
// tests.
package sambatest

import (
	"bytes"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// Password is the password of all users.
const Password = "Prestage-1!"

// Server is a Samba server that stands for a Windows client. Its share C$ is for
// administrators; an ordinary user sees the same drive as the share Users.
type Server struct {
	Dir  string // holds all that is its own; the drive C: is the folder c in it
	Port string
}

// The users. FilesOnly may do on C$ what an administrator may, but is none: the
// registry refuses that.
const (
	Administrator = "root"
	Ordinary      = "nobody"
	FilesOnly     = "daemon"
)

// Start starts a server on loopback that keeps NT ACLs and attributes to the bit.
// It ends with the test. Options are lines for its configuration.
func Start(t testing.TB, options ...string) *Server {
	need(t)
	// Not t.TempDir, which ordinary users cannot pass through.
	dir, err := os.MkdirTemp("", "prestage-samba-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Dir: dir}
	_, s.Port, _ = net.SplitHostPort(l.Addr().String())
	l.Close()
	s.setUp(t, append(options, "interfaces = 127.0.0.1/8", "bind interfaces only = yes")...)
	cmd := exec.Command("smbd", s.args()...)
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
		s.endHelpers()
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

// endHelpers ends what smbd has started beside itself: samba-dcerpcd makes itself a
// daemon and stays, with what it has started. All have the name of the configuration.
func (s *Server) endHelpers() {
	names, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range names {
		line, err := os.ReadFile(name)
		if err != nil || !bytes.Contains(line, []byte(s.Path("smb.conf"))) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
	}
}

func need(t testing.TB) {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.Need(t, "smbd", "smbpasswd", "net")
}

func (s *Server) args() []string {
	return []string{"-F", "--no-process-group", "-s", s.Path("smb.conf")}
}

// setUp writes what a server needs, in its folder. Options are lines of the
// configuration.
func (s *Server) setUp(t testing.TB, options ...string) {
	t.Helper()
	for _, d := range []string{"lock", "state", "cache", "pid", "private", "ncalrpc", "c"} {
		if err := os.Mkdir(s.Path(d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	conf := fmt.Sprintf(configuration, s.Dir, s.Port, strings.Join(options, "\n  "))
	if err := os.WriteFile(s.Path("smb.conf"), []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	accounts.Lock()
	defer accounts.Unlock()
	if accounts.files == nil {
		s.addUsers(t)
		accounts.files = s.accountFiles(t)
		return
	}
	for name, b := range accounts.files {
		if err := os.WriteFile(s.Path(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// accounts are the files with the users, which are the same on all servers. To
// make them takes longer than all the rest.
var accounts struct {
	sync.Mutex
	files map[string][]byte
}

func (s *Server) addUsers(t testing.TB) {
	t.Helper()
	for _, user := range []string{Administrator, Ordinary, FilesOnly} {
		s.run(t, Password+"\n"+Password+"\n", "smbpasswd", "-c", s.Path("smb.conf"), "-a", "-s", user)
	}
	s.run(t, "", "net", "-s", s.Path("smb.conf"), "groupmap", "add", "sid=S-1-5-32-544", "unixgroup=root", "type=builtin")
}

func (s *Server) accountFiles(t testing.TB) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for _, dir := range []string{"private", "state"} {
		err := filepath.WalkDir(s.Path(dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || filepath.Dir(path) != s.Path(dir) {
				return err
			}
			b, err := os.ReadFile(path)
			files[filepath.Join(dir, d.Name())] = b
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return files
}

const configuration = `[global]
  server role = standalone server
  netbios name = CLIENT
  workgroup = WORKGROUP
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
  admin users = root daemon
  valid users = root daemon
[Users]
  path = %[1]s/c
  read only = no
  valid users = nobody
`

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

//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// labPassword is the password of root on machines that exist only in the lab.
const labPassword = "Prestage-1!"

// samba starts a Samba server that keeps what a Windows machine keeps: NT rights
// and attributes, to the bit; signing is mandatory. The drive C: is the folder
// drive below its own.
func (l *lab) samba(drive string) (*server, error) {
	s := &server{dir: filepath.Join(l.dir, fmt.Sprintf("samba%d", len(l.all)))}
	for _, d := range []string{"", "lock", "state", "cache", "pid", "private", "ncalrpc", "c"} {
		if err := os.Mkdir(filepath.Join(s.dir, d), 0o755); err != nil {
			return nil, err
		}
	}
	conf := fmt.Sprintf(`[global]
  server role = standalone server
  netbios name = CLIENT
  workgroup = WORKGROUP
  smb ports = 445
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
[c$]
  path = %[1]s/%[2]s
  read only = no
  admin users = root
  valid users = root
`, s.dir, drive)
	file := s.path("smb.conf")
	if err := os.WriteFile(file, []byte(conf), 0o644); err != nil {
		return nil, err
	}
	if err := l.b.feed(labPassword+"\n"+labPassword+"\n", l.b.tools["smbpasswd"], "-c", file, "-a", "-s", "root"); err != nil {
		return nil, err
	}
	if err := l.b.feed("", l.b.tools["net"], "-s", file, "groupmap", "add", "sid=S-1-5-32-544", "unixgroup=root", "type=builtin"); err != nil {
		return nil, err
	}
	return s, l.plug(s, "445", "", l.b.tools["smbd"], "-F", "--no-process-group", "-s", file)
}

// path is a path of a file of the server.
func (s *server) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// smbSettings writes what smbclient is told: who logs on. It returns its
// options.
func (l *lab) smbSettings() ([]string, error) {
	conf, auth := filepath.Join(l.dir, "client.conf"), filepath.Join(l.dir, "client.auth")
	if err := os.WriteFile(conf, []byte("[global]\nclient min protocol = SMB3\n"), 0o644); err != nil {
		return nil, err
	}
	text := fmt.Sprintf("username = root\npassword = %s\n", labPassword)
	return []string{"-s", conf, "-A", auth}, os.WriteFile(auth, []byte(text), 0o600)
}

// sshd starts an SSH server whose /etc is its own, as the settings there are a
// machine's own. Home is where its key and the user's lie, as in a home folder.
func (l *lab) sshd(home string) (*server, error) {
	s := &server{dir: filepath.Join(l.dir, "sshd")}
	for _, d := range []string{s.dir, s.path("data"), filepath.Join(home, ".ssh")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, err
		}
	}
	host, user := s.path("host"), filepath.Join(home, ".ssh", "id_ed25519")
	for _, key := range []string{host, user} {
		if err := l.b.feed("", l.b.tools["ssh-keygen"], "-q", "-t", "ed25519", "-N", "", "-f", key); err != nil {
			return nil, err
		}
	}
	config := strings.Join([]string{"Port 22", "HostKey " + host, "AuthorizedKeysFile " + user + ".pub", "PidFile none", "UsePAM no",
		"StrictModes no", "PermitRootLogin yes", "Subsystem sftp internal-sftp", ""}, "\n")
	if err := os.WriteFile(s.path("config"), []byte(config), 0o644); err != nil {
		return nil, err
	}
	const ownEtc = `mount -t tmpfs tmpfs /run
mkdir -p -m 755 /run/sshd /run/etc /run/etc.work
mount -t overlay overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/etc.work /etc`
	if err := l.plug(s, "22", ownEtc, l.b.tools["sshd"], "-D", "-e", "-f", s.path("config")); err != nil {
		return nil, err
	}
	public, err := os.ReadFile(host + ".pub")
	if err != nil {
		return nil, err
	}
	known := fmt.Appendf(nil, "%s %s", s.address, public)
	return s, os.WriteFile(filepath.Join(home, ".ssh", "known_hosts"), known, 0o644)
}

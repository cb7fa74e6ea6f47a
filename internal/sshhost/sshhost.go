// Package sshhost is the host.Host of a Linux machine that is reached by SSH
// and SFTP, with no program of ours on it.
//
// All is done as root: who logs on as somebody else does it by sudo. Files go
// through an SFTP server, what SFTP cannot do through a shell, whose commands
// are fixed texts.
package sshhost

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"prestage/internal/host"
)

// Options say how a machine is reached.
type Options struct {
	Name    string // how people call the machine
	Address string // a name or an IP address; empty: Name
	Port    string // empty: 22
	User    string // empty: who runs prestage
	// KnownHosts are files with the keys of machines; empty: those of ssh.
	KnownHosts []string
	// Keys are files with private keys; empty: those of ssh that exist.
	Keys []string
	// Agent is the socket of an SSH agent; empty: SSH_AUTH_SOCK.
	Agent string
	// Ask returns a secret; nil: nobody can be asked.
	Ask func(Question) (string, error)
	// Settings is the machine's settings file; empty: /etc/prestage/prestage.toml.
	Settings string
	// Silence is how long a machine may not answer before it counts as gone;
	// zero: 15 s.
	Silence time.Duration
}

// Host is a Linux machine. The connection is one for all; it ends with Close.
type Host struct {
	o       Options
	conn    *watched
	client  *ssh.Client
	sftp    *sftp.Client
	answers *answers
	nonce   string // tells our own words from what else comes over the connection
	root    bool
	gone    chan struct{} // closed when the connection has ended

	secret    sync.Mutex
	sudo      string // the password, once it was asked for
	sudoKnown bool

	running sync.Mutex // held while a command runs
	shell   *shell     // nil: to be started
}

var _ host.Host = (*Host)(nil)

// Dial connects to a machine, checks that it is the one that is known by this
// name, and logs on. The error wraps host.ErrUnreachable when there is no answer.
func Dial(ctx context.Context, o Options) (*Host, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	keys, err := loadKnownHosts(o)
	if err != nil {
		return nil, err
	}
	address := net.JoinHostPort(o.Address, o.Port)
	c, err := (&net.Dialer{Timeout: o.Silence}).DialContext(ctx, "tcp", address)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, fmt.Errorf("%s: %w: %w", o.Name, host.ErrUnreachable, err)
	}
	h := &Host{o: o, conn: watch(c, o.Silence), nonce: rand.Text(), gone: make(chan struct{})}
	defer context.AfterFunc(ctx, func() { h.conn.cut(ctx.Err()) })()
	login := newLogin(o, h.conn)
	defer login.close()
	config := &ssh.ClientConfig{
		User: o.User, Auth: login.methods(),
		HostKeyAlgorithms: keys.algorithms(address),
		HostKeyCallback: func(address string, remote net.Addr, key ssh.PublicKey) error {
			err := keys.check(address, remote, key)
			login.recognised = err == nil
			return err
		},
	}
	conn, channels, requests, err := ssh.NewClientConn(h.conn, address, config)
	if err != nil {
		return nil, h.notLoggedOn(login.explain(err))
	}
	h.client = ssh.NewClient(conn, channels, requests)
	go func() {
		h.client.Wait()
		h.conn.cut(errEnded)
		close(h.gone)
	}()
	h.conn.keepAlive(func() { h.client.SendRequest("keepalive@openssh.com", true, nil) })
	if err := h.begin(ctx); err != nil {
		err = h.explain(err)
		h.Close()
		return nil, err
	}
	return h, nil
}

// notLoggedOn tells a machine that is not there from one that refuses.
func (h *Host) notLoggedOn(err error) error {
	h.conn.cut(errEnded)
	var network net.Error
	switch why := h.conn.why(); {
	case errors.Is(why, context.Canceled), errors.Is(why, context.DeadlineExceeded):
		return why
	case !errors.Is(why, errEnded):
		return fmt.Errorf("%s: %w: %w", h.o.Name, host.ErrUnreachable, why)
	case errors.Is(err, io.EOF), errors.As(err, &network):
		return fmt.Errorf("%s: %w: %w", h.o.Name, host.ErrUnreachable, err)
	}
	return fmt.Errorf("logging on to %s: %w", h.o.Name, err)
}

// begin becomes root and starts the SFTP server.
func (h *Host) begin(ctx context.Context) error {
	s, err := h.client.NewSession()
	if err != nil {
		return err
	}
	id, err := output(s, "id -u")
	s.Close()
	if err != nil {
		return fmt.Errorf("user %s may not run commands on %s: %w", h.o.User, h.o.Name, err)
	}
	lines := strings.Fields(id) // the user's own shell may say more at its start
	h.root = len(lines) > 0 && lines[len(lines)-1] == "0"
	server, err := h.startShell(ctx)
	if err != nil {
		return err
	}
	if err := server.send(startSFTP, h.nonce); err != nil {
		return err
	}
	if line, err := server.line(); err != nil || line != h.nonce {
		return fmt.Errorf("%s has no SFTP server; install its package openssh-sftp-server", h.o.Name)
	}
	h.answers = newAnswers(server.out, h.conn.cut)
	h.sftp, err = sftp.NewClientPipe(h.answers, &requests{WriteCloser: server.in, a: h.answers}, sftp.UseConcurrentReads(true), sftp.UseConcurrentWrites(true),
		sftp.MaxConcurrentRequestsPerFile(64))
	return err
}

// startSFTP makes the shell become the SFTP server. Nobody gets at what it
// creates before the rights are right.
const startSFTP = `umask 077
for f in /usr/lib/openssh/sftp-server /usr/libexec/openssh/sftp-server /usr/lib/ssh/sftp-server \
	/usr/libexec/sftp-server /usr/lib/sftp-server /usr/lib/misc/sftp-server; do
	if [ -x "$f" ]; then echo "$1"; exec "$f"; fi
done
echo none; exit 1`

// Close ends the connection, and with it all that is under way. It may be
// called at any time.
func (h *Host) Close() error {
	h.conn.cut(fs.ErrClosed)
	<-h.gone
	return nil
}

// explain says of an error that the connection has ended, if it has.
func (h *Host) explain(err error) error {
	if err == nil || errors.Is(err, host.ErrUnreachable) {
		return err
	}
	var network net.Error
	if errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, io.EOF) || errors.As(err, &network) {
		// Whoever was waiting may hear of it before we know why.
		select {
		case <-h.gone:
		case <-time.After(time.Second):
			h.conn.cut(errors.New("its SFTP server or shell has ended"))
		}
	}
	switch why := h.conn.why(); {
	case why == nil:
		return err
	case errors.Is(why, fs.ErrClosed):
		return fmt.Errorf("the connection to %s: %w", h.o.Name, why)
	case errors.Is(why, ErrProtocol):
		return fmt.Errorf("%s: %w", h.o.Name, why)
	default:
		return fmt.Errorf("%s: %w: %w", h.o.Name, host.ErrUnreachable, why)
	}
}

// Name implements host.Host.
func (h *Host) Name() string { return h.o.Name }

// Join implements host.Host.
func (h *Host) Join(elem ...string) string { return path.Join(elem...) }

// Split implements host.Host.
func (h *Host) Split(p string) (dir, base string) {
	p = path.Clean(p)
	return path.Dir(p), path.Base(p)
}

// SameName implements host.Host.
func (h *Host) SameName(a, b string) bool { return a == b }

// lstat describes what is at a path, to the second.
func (h *Host) lstat(ctx context.Context, p string) (fs.FileInfo, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkPath(p); err != nil {
		return nil, err
	}
	st, err := checkInfo(h.sftp.Lstat(p))
	return st, h.at("lstat", p, err)
}

// at names the path that an error is about, and says if the connection has ended.
func (h *Host) at(op, p string, err error) error {
	if err = h.explain(err); err == nil || errors.Is(err, host.ErrUnreachable) {
		return err
	}
	err = legible(err)
	var named *fs.PathError
	if !errors.As(err, &named) {
		err = &fs.PathError{Op: op, Path: p, Err: err}
	}
	return fmt.Errorf("%s: %w", h.o.Name, err)
}

func info(st fs.FileInfo, name string) host.Info {
	i := host.Info{Name: name, Size: st.Size(), Modified: st.ModTime(), Kind: host.KindOther}
	switch {
	case st.Mode().IsRegular():
		i.Kind = host.KindFile
	case st.IsDir():
		i.Kind = host.KindFolder
	}
	return i
}

// Stat implements host.Host. SFTP tells times to the second; the time of a file,
// by which it is recognised, is asked for to the nanosecond.
func (h *Host) Stat(ctx context.Context, p string) (host.Info, error) {
	st, err := h.lstat(ctx, p)
	if err != nil {
		return host.Info{}, err
	}
	i := info(st, path.Base(p))
	if i.Kind == host.KindFile {
		out, err := h.run(ctx, `stat -c '%.9Y %s' -- "$1"`, p)
		if err != nil && h.conn.why() != nil {
			return host.Info{}, err
		}
		if err == nil { // else it has no such stat, or the file has just been removed
			if t, size, ok := parseStat(out); ok {
				i.Modified, i.Size = t, size
			}
		}
	}
	return i, nil
}

// ReadDir implements host.Host. Its times are to the second.
func (h *Host) ReadDir(ctx context.Context, p string) ([]host.Info, error) {
	if st, err := h.lstat(ctx, p); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, fmt.Errorf("%q is not a folder", p)
	}
	h.answers.listing()
	entries, err := h.sftp.ReadDirContext(ctx, p)
	if err != nil {
		return nil, h.at("readdir", p, err)
	}
	var list []host.Info
	for _, e := range entries {
		if _, err := checkInfo(e, nil); err != nil || e.Name() == "/" {
			return nil, h.at("readdir", p, cmp.Or(err, fmt.Errorf("%w: a file is called %q", ErrProtocol, e.Name())))
		}
		list = append(list, info(e, e.Name()))
	}
	return list, nil
}

// Rename implements host.Host.
func (h *Host) Rename(ctx context.Context, from, to string) error {
	for _, p := range []string{from, to} {
		if err := checkPath(p); err != nil {
			return err
		}
	}
	if err := h.sftp.PosixRename(from, to); err != nil {
		return h.at("rename", from, err)
	}
	return h.syncFolder(ctx, path.Dir(to))
}

// Remove implements host.Host.
func (h *Host) Remove(ctx context.Context, p string) error {
	if _, err := h.lstat(ctx, p); err != nil {
		return err
	}
	if err := h.sftp.Remove(p); err != nil {
		return h.at("remove", p, err)
	}
	return h.syncFolder(ctx, path.Dir(p))
}

// syncFolder makes the creation, renaming and removal of a folder's entries
// durable. Where sync takes no names, it brings everything to the disk.
func (h *Host) syncFolder(ctx context.Context, dir string) error {
	_, err := h.run(ctx, `sync -- "$1" 2>/dev/null || sync`, dir)
	return err
}

// FreeSpace implements host.Host.
func (h *Host) FreeSpace(_ context.Context, folder string) (int64, error) {
	if err := checkPath(folder); err != nil {
		return 0, err
	}
	st, err := h.sftp.StatVFS(folder)
	if err != nil {
		return 0, h.at("statvfs", folder, err)
	}
	if st == nil || st.Frsize == 0 { // the client may have been told of success alone
		return 0, nil
	}
	// Root may use what is kept back for it.
	return int64(min(st.Bfree, math.MaxInt64/st.Frsize) * st.Frsize), nil
}

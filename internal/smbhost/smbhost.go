// Package smbhost is the host.Host of a Windows machine that is reached over its
// administrative shares, with no program of ours on it.
package smbhost

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"net"
	"strings"
	"sync"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"

	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/settings"
	"prestage/internal/ticket"
)

// Options say how a machine is reached.
type Options struct {
	Name     string // how people call the machine
	Address  string // a name or an IP address; empty: Name
	Port     string // empty: 445
	User     string // also DOMAIN\user, or user@domain
	Password string
	// Kerberos logs on with a ticket instead of user and password.
	Kerberos *ticket.Cache
	// Silence is how long a machine may not answer before it counts as gone.
	Silence time.Duration
}

// Host is a Windows machine.
type Host struct {
	o       Options
	conn    *watched
	session *smb2.Session
	// encrypted is whether all that is sent is, and not signed alone.
	encrypted bool

	mu     sync.Mutex
	shares map[string]*share // by name
	remote remote            // registry and services

	life context.Context // of the connection
	end  context.CancelFunc

	closing  sync.Once
	closeErr error
}

var _ host.Host = (*Host)(nil)

// Dial connects to a machine and logs on. What is signed or encrypted cannot be
// forged on the way; nothing else is accepted. All that the machine can encrypt
// is encrypted.
func Dial(ctx context.Context, o Options) (*Host, error) {
	if o.Port == "" {
		o.Port = "445"
	}
	if o.Silence == 0 {
		o.Silence = 15 * time.Second
	}
	if o.Address == "" {
		o.Address = o.Name
	}
	dialer := net.Dialer{Timeout: o.Silence}
	c, err := dialer.DialContext(ctx, "tcp", net.JoinHostPort(o.Address, o.Port))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", host.ErrUnreachable, err)
	}
	w := watch(c, o.Silence)
	h := &Host{o: o, conn: w, shares: map[string]*share{}}
	h.life, h.end = context.WithCancel(context.WithoutCancel(ctx))
	if err := h.logon(ctx); err != nil {
		h.cut()
		if w.gone.Load() {
			return nil, fmt.Errorf("%w: %w", host.ErrUnreachable, err)
		}
		return nil, err
	}
	if h.encrypted {
		go h.alive()
	}
	return h, nil
}

// Encrypted reports whether all that is sent is encrypted. What is not is signed.
func (h *Host) Encrypted() bool { return h.encrypted }

// Close logs off, after putting back what was changed to reach the registry. It
// ends what is under way, and may be called at any time.
func (h *Host) Close() error {
	h.closing.Do(func() {
		// What is put back takes a few calls, and the machine may not answer.
		defer time.AfterFunc(h.o.Silence, h.cut).Stop()
		h.closeErr = h.remote.close()
		if e := h.logoff(); h.closeErr == nil {
			h.closeErr = e
		}
	})
	return h.closeErr
}

// explain says of an error what it means to the procedure: that the machine is
// not there any more, or that its disk is full.
func (h *Host) explain(err *error) {
	switch c := status(*err); {
	case *err == nil, errors.Is(*err, host.ErrUnreachable), errors.Is(*err, host.ErrDiskFull):
	case h.conn.gone.Load():
		*err = fmt.Errorf("%s: %w any more: %w", h.o.Name, host.ErrUnreachable, *err)
	case c == statusDiskFull, c == statusQuotaExceeded:
		*err = fmt.Errorf("%s: %w: %w", h.o.Name, host.ErrDiskFull, *err)
	}
}

// Name implements host.Host.
func (h *Host) Name() string { return h.o.Name }

// share returns a share of the machine, mounted.
func (h *Host) share(name string) (*share, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if s := h.shares[name]; s != nil {
		return s, nil
	}
	s, err := h.mount(`\\` + h.o.Address + `\` + name)
	if errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("%w: it takes an administrator of %s", err, h.o.Name)
	}
	if err != nil {
		return nil, fmt.Errorf("share %s of %s: %w", name, h.o.Name, err)
	}
	h.shares[name] = s
	return s, nil
}

// at returns the share that a path of the machine lies on, and the path there.
func (h *Host) at(path string) (*share, string, error) {
	if len(path) < 3 || path[1:3] != `:\` {
		return nil, "", fmt.Errorf(`%q: name a folder of %s by its drive, as in C:\MED-V Images`, path, h.o.Name)
	}
	s, err := h.share(strings.ToUpper(path[:1]) + "$")
	return s, path[3:], err
}

// Join implements host.Host.
func (h *Host) Join(elem ...string) string {
	var parts []string
	for i, e := range elem {
		e = strings.ReplaceAll(e, "/", `\`)
		if e = strings.TrimRight(e, `\`); i > 0 {
			e = strings.TrimLeft(e, `\`)
		}
		if e != "" {
			parts = append(parts, e)
		}
	}
	p := strings.Join(parts, `\`)
	if len(p) == 2 && p[1] == ':' {
		p += `\`
	}
	return p
}

// Split implements host.Host.
func (h *Host) Split(path string) (dir, base string) {
	path = h.Join(path)
	i := strings.LastIndexByte(path, '\\')
	if i < 0 {
		return "", path
	}
	return h.Join(path[:i]), path[i+1:]
}

// SameName implements host.Host.
func (h *Host) SameName(a, b string) bool { return strings.EqualFold(a, b) }

// Settings implements host.Host.
func (h *Host) Settings(context.Context) (_ settings.Settings, err error) {
	defer h.explain(&err)
	hive, err := h.hive()
	if err != nil {
		return settings.Settings{}, err
	}
	return settings.Registry(hive).Load()
}

// SaveSettings implements host.Host.
func (h *Host) SaveSettings(_ context.Context, s settings.Settings) (err error) {
	defer h.explain(&err)
	hive, err := h.hive()
	if err != nil {
		return err
	}
	return settings.Registry(hive).Save(s)
}

// descriptor is an acl.Descriptor as the SMB client sends it.
type descriptor []byte

func (d descriptor) Size() int       { return len(d) }
func (d descriptor) Encode(p []byte) { copy(p, d) }

// MakeFolder implements host.Host.
func (h *Host) MakeFolder(ctx context.Context, path string, rights acl.List) (err error) {
	defer h.explain(&err)
	s, p, err := h.at(path)
	if err != nil {
		return err
	}
	if err := s.Mkdir(p, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if deviations, err := h.CheckFolder(ctx, path, rights); err != nil || len(deviations) == 0 {
		return err
	}
	return setSecurity(s, p, rights.Folder())
}

// setSecurity sets owner and DACL.
func setSecurity(s *share, p string, d acl.Descriptor) error {
	b := descriptor(d.Bytes())
	if err := s.SetSecurityInfoRaw(p, smb2.DACLSecurityInformation, b); err != nil {
		return err
	}
	return s.SetSecurityInfoRaw(p, smb2.OwnerSecurityInformation, b)
}

func deviations(s *share, p string, want acl.Descriptor) ([]string, error) {
	b, err := s.SecurityInfoRaw(p, smb2.OwnerSecurityInformation|smb2.DACLSecurityInformation)
	if err != nil {
		return nil, err
	}
	got, err := acl.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("the rights of %s: %w", p, err)
	}
	return want.Deviations(got), nil
}

// CheckFolder implements host.Host.
func (h *Host) CheckFolder(_ context.Context, path string, rights acl.List) (_ []string, err error) {
	defer h.explain(&err)
	s, p, st, err := h.stat(path)
	if err != nil {
		return nil, err
	}
	if kind(st) != host.KindFolder {
		return nil, fmt.Errorf("%q is not a folder but %s; move it away", path, describe(st))
	}
	return deviations(s, p, rights.Folder())
}

// Seal implements host.Host.
func (h *Host) Seal(_ context.Context, path string, rights acl.List) (err error) {
	defer h.explain(&err)
	s, p, st, err := h.stat(path)
	if err != nil {
		return err
	}
	if kind(st) != host.KindFile {
		return fmt.Errorf("%q is not a file but %s", path, describe(st))
	}
	if dev, err := deviations(s, p, rights.File()); err != nil || len(dev) > 0 {
		if err := setSecurity(s, p, rights.File()); err != nil {
			return err
		}
	}
	return s.Chmod(p, 0o444)
}

// CheckSealed implements host.Host.
func (h *Host) CheckSealed(_ context.Context, path string, rights acl.List) (_ []string, err error) {
	defer h.explain(&err)
	s, p, st, err := h.stat(path)
	if err != nil {
		return nil, err
	}
	if kind(st) != host.KindFile {
		return []string{"it is not a file but " + describe(st)}, nil
	}
	dev, err := deviations(s, p, rights.File())
	if err == nil && attributes(st)&attributeReadOnly == 0 {
		dev = append(dev, "it is not marked read-only")
	}
	return dev, err
}

// File attributes (MS-FSCC 2.6).
const (
	attributeReadOnly  = 0x1
	attributeDirectory = 0x10
	attributeReparse   = 0x400
)

func attributes(st fs.FileInfo) uint32 {
	if s, ok := st.Sys().(*smb2.FileStat); ok {
		return s.FileAttributes
	}
	return 0
}

func kind(st fs.FileInfo) host.Kind {
	switch a := attributes(st); {
	case a&attributeReparse != 0:
		return host.KindOther
	case a&attributeDirectory != 0:
		return host.KindFolder
	}
	return host.KindFile
}

func describe(st fs.FileInfo) string {
	return map[host.Kind]string{host.KindFile: "a file", host.KindFolder: "a folder",
		host.KindOther: "a symbolic link, a junction or another reparse point"}[kind(st)]
}

func (h *Host) stat(path string) (*share, string, fs.FileInfo, error) {
	s, p, err := h.at(path)
	if err != nil {
		return nil, "", nil, err
	}
	st, err := s.Lstat(p)
	return s, p, st, err
}

// Stat implements host.Host.
func (h *Host) Stat(_ context.Context, path string) (_ host.Info, err error) {
	defer h.explain(&err)
	_, _, st, err := h.stat(path)
	if err != nil {
		return host.Info{}, err
	}
	return info(st), nil
}

func info(st fs.FileInfo) host.Info {
	return host.Info{Name: st.Name(), Kind: kind(st), Size: st.Size(), Modified: st.ModTime()}
}

// ReadDir implements host.Host.
func (h *Host) ReadDir(_ context.Context, path string) (_ []host.Info, err error) {
	defer h.explain(&err)
	s, p, st, err := h.stat(path)
	if err != nil {
		return nil, err
	}
	if kind(st) != host.KindFolder {
		return nil, fmt.Errorf("%q is not a folder", path)
	}
	entries, err := s.ReadDir(p)
	if err != nil {
		return nil, err
	}
	var list []host.Info
	for _, e := range entries {
		list = append(list, info(e))
	}
	return list, nil
}

// FreeSpace implements host.Host.
func (h *Host) FreeSpace(_ context.Context, folder string) (_ int64, err error) {
	defer h.explain(&err)
	s, p, err := h.at(folder)
	if err != nil {
		return 0, err
	}
	st, err := s.Statfs(p)
	if err != nil {
		return 0, err
	}
	if st.BlockSize() == 0 {
		return 0, nil
	}
	return int64(min(st.AvailableBlockCount(), math.MaxInt64/st.BlockSize()) * st.BlockSize()), nil
}

// Rename implements host.Host. The machine may still hold what a connection
// that was cut had open; so a file that is in use is tried again.
func (h *Host) Rename(ctx context.Context, from, to string) (err error) {
	defer h.explain(&err)
	s, f, err := h.at(from)
	if err != nil {
		return err
	}
	_, t, err := h.at(to)
	if err != nil {
		return err
	}
	// Windows replaces no file that is marked read-only, or that somebody has
	// open: to both it says what it says to users who may not.
	st, err := s.Lstat(t)
	if errors.Is(err, fs.ErrNotExist) {
		return h.whileHeld(ctx, func() error { return s.Rename(f, t) })
	}
	if err != nil {
		return err
	}
	sealed := attributes(st)&attributeReadOnly != 0 && f != t
	if sealed {
		if err := s.Chmod(t, 0o600); err != nil {
			return err
		}
	}
	err = h.whileHeld(ctx, func() error {
		err := s.Rename(f, t)
		if status(err) == statusAccessDenied {
			err = &heldError{err}
		}
		return err
	})
	if err != nil && sealed {
		s.Chmod(t, 0o400) // it stays, and as it was
	}
	return err
}

// Remove implements host.Host.
func (h *Host) Remove(ctx context.Context, path string) (err error) {
	defer h.explain(&err)
	s, p, err := h.at(path)
	if err != nil {
		return err
	}
	return h.whileHeld(ctx, func() error { return s.Remove(p) })
}

// InUse implements host.Host: a file that somebody has open cannot be opened to
// be removed, unless they let it be.
func (h *Host) InUse(_ context.Context, path string) (_ bool, err error) {
	defer h.explain(&err)
	s, p, _, err := h.stat(path)
	if err != nil {
		return false, err
	}
	err = s.Rename(p, p)
	if isHeld(err) {
		return true, nil
	}
	return false, err
}

// NTSTATUS codes (MS-ERREF 2.3.1).
const (
	statusAccessDenied     = 0xc0000022
	statusDiskFull         = 0xc000007f
	statusQuotaExceeded    = 0xc0000044
	statusSharingViolation = 0xc0000043
	statusFileLockConflict = 0xc0000054
	statusDeletePending    = 0xc0000056
	statusPipeNotAvailable = 0xc00000ac
	statusDisconnected     = 0xc000020c // of a pipe
	statusLogonFailure     = 0xc000006d
	statusPasswordExpired  = 0xc0000071
	statusAccountDisabled  = 0xc0000072
	statusAccountLocked    = 0xc0000234
)

func status(err error) uint32 {
	var r *smb2.ResponseError
	if errors.As(err, &r) {
		return r.Code
	}
	return 0
}

//go:build linux

package sshhost

import (
	"os"
	"path/filepath"
	"testing"

	"prestage/internal/host/hosttest"
)

// suite runs the hosts' suite on a user of the server.
func suite(t *testing.T, s *sshd, change func(o *Options)) {
	hosttest.Run(t, func(t *testing.T) hosttest.Subject {
		dir := t.TempDir()
		return hosttest.Subject{
			Host: s.dial(t, func(o *Options) {
				o.Settings = filepath.Join(dir, "etc", "prestage.toml")
				if change != nil {
					change(o)
				}
			}),
			Root:    t.TempDir(),
			Disturb: func(path string) error { return os.Chmod(path, 0o777) },
			Link:    os.Symlink,
			HoldOpen: func(path string) (func(), error) {
				f, err := os.Open(path)
				return func() { f.Close() }, err
			},
		}
	})
}

func TestHost(t *testing.T) { suite(t, startSSHD(t, 0), nil) }

func TestHostBySudo(t *testing.T) {
	s := startSSHD(t, 0)
	t.Run("without a password", func(t *testing.T) {
		suite(t, s, func(o *Options) { o.User = free })
	})
	t.Run("with a password", func(t *testing.T) {
		suite(t, s, func(o *Options) {
			o.User = guarded
			o.Ask = func(q Question) (string, error) {
				if q.Kind != SudoPassword || q.User != guarded || q.Machine != "pc-1" {
					t.Errorf("asked %+v", q)
				}
				return password, nil
			}
		})
	})
}

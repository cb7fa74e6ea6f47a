//go:build unix

package fleet

import (
	"os"
	"path/filepath"
	"testing"

	"prestage/internal/host/hosttest"
	"prestage/internal/localhost"
	"prestage/internal/settings"
)

// A host whose files are limited is a host like others.
func TestLimitedHost(t *testing.T) {
	hosttest.Run(t, func(t *testing.T) hosttest.Subject {
		local := localhost.New(settings.File(filepath.Join(t.TempDir(), "etc", "prestage.toml")))
		return hosttest.Subject{
			Host: NewLimits(1<<40, 1<<40).Share().Host(local), Root: t.TempDir(),
			Disturb: func(path string) error { return os.Chmod(path, 0o777) },
			Link:    os.Symlink,
			HoldOpen: func(path string) (func(), error) {
				f, err := os.Open(path)
				return func() { f.Close() }, err
			},
		}
	})
}

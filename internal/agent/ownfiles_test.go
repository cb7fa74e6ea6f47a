package agent

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"prestage/internal/client"
	"prestage/internal/ownfiles"
	"prestage/internal/settings"
)

// The agent looks at the machine's own files when its images come from a server
// and the files have something of them, and not again for a day.
func TestOwnFiles(t *testing.T) {
	for name, c := range map[string]struct {
		server string
		alike  bool
		want   bool
	}{
		"alike":     {"http://127.0.0.1:9/", true, true},
		"other":     {"http://127.0.0.1:9/", false, false},
		"no server": {"", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			p := newParcel(t, "win11", 1, 1, 2*mib)
			own := filepath.Join(m.dir, "own")
			must(t, os.Mkdir(own, 0o755))
			content := p.image
			if !c.alike {
				content = newParcel(t, "other", 1, 9, 2*mib).image
			}
			write(t, filepath.Join(own, "file"), content)
			must(t, m.keeper.Save(settings.Settings{Server: c.server}))
			b, err := os.ReadFile(filepath.Join(m.dir, "prestage.toml"))
			must(t, err)
			write(t, filepath.Join(m.dir, "prestage.toml"), append(b, "seed_folders = ['"+own+"']\n"...))
			m.stage(p)
			stop := m.start()
			m.installs(p)
			cache := client.NewStore(m.store).OwnFiles()
			if c.want {
				m.eventually("own files are looked at", func() bool { _, err := os.Stat(cache); return err == nil })
			}
			m.rests()
			stop() // waits for what is under way
			known := ownfiles.Load(cache)
			if got := len(known.Files) > 0; got != c.want {
				t.Errorf("%d files are known", len(known.Files))
			}
			if !c.want {
				return
			}
			// Another agent finds that it was done.
			before, err := os.Stat(cache)
			must(t, err)
			again := m.newAgent(&journal{})
			stop = m.run(again)
			time.Sleep(100 * time.Millisecond)
			stop()
			if after, err := os.Stat(cache); err != nil || !after.ModTime().Equal(before.ModTime()) {
				t.Errorf("they were looked at again: %v", err)
			}
		})
	}
}

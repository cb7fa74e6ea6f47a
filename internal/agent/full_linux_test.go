package agent

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/settings"
	"prestage/internal/testenv"
)

// A full disk is told, hurts nothing, and the image is installed once there is
// room.
func TestDiskFull(t *testing.T) {
	testenv.NeedRoot(t)
	m := newMachine(t)
	disk := filepath.Join(m.dir, "disk")
	must(t, os.Mkdir(disk, 0o755))
	must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=16m,mode=755"))
	t.Cleanup(func() {
		if err := unix.Unmount(disk, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	must(t, m.keeper.Save(settings.Settings{VMSFolder: disk}))
	m.store = disk
	filler := filepath.Join(disk, "filler")
	write(t, filler, make([]byte, 12*mib))
	p := newParcel(t, "win11", 1, 1, 8*mib)
	m.stage(p)
	stop := m.start()
	m.tells(Failed, "not enough space")
	m.rests()
	if n := m.log.count(Failed, ""); n != 1 {
		t.Errorf("it was told %d times:\n%s", n, m.log)
	}
	must(t, os.Remove(filler))
	m.installs(p)
	stop() // before its disk goes
}

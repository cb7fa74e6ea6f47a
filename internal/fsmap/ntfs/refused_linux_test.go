package ntfs

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"prestage/internal/fsmap/volume"
	"prestage/internal/testenv"
)

func shortName(t testing.TB, path, short string) {
	t.Helper()
	if err := unix.Setxattr(path, "system.ntfs_dos_name", []byte(short), 0); err != nil {
		t.Fatalf("a short name for %s: %v", path, err)
	}
}

// TestDirty has a volume that ntfsfix wants to be checked.
func TestDirty(t *testing.T) {
	testenv.Need(t, "ntfsfix")
	s := mkntfs(t, 8<<20, "-c", "4096")
	s.open(t)
	command(t, "ntfsfix", s.image)
	s.wantError(t, volume.ErrRefused, "chkdsk /f")
	command(t, "ntfsfix", "-d", s.image)
	s.open(t)
}

// TestVersion has a volume of a version that is not known.
func TestVersion(t *testing.T) {
	s := mkntfs(t, 8<<20, "-c", "4096")
	v, _ := s.open(t)
	s.patchRecord(t, v.geometry, recordVolume, func(p []byte) {
		h := header{attributes: p[le.Uint16(p[0x14:]):]}
		if err := h.eachAttribute(func(a []byte) error {
			if le.Uint32(a) == typeVolumeInfo {
				a[int(le.Uint16(a[0x14:]))+9] = 2
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	})
	s.wantError(t, volume.ErrRefused, "version 3.2")
}

// TestHibernated has systems that sleep, and some that do not.
func TestHibernated(t *testing.T) {
	for _, c := range []struct {
		name, path, head string
		size             int
		words            string // of the error, if any
	}{
		{"asleep", "hiberfil.sys", "hibr", 10_000, "powercfg /h off"},
		{"asleep, another case", "HiberFil.sys", "HIBR", 10_000, "powercfg /h off"},
		{"waking up", "hiberfil.sys", "RSTR", 10_000, "powercfg /h off"},
		{"elsewhere", "hiberfil.sys", "\x00\x00\x00\x00", 100, "another volume"},
		{"awake", "hiberfil.sys", "wake", 10_000, ""},
		{"not in the root", "sub/hiberfil.sys", "hibr", 10_000, ""},
		{"another name", "hiberfil.sys.old", "hibr", 10_000, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mkntfs(t, 8<<20, "-c", "4096")
			s.mounted(t, "", func(dir string) {
				newContents().write(t, dir, c.path, append([]byte(c.head), make([]byte, c.size-len(c.head))...))
			})
			if c.words == "" {
				s.open(t)
			} else {
				s.wantError(t, volume.ErrRefused, c.words)
			}
		})
	}
}

// restartPage makes a restart page of the log as Windows writes it.
func restartPage(major uint16, number uint64, client, flags uint16) []byte {
	p := make([]byte, 4096)
	copy(p, "RSTR")
	le.PutUint16(p[4:], 0x1E)    // update sequence
	le.PutUint16(p[6:], 9)       // its length
	le.PutUint32(p[0x10:], 4096) // size of system pages
	le.PutUint32(p[0x14:], 4096) // and of log pages
	le.PutUint16(p[0x18:], 0x30) // restart area
	le.PutUint16(p[0x1A:], 1)    // minor version
	le.PutUint16(p[0x1C:], major)
	le.PutUint16(p[0x1E:], 0x1234)
	area := p[0x30:]
	le.PutUint64(area, number)
	le.PutUint16(area[8:], 1) // clients
	le.PutUint16(area[0x0A:], noClient)
	le.PutUint16(area[0x0C:], client)
	le.PutUint16(area[0x0E:], flags)
	protect(p)
	return p
}

// TestLog has logs of volumes that were in use under Windows.
func TestLog(t *testing.T) {
	torn := restartPage(1, 9, noClient, logClean)
	torn[511]++
	for _, c := range []struct {
		name          string
		first, second []byte
		words         string // of the error, if any
	}{
		{"dismounted", restartPage(1, 7, noClient, logClean), restartPage(1, 6, noClient, logClean), ""},
		{"clean by its flag", restartPage(1, 7, 0, logClean), restartPage(1, 6, 0, 0), ""},
		{"clean by its clients", restartPage(1, 7, noClient, 0), restartPage(1, 6, 0, 0), ""},
		{"in use", restartPage(1, 7, 0, 0), restartPage(1, 6, noClient, logClean), "was not shut down"},
		{"in use, by the second", restartPage(1, 7, noClient, logClean), restartPage(1, 8, 0, 0), "was not shut down"},
		{"fast startup", restartPage(2, 7, 0, 0), restartPage(2, 6, 0, 0), "powercfg /h off"},
		{"unknown", restartPage(3, 7, noClient, logClean), restartPage(3, 6, noClient, logClean), "version 3"},
		{"torn", torn, restartPage(1, 8, noClient, logClean), "cannot be understood"},
		{"second torn", restartPage(1, 8, noClient, logClean), torn, "cannot be understood"},
		{"nothing of a log", make([]byte, 4096), make([]byte, 4096), "cannot be understood"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := mkntfs(t, 8<<20, "-c", "4096")
			v, _ := s.open(t)
			in, err := v.inode(recordLogFile)
			if err != nil {
				t.Fatal(err)
			}
			log := in.find(typeData, "")
			if log.runs[0].length < 2 {
				t.Fatalf("the log is at %v", log.runs)
			}
			s.patch(t, log.runs[0].cluster*4096, 8192, func(p []byte) {
				copy(p, c.first)
				copy(p[4096:], c.second)
			})
			if c.words == "" {
				s.open(t)
			} else {
				s.wantError(t, volume.ErrRefused, c.words)
			}
		})
	}
}

// TestDamaged has volumes that contradict themselves, and what is none.
func TestDamaged(t *testing.T) {
	const size = 8 << 20
	var at volume.Extent
	make := func(t *testing.T) (system, geometry, uint64, *fileSystem) {
		s := mkntfs(t, size, "-c", "4096")
		s.mounted(t, "", func(dir string) {
			c := newContents()
			c.write(t, dir, "one", testenv.Random(1, 10_000))
			c.write(t, dir, "two", testenv.Random(2, 10_000))
		})
		v, _ := s.open(t)
		list := files(t, v)
		at = list[0].Extents[0]
		return s, v.geometry, list[0].ID, v
	}
	for _, c := range []struct {
		name   string
		damage func(t *testing.T, s system, g geometry, id uint64, v *fileSystem)
		want   error
		words  string
	}{
		{"free in the bitmap", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			cluster := at.Offset / g.cluster
			s.patch(t, v.bitmap.runs[0].cluster*g.cluster+cluster/8, 1, func(p []byte) { p[0] &^= 1 << (cluster % 8) })
		}, volume.ErrDamaged, "is in use, and free in the bitmap"},
		{"torn record", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			s.patch(t, g.mft*g.cluster+int64(id)*g.record+stride-1, 1, func(p []byte) { p[0]++ })
		}, volume.ErrDamaged, "torn"},
		{"record without attributes", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			s.patchRecord(t, g, int64(id), func(p []byte) { le.PutUint32(p[0x18:], 0xFFFF) })
		}, volume.ErrDamaged, "attributes from"},
		{"no such record", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			s.patch(t, g.mft*g.cluster+recordBitmap*g.record, 4, func(p []byte) { clear(p) })
		}, volume.ErrDamaged, "record 6"},
		{"cut short", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			if err := os.Truncate(s.image, size-4096); err != nil {
				t.Fatal(err)
			}
		}, volume.ErrDamaged, "sectors"},
		{"cluster size", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			s.patch(t, 0x0D, 1, func(p []byte) { p[0] = 3 })
		}, volume.ErrDamaged, "cluster size"},
		{"something else", func(t *testing.T, s system, g geometry, id uint64, v *fileSystem) {
			s.patch(t, 3, 8, func(p []byte) { copy(p, "-FVE-FS-") })
		}, volume.ErrUnknown, "boot sector"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, g, id, v := make(t)
			c.damage(t, s, g, id, v)
			s.wantError(t, c.want, c.words)
		})
	}
	empty := system{filepath.Join(t.TempDir(), "empty")}
	if err := os.WriteFile(empty.image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	empty.wantError(t, volume.ErrUnknown, "too small")
}

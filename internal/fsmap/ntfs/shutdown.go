package ntfs

import (
	"bytes"
	"fmt"

	"prestage/internal/fsmap/volume"
)

// Flags of the volume.
const (
	volumeDirty  = 0x0001
	volumeChkdsk = 0x4000 // chkdsk was not finished
)

const (
	logHead = 128 << 10 // of the log, in which both of its restart pages are

	// hiberfil.sys is larger, but on a volume without the system. There a small
	// one says that the system elsewhere sleeps with this volume open.
	leastHibernation = 4096

	noClient = 0xFFFF
	logClean = 0x0002 // flag of a restart area
)

// shutDown is what helps against all of it. Fast startup keeps volumes open
// over what looks like a shutdown.
const shutDown = "start the virtual machine, run `powercfg /h off` and `shutdown /s /t 0` in it"

func refuse(format string, args ...any) error {
	return fmt.Errorf("NTFS %w: %s", volume.ErrRefused, fmt.Sprintf(format, args...))
}

// checkVersion checks that the volume is of a version that is known here, and
// that nothing thinks that it needs to be repaired.
func (fs *fileSystem) checkVersion() error {
	in, err := fs.inode(recordVolume)
	if err != nil {
		return err
	}
	info, err := in.need(typeVolumeInfo, "")
	if err != nil {
		return err
	}
	if len(info.value) < 12 {
		return fmt.Errorf("NTFS volume information: %w", damage("%d bytes", len(info.value)))
	}
	if major, minor := info.value[8], info.value[9]; major != 3 || minor > 1 {
		return refuse("it is version %d.%d, and 3.0 and 3.1 are known", major, minor)
	}
	if flags := le.Uint16(info.value[10:]); flags&(volumeDirty|volumeChkdsk) != 0 {
		return refuse("it is marked as dirty (flags 0x%04x): start the virtual machine, run `chkdsk /f` in it and shut it down", flags)
	}
	return nil
}

// restart is a restart page of the log: what was known when it was written.
type restart struct {
	major  uint16
	number uint64 // the larger, the newer
	clean  bool
}

// checkLog refuses a volume that was not dismounted.
func (fs *fileSystem) checkLog() error {
	in, err := fs.inode(recordLogFile)
	if err != nil {
		return err
	}
	log, err := in.need(typeData, "")
	if err != nil {
		return err
	}
	p := make([]byte, min(logHead, log.initialized))
	if err := fs.content(&log, p, 0); err != nil {
		return fmt.Errorf("NTFS log: %w", err)
	}
	if len(p) >= stride && bytes.Count(p, []byte{0xFF}) == len(p) {
		return nil // ntfs-3g and mkntfs leave it so
	}
	last, err := lastRestart(p)
	switch {
	case err != nil:
		return refuse("its log cannot be understood, %v: %s", err, shutDown)
	case last.major == 2: // a dismount makes 1.1 of it
		return refuse("Windows has it open over a fast startup: %s", shutDown)
	case last.major != 1:
		return refuse("its log is of version %d", last.major)
	case !last.clean:
		return refuse("it was not shut down: %s", shutDown)
	}
	return nil
}

// lastRestart finds the newest restart page in the head of the log. There are
// two, at its start and a page further. A torn one may have been the newest.
func lastRestart(p []byte) (last restart, err error) {
	found := false
	for at := 0; at < len(p); at = max(2*at, stride) {
		if magic := string(p[at:min(at+4, len(p))]); magic != "RSTR" && magic != "CHKD" {
			continue
		}
		r, err := parseRestart(p[at:], at)
		if err != nil {
			return last, err
		}
		if !found || r.number > last.number {
			last = r
		}
		found = true
	}
	if !found {
		return last, damage("it has no restart page")
	}
	return last, nil
}

// parseRestart reads the restart page that lies at that place of the log.
func parseRestart(p []byte, at int) (r restart, err error) {
	if len(p) < stride {
		return r, damage("restart page at %d", at)
	}
	size := int64(le.Uint32(p[0x10:]))
	if size < stride || !isPower(size) || size > int64(len(p)) || at != 0 && int64(at) != size {
		return r, damage("restart page of %d bytes at %d", size, at)
	}
	page := bytes.Clone(p[:size])
	if err := fixUp(page); err != nil {
		return r, err
	}
	area := int64(le.Uint16(page[0x18:]))
	if area < 0x1E || area%8 != 0 || area+0x30 > size {
		return r, damage("restart area at %d", area)
	}
	r.major = le.Uint16(page[0x1C:])
	r.number = le.Uint64(page[area:])
	if string(page[:4]) == "CHKD" {
		r.number = le.Uint64(page[8:])
	}
	r.clean = le.Uint16(page[area+0x0C:]) == noClient || le.Uint16(page[area+0x0E:])&logClean != 0
	return r, nil
}

// checkHibernation refuses a volume whose hiberfil.sys, the file of one of the
// records, has a system in it.
func (fs *fileSystem) checkHibernation(records []int64) error {
	for _, number := range records {
		in, err := fs.inode(number)
		if err != nil {
			return err
		}
		file := in.find(typeData, "")
		if file == nil || file.size < leastHibernation {
			return refuse("it belongs to a hibernated Windows on another volume (fast startup does that too): %s", shutDown)
		}
		if file.initialized < 4 || !file.resident && (len(file.runs) == 0 || file.runs[0].virtual > 0) {
			continue // nothing is in it
		}
		if file.flags&(flagCompressed|flagEncrypted) != 0 {
			return refuse("its hiberfil.sys is compressed or encrypted, and may hold a hibernated Windows: %s", shutDown)
		}
		magic := make([]byte, 4)
		if err := fs.content(file, magic, 0); err != nil {
			return fmt.Errorf("NTFS file record %d: %w", number, err)
		}
		switch string(bytes.ToLower(magic)) {
		case "hibr", "rstr": // asleep; on its way to be awake
			return refuse("it holds a hibernated Windows (fast startup does that too): %s", shutDown)
		}
	}
	return nil
}

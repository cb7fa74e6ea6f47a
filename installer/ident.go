package installer

import (
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"time"
)

// namespace makes the identifiers of this project's installers.
var namespace = [16]byte{0x7a, 0x1d, 0x0f, 0x0a, 0x5b, 0x0e, 0x4c, 0x39, 0x9a, 0x43, 0x27, 0x8e, 0x61, 0xd5, 0xc4, 0x10}

// guid returns the identifier of a name: a UUID of version 5 (RFC 9562), in the
// upper case that Windows Installer wants.
func guid(name string) string {
	sum := sha1.Sum(append(namespace[:], name...))
	u := sum[:16]
	u[6] = u[6]&0x0f | 0x50
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%X-%X-%X-%X-%X", u[:4], u[4:6], u[6:8], u[8:10], u[10:])
}

var release = regexp.MustCompile(`^v?(\d+)\.(\d+)(?:\.(\d+))?(?:[-+].*)?$`)

// ProductVersion returns a version as Windows Installer compares it: three
// numbers, of at most 255, 255 and 65535. What follows them is left out, so
// that a candidate, the release and a build after it are one version to it. A
// version that has no numbers, that of a tree without a tag, is 0.0.0.
func ProductVersion(version string) (string, error) {
	m := release.FindStringSubmatch(version)
	if m == nil {
		return "0.0.0", nil
	}
	var n [3]uint64
	for i, most := range []uint64{255, 255, 65535} {
		if m[i+1] == "" {
			continue
		}
		var err error
		if n[i], err = strconv.ParseUint(m[i+1], 10, 32); err != nil || n[i] > most {
			return "", fmt.Errorf("version %s: Windows Installer takes %d at most in place %d", version, most, i+1)
		}
	}
	return fmt.Sprintf("%d.%d.%d", n[0], n[1], n[2]), nil
}

// summaryFormat is the format identifier of the stream SummaryInformation
// ([MS-OLEPS] 2.21), and its properties of type FILETIME, which msibuild sets to now.
var summaryFormat = []byte{0xe0, 0x85, 0x9f, 0xf2, 0xf9, 0x4f, 0x68, 0x10, 0xab, 0x91, 0x08, 0x00, 0x2b, 0x27, 0xb3, 0xd9}

const (
	propertyCreated  = 12
	propertySaved    = 13
	propertyFileTime = 0x40
)

// setTimes sets the times in the summary of the MSI in b.
func setTimes(b []byte, to time.Time) error {
	errNone := errors.New("the MSI has no summary where its times could be set")
	at := bytes.Index(b, summaryFormat)
	// Before the identifier are 28 bytes of header; after it, the section's offset.
	if at < 28 || len(b) < at+20 {
		return errNone
	}
	le := binary.LittleEndian
	start := at - 28 + int(le.Uint32(b[at+16:]))
	if start < 0 || start+8 > len(b) {
		return errNone
	}
	section := b[start:]
	set := 0
	for i := range int(le.Uint32(section[4:])) {
		entry := 8 + 8*i
		if entry+8 > len(section) {
			return errNone
		}
		id, offset := le.Uint32(section[entry:]), int(le.Uint32(section[entry+4:]))
		if id != propertyCreated && id != propertySaved {
			continue
		}
		if offset < 0 || offset+12 > len(section) || le.Uint32(section[offset:]) != propertyFileTime {
			return errNone
		}
		// 100 ns since 1601.
		le.PutUint64(section[offset+4:], uint64(to.Unix()+11_644_473_600)*10_000_000)
		set++
	}
	if set != 2 {
		return errNone
	}
	return nil
}

package acl

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// SID is a security identifier in its string form (MS-DTYP 2.4.2.1).
type SID string

// The identities of the procedure.
const (
	AuthenticatedUsers SID = "S-1-5-11"
	System             SID = "S-1-5-18"
	Administrators     SID = "S-1-5-32-544"
)

// Allow is the type of an entry that grants its rights; Deny of one that
// refuses them (MS-DTYP 2.4.4.1).
const (
	Allow byte = 0
	Deny  byte = 1
)

// Flags of an entry (MS-DTYP 2.4.4.1).
const (
	inheritByFiles   byte = 0x01
	inheritByFolders byte = 0x02
	inherited        byte = 0x10
)

// Entry is one access control entry.
type Entry struct {
	Type  byte
	Flags byte
	Mask  Mask
	SID   SID
}

// Descriptor is what Windows keeps of the security of a file or a folder
// (MS-DTYP 2.4.6), as far as the procedure is concerned.
type Descriptor struct {
	Owner     SID  // empty when it was not asked for
	HasDACL   bool // without one, everybody may do everything
	Protected bool // nothing is inherited from the folder above
	Entries   []Entry
}

// SDDL renders the descriptor's DACL (MS-DTYP 2.5.1).
func (d Descriptor) SDDL() string {
	if !d.HasDACL {
		return "D:NO_ACCESS_CONTROL"
	}
	var b strings.Builder
	b.WriteString("D:")
	if d.Protected {
		b.WriteByte('P')
	}
	for _, e := range d.Entries {
		kind := map[byte]string{Allow: "A", Deny: "D"}[e.Type]
		flags := ""
		for _, f := range []struct {
			bit  byte
			name string
		}{{inheritByFiles, "OI"}, {inheritByFolders, "CI"}, {0x04, "NP"}, {0x08, "IO"}, {inherited, "ID"}} {
			if e.Flags&f.bit != 0 {
				flags += f.name
			}
		}
		mask := fmt.Sprintf("%#x", uint32(e.Mask))
		if e.Mask == FullControl {
			mask = "FA"
		}
		sid, short := map[SID]string{AuthenticatedUsers: "AU", System: "SY", Administrators: "BA"}[e.SID]
		if !short {
			sid = string(e.SID)
		}
		fmt.Fprintf(&b, "(%s;%s;%s;;;%s)", kind, flags, mask, sid)
	}
	return b.String()
}

const (
	headerSize    = 20
	selfRelative  = 0x8000
	daclPresent   = 0x0004
	daclProtected = 0x1000
	maxSubIDs     = 15
)

// ErrDescriptor says that bytes are not a security descriptor.
var ErrDescriptor = errors.New("not a valid security descriptor")

// Bytes encodes the descriptor in its self-relative form. Owner and SIDs must
// be well formed, as those of Folder, File and Parse are.
func (d Descriptor) Bytes() []byte {
	le := binary.LittleEndian
	b := make([]byte, headerSize)
	b[0] = 1
	control := uint16(selfRelative)
	if d.Owner != "" {
		le.PutUint32(b[4:], uint32(len(b)))
		b = append(b, d.Owner.bytes()...)
	}
	if d.HasDACL {
		control |= daclPresent
		le.PutUint32(b[16:], uint32(len(b)))
		var entries []byte
		for _, e := range d.Entries {
			sid := e.SID.bytes()
			entries = append(entries, e.Type, e.Flags)
			entries = le.AppendUint16(entries, uint16(8+len(sid)))
			entries = le.AppendUint32(entries, uint32(e.Mask))
			entries = append(entries, sid...)
		}
		b = append(b, 2, 0) // ACL_REVISION
		b = le.AppendUint16(b, uint16(8+len(entries)))
		b = le.AppendUint16(b, uint16(len(d.Entries)))
		b = append(b, 0, 0)
		b = append(b, entries...)
	}
	if d.Protected {
		control |= daclProtected
	}
	le.PutUint16(b[2:], control)
	return b
}

// Parse decodes a self-relative security descriptor. It may come from a machine
// that is not trusted. The error wraps ErrDescriptor.
func Parse(b []byte) (d Descriptor, err error) {
	le := binary.LittleEndian
	if len(b) < headerSize || b[0] != 1 {
		return d, fmt.Errorf("%w: its header", ErrDescriptor)
	}
	control := le.Uint16(b[2:])
	if control&selfRelative == 0 {
		return d, fmt.Errorf("%w: it is not self-relative", ErrDescriptor)
	}
	d.Protected = control&daclProtected != 0
	if off := le.Uint32(b[4:]); off != 0 {
		if d.Owner, err = parseSID(b, off); err != nil {
			return d, err
		}
	}
	off := uint64(le.Uint32(b[16:]))
	if control&daclPresent == 0 || off == 0 {
		return d, nil
	}
	d.HasDACL = true
	if off+8 > uint64(len(b)) {
		return d, fmt.Errorf("%w: its DACL lies outside", ErrDescriptor)
	}
	acl := b[off:]
	size, count := int(le.Uint16(acl[2:])), int(le.Uint16(acl[4:]))
	if size < 8 || size > len(acl) {
		return d, fmt.Errorf("%w: the size of its DACL", ErrDescriptor)
	}
	acl = acl[8:size]
	for range count {
		if len(acl) < 8 {
			return d, fmt.Errorf("%w: its DACL is cut", ErrDescriptor)
		}
		e := Entry{Type: acl[0], Flags: acl[1], Mask: Mask(le.Uint32(acl[4:]))}
		size := int(le.Uint16(acl[2:]))
		if size < 8 || size > len(acl) {
			return d, fmt.Errorf("%w: the size of an entry", ErrDescriptor)
		}
		// Other types (of objects, with conditions) hold more before their SID.
		if e.Type == Allow || e.Type == Deny {
			if e.SID, err = parseSID(acl[:size], 8); err != nil {
				return d, err
			}
		}
		d.Entries = append(d.Entries, e)
		acl = acl[size:]
	}
	return d, nil
}

func parseSID(b []byte, off uint32) (SID, error) {
	if uint64(off)+8 > uint64(len(b)) {
		return "", fmt.Errorf("%w: a SID lies outside", ErrDescriptor)
	}
	b = b[off:]
	n := int(b[1])
	if b[0] != 1 || n > maxSubIDs || 8+4*n > len(b) {
		return "", fmt.Errorf("%w: a SID", ErrDescriptor)
	}
	var authority uint64
	for _, c := range b[2:8] {
		authority = authority<<8 | uint64(c)
	}
	s := fmt.Sprintf("S-1-%d", authority)
	if authority > math.MaxUint32 {
		s = fmt.Sprintf("S-1-0x%012x", authority)
	}
	for i := range n {
		s += "-" + strconv.FormatUint(uint64(binary.LittleEndian.Uint32(b[8+4*i:])), 10)
	}
	return SID(s), nil
}

// bytes encodes a SID; one that is not well formed becomes that of nobody.
func (s SID) bytes() []byte {
	nobody := []byte{1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	parts := strings.Split(string(s), "-")
	if len(parts) < 3 || len(parts) > 3+maxSubIDs || parts[0] != "S" || parts[1] != "1" {
		return nobody
	}
	authority, err := strconv.ParseUint(parts[2], 0, 48)
	if err != nil {
		return nobody
	}
	b := []byte{1, byte(len(parts) - 3)}
	for shift := 40; shift >= 0; shift -= 8 {
		b = append(b, byte(authority>>shift))
	}
	for _, p := range parts[3:] {
		n, err := strconv.ParseUint(p, 10, 32)
		if err != nil {
			return nobody
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(n))
	}
	return b
}

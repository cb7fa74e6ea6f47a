package smbhost

// handshake is what the guard knows of the logon. It does three things that are
// due there (MS-SMB2 3.2.5.3) and that the client library does not do.
//
// The library encrypts only what the machine demands to be encrypted. A machine
// must understand whoever encrypts as soon as both know how, so the demand is
// written into the last answer of the logon, whose signature the library does
// not check, and all that follows is encrypted.
//
// The library accepts that the last answer calls us a guest or nobody: it then
// neither signs nor checks signatures, and whoever sits on the way could be the
// machine. And it crashes if a machine demands encryption that was not agreed on.
type handshake struct {
	status     uint32 // of the latest answer to the logon
	canEncrypt bool   // encryption was agreed on
	encrypted  bool   // and is used
}

// What is read of the answers (MS-SMB2 2.2.4, 2.2.6).
const (
	negotiateSize     = headerSize + 64
	smallestMost      = 64 << 10 // of what a machine must allow to be read or written at once
	dialect300        = 0x0300
	dialect311        = 0x0311
	capableEncryption = 0x40 // a capability, of dialects before 3.1.1
	contextEncryption = 2

	sessionGuest   = 0x1
	sessionNull    = 0x2
	sessionEncrypt = 0x4

	statusMoreProcessing = 0xc0000016
)

// loggedOn returns what the machine last answered to the logon, and whether what
// follows is encrypted.
func (g *guard) loggedOn() (status uint32, encrypted bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.logon.status, g.logon.encrypted
}

// negotiated checks what the machine says of itself, and notes whether both
// sides can encrypt.
func (g *guard) negotiated(m []byte) error {
	if len(m) < negotiateSize {
		return g.refuse("how it wants to be spoken to is cut")
	}
	dialect := le.Uint16(m[68:])
	switch dialect {
	case 0x0202, 0x0210, dialect300, 0x0302, dialect311:
	default:
		return g.refuse("dialect %#x, which was not offered", dialect)
	}
	for _, at := range []int{92, 96, 100} {
		if le.Uint32(m[at:]) < smallestMost {
			return g.refuse("%d bytes at most are too few", le.Uint32(m[at:]))
		}
	}
	can := dialect >= dialect300 && dialect != dialect311 && le.Uint32(m[88:])&capableEncryption != 0
	if dialect == dialect311 {
		var ok bool
		if can, ok = agreedCipher(m); !ok {
			return g.refuse("what was agreed on is cut, or said twice")
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.logon.canEncrypt = can
	return nil
}

// agreedCipher reports whether a negotiation names a cipher. It names one that
// was offered, or cipher 0: there is none in common.
func agreedCipher(m []byte) (can, ok bool) {
	at, seen := int(le.Uint32(m[124:])), false
	for range le.Uint16(m[70:]) {
		if at < negotiateSize || at+8 > len(m) {
			return false, false
		}
		end := at + 8 + int(le.Uint16(m[at+2:]))
		if end > len(m) {
			return false, false
		}
		if le.Uint16(m[at:]) == contextEncryption {
			if end-at < 12 || seen {
				return false, false
			}
			seen, can = true, le.Uint16(m[at+10:]) != 0
		}
		at = (end + 7) / 8 * 8
	}
	return can, true
}

// answered takes care that nothing is done that is not signed, and that what
// follows is encrypted if that can be.
func (g *guard) answered(m []byte, status uint32) error {
	g.mu.Lock()
	g.logon.status = status
	can := g.logon.canEncrypt
	g.mu.Unlock()
	if status != 0 && status != statusMoreProcessing {
		return nil
	}
	if len(m) < headerSize+8 {
		return g.refuse("the logon is not answered as it should be")
	}
	flags := le.Uint16(m[66:])
	switch {
	case flags&(sessionGuest|sessionNull) != 0:
		return g.refuse("it takes us for a guest, and signs nothing")
	case flags&sessionEncrypt != 0 && !can:
		return g.refuse("it demands encryption that was not agreed on")
	case status == 0 && can:
		le.PutUint16(m[66:], flags|sessionEncrypt)
		g.mu.Lock()
		g.logon.encrypted = true
		g.mu.Unlock()
	}
	return nil
}

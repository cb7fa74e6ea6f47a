package smbhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// handshake is a connection on which a machine logs us on. It reads along, since
// the client library does not do three things that are due here (MS-SMB2 3.2.5.3).
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
	net.Conn
	ready []byte // of a message that was looked at and is not read yet

	mu         sync.Mutex
	over       bool   // what follows is not looked at
	dialect    uint16 // agreed on, 0 before that
	canEncrypt bool   // encryption was agreed on
	encrypted  bool   // and is used
	status     uint32 // of the latest answer to the logon
	err        error
}

// errUntrusted says that whoever answers does not prove to be the machine.
var errUntrusted = errors.New("the answer is not that of a machine that can be trusted")

// What is read of messages (MS-SMB2 2.2.1.2, 2.2.4, 2.2.6).
const (
	smbHeader         = 64
	commandNegotiate  = 0
	commandLogon      = 1
	negotiateSize     = smbHeader + 64
	dialectUndecided  = 0x02ff
	dialect300        = 0x0300
	dialect311        = 0x0311
	capableEncryption = 0x40 // a capability, of dialects before 3.1.1
	contextEncryption = 2
	flagGuest         = 0x1
	flagNobody        = 0x2
	flagEncrypt       = 0x4
	maxHandshake      = 1 << 20 // bytes of a message
)

var le = binary.LittleEndian

// end says that the logon is done. It returns what the machine last answered to
// it, whether what follows is encrypted, and what was wrong that the library
// could not know.
func (h *handshake) end() (status uint32, encrypted bool, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over = true
	return h.status, h.encrypted, h.err
}

// Read implements io.Reader. Only one Read is under way at a time.
func (h *handshake) Read(p []byte) (int, error) {
	h.mu.Lock()
	over := h.over
	h.mu.Unlock()
	if len(h.ready) == 0 && !over {
		if err := h.next(); err != nil {
			return 0, err
		}
	}
	if len(h.ready) > 0 {
		n := copy(p, h.ready)
		h.ready = h.ready[n:]
		return n, nil
	}
	return h.Conn.Read(p)
}

// next reads a message and looks at it.
func (h *handshake) next() error {
	var size [4]byte
	if _, err := io.ReadFull(h.Conn, size[:]); err != nil {
		return err
	}
	n := int(binary.BigEndian.Uint32(size[:]))
	if n > maxHandshake {
		return h.fail(fmt.Errorf("%w: a message of %d bytes", errUntrusted, n))
	}
	m := make([]byte, 4+n)
	copy(m, size[:])
	if _, err := io.ReadFull(h.Conn, m[4:]); err != nil {
		return err
	}
	if err := h.look(m[4:]); err != nil {
		return h.fail(err)
	}
	h.ready = m
	return nil
}

func (h *handshake) fail(err error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.over {
		h.err = err
	}
	return err
}

// look looks at a message, and changes the last one of a logon.
func (h *handshake) look(m []byte) error {
	if len(m) < smbHeader || string(m[:4]) != "\xfeSMB" {
		return nil // the library skips it, or it is encrypted already
	}
	if le.Uint32(m[20:]) != 0 {
		return fmt.Errorf("%w: several messages at once", errUntrusted)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	status := le.Uint32(m[8:])
	switch command := le.Uint16(m[12:]); {
	case command == commandNegotiate && status == 0:
		return h.negotiated(m)
	case command == commandLogon:
		h.status = status
		if status == 0 || status == statusMoreProcessing {
			return h.loggedOn(m, status == 0)
		}
	}
	return nil
}

// negotiated notes whether both sides can encrypt.
func (h *handshake) negotiated(m []byte) error {
	if len(m) < negotiateSize || h.dialect != 0 {
		return fmt.Errorf("%w: the protocol is not negotiated as it should be", errUntrusted)
	}
	dialect := le.Uint16(m[68:])
	if dialect == dialectUndecided {
		return nil // it is asked once more
	}
	h.dialect = dialect
	if dialect < dialect300 {
		return nil
	}
	if dialect != dialect311 {
		h.canEncrypt = le.Uint32(m[88:])&capableEncryption != 0
		return nil
	}
	at := int(le.Uint32(m[124:]))
	for range le.Uint16(m[70:]) {
		if at < negotiateSize || at+8 > len(m) {
			return fmt.Errorf("%w: the protocol is not negotiated as it should be", errUntrusted)
		}
		end := at + 8 + int(le.Uint16(m[at+2:]))
		if end > len(m) {
			return fmt.Errorf("%w: the protocol is not negotiated as it should be", errUntrusted)
		}
		if le.Uint16(m[at:]) == contextEncryption {
			// One cipher that the library knows, or cipher 0: they have none in common.
			if data := m[at+8 : end]; len(data) < 4 || h.canEncrypt {
				return fmt.Errorf("%w: the protocol is not negotiated as it should be", errUntrusted)
			} else {
				h.canEncrypt = le.Uint16(data[2:]) != 0
			}
		}
		at = (end + 7) / 8 * 8
	}
	return nil
}

// loggedOn takes care that nothing is done that is not signed, and that what
// follows is encrypted if that can be.
func (h *handshake) loggedOn(m []byte, last bool) error {
	if len(m) < smbHeader+8 {
		return fmt.Errorf("%w: the logon is not answered as it should be", errUntrusted)
	}
	flags := le.Uint16(m[66:])
	switch {
	case flags&(flagGuest|flagNobody) != 0:
		return fmt.Errorf("%w: it takes us for a guest, and guests are told nothing that is signed", errUntrusted)
	case flags&flagEncrypt != 0 && !h.canEncrypt:
		return fmt.Errorf("%w: it demands encryption that was not agreed on", errUntrusted)
	case last && h.canEncrypt:
		le.PutUint16(m[66:], flags|flagEncrypt)
		h.encrypted = true
	}
	return nil
}

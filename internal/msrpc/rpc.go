// Package msrpc speaks the two remote procedure calls that staging a Windows
// machine takes: the remote registry (MS-RRP) and service control (MS-SCMR), over
// named pipes. Replies may come from a machine that is not trusted.
package msrpc

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Pipe is an open named pipe in message mode: a Read gets one message, a Write
// sends one. The session that it belongs to protects and authenticates calls.
type Pipe interface {
	io.Reader
	io.Writer
	io.Closer
}

// ErrProtocol says that a reply is not what the protocol allows.
var ErrProtocol = errors.New("not a valid RPC reply")

// Fault is a call that the server could not make (C706, chapter 14).
type Fault uint32

// Error implements error.
func (f Fault) Error() string { return fmt.Sprintf("RPC fault %#08x", uint32(f)) }

// Types of packets (C706 12.6.3.1), and flags in their header.
const (
	packetRequest  = 0
	packetResponse = 2
	packetFault    = 3
	packetBind     = 11
	packetBindAck  = 12

	firstFragment = 1
	lastFragment  = 2
)

const (
	headerSize = 16
	callHeader = headerSize + 8
	// maxFragment is the largest fragment that we ask for, in bytes, as Windows
	// has it; minFragment the smallest that every server must take.
	maxFragment = 4280
	minFragment = 1432
	// readSize is the buffer that messages are read into: what does not fit is
	// lost with some clients of SMB.
	readSize = 64 << 10
	// maxReply is the longest reply that is read: a registry value of the
	// largest size, and what comes with it.
	maxReply = 2 << 20
	// maxFragments is how many parts a reply may come in: servers fill them.
	maxFragments = maxReply / 1024
)

var le = binary.LittleEndian

// conn is a bound connection. One call is made at a time.
type conn struct {
	pipe     Pipe
	call     uint32
	fragment int
	buf      []byte // received and not used yet
}

// uuid is an interface's identity as it is sent (C706, appendix A).
type uuid [16]byte

// ndr is the transfer syntax 8a885d04-1ceb-11c9-9fe8-08002b104860.
var ndr = uuid{0x04, 0x5d, 0x88, 0x8a, 0xeb, 0x1c, 0xc9, 0x11, 0x9f, 0xe8, 0x08, 0x00, 0x2b, 0x10, 0x48, 0x60}

func header(kind, flags byte, length int, call uint32) []byte {
	h := make([]byte, headerSize, length)
	h[0], h[2], h[3] = 5, kind, flags
	h[4] = 0x10 // little-endian numbers, ASCII, IEEE
	le.PutUint16(h[8:], uint16(length))
	le.PutUint32(h[12:], call)
	return h
}

// bind opens an interface on a pipe, which is closed if that fails.
func bind(p Pipe, id uuid, version uint32) (*conn, error) {
	c := &conn{pipe: p, call: 1, fragment: maxFragment}
	if err := c.bind(id, version); err != nil {
		p.Close()
		return nil, err
	}
	return c, nil
}

func (c *conn) bind(id uuid, version uint32) error {
	const length = headerSize + 8 + 4 + 4 + 2*20
	b := header(packetBind, firstFragment|lastFragment, length, c.call)
	b = le.AppendUint16(b, maxFragment)
	b = le.AppendUint16(b, maxFragment)
	b = le.AppendUint32(b, 0)
	b = append(b, 1, 0, 0, 0) // one context,
	b = append(b, 0, 0, 1, 0) // number 0, of one transfer syntax
	b = append(b, id[:]...)
	b = le.AppendUint32(b, version)
	b = append(b, ndr[:]...)
	b = le.AppendUint32(b, 2)
	if _, err := c.pipe.Write(b); err != nil {
		return err
	}
	kind, _, body, err := c.packet()
	if err != nil {
		return err
	}
	if kind != packetBindAck || len(body) < 10 {
		return fmt.Errorf("%w: to a bind, a packet of type %d", ErrProtocol, kind)
	}
	if n := int(le.Uint16(body[2:])); n >= minFragment {
		c.fragment = min(c.fragment, n)
	}
	// A name of the pipe, padded, comes before the result of each context.
	at := (headerSize + 10 + int(le.Uint16(body[8:])) + 3) / 4 * 4
	if at -= headerSize; at+8 > len(body) {
		return fmt.Errorf("%w: a bind's answer is cut", ErrProtocol)
	}
	if result := le.Uint16(body[at+4:]); result != 0 {
		return fmt.Errorf("the machine does not offer this interface (result %d)", result)
	}
	return nil
}

// packet reads one packet of our call: its type, flags and what follows the
// header.
func (c *conn) packet() (kind, flags byte, body []byte, err error) {
	if err := c.fill(headerSize); err != nil {
		return 0, 0, nil, err
	}
	h := c.buf
	length := int(le.Uint16(h[8:]))
	if h[0] != 5 || h[4] != 0x10 || length < headerSize || le.Uint32(h[12:]) != c.call || le.Uint16(h[10:]) != 0 {
		return 0, 0, nil, fmt.Errorf("%w: its header", ErrProtocol)
	}
	if err := c.fill(length); err != nil {
		return 0, 0, nil, err
	}
	body, c.buf = c.buf[headerSize:length], c.buf[length:]
	return h[2], h[3], body, nil
}

// fill reads until n bytes are there.
func (c *conn) fill(n int) error {
	for len(c.buf) < n {
		p := make([]byte, readSize)
		m, err := c.pipe.Read(p)
		c.buf = append(c.buf, p[:m]...)
		if m == 0 {
			if err == nil || errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return err
		}
	}
	return nil
}

// invoke makes a call and returns its result.
func (c *conn) invoke(operation uint16, in []byte) (*reader, error) {
	c.call++
	c.buf = nil
	for first := true; first || len(in) > 0; first = false {
		part := in[:min(len(in), c.fragment-callHeader)]
		flags := byte(0)
		if first {
			flags |= firstFragment
		}
		if len(part) == len(in) {
			flags |= lastFragment
		}
		b := header(packetRequest, flags, callHeader+len(part), c.call)
		b = le.AppendUint32(b, uint32(len(in)))
		b = le.AppendUint16(b, 0)
		b = le.AppendUint16(b, operation)
		if _, err := c.pipe.Write(append(b, part...)); err != nil {
			return nil, err
		}
		in = in[len(part):]
	}
	var out []byte
	for fragments := 1; ; fragments++ {
		kind, flags, body, err := c.packet()
		if err != nil {
			return nil, err
		}
		if len(body) < 8 || kind == packetFault && len(body) < 12 {
			return nil, fmt.Errorf("%w: a reply is cut", ErrProtocol)
		}
		switch kind {
		case packetResponse:
			out = append(out, body[8:]...)
		case packetFault:
			return nil, Fault(le.Uint32(body[8:]))
		default:
			return nil, fmt.Errorf("%w: a packet of type %d", ErrProtocol, kind)
		}
		if len(out) > maxReply || fragments > maxFragments {
			return nil, fmt.Errorf("%w: it has more than %d bytes or %d parts", ErrProtocol, maxReply, maxFragments)
		}
		if flags&lastFragment != 0 {
			return &reader{b: out}, nil
		}
	}
}

func (c *conn) close() error { return c.pipe.Close() }

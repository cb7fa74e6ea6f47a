package smbhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// ErrProtocol says that a machine answers what the protocol does not allow.
var ErrProtocol = errors.New("not a valid SMB reply")

// guard stands between the network and the SMB client. The client is written
// for servers that mean well: replies that an honest server never sends make it
// wait for ever, write the same bytes without end, give up signing, or panic.
// The guard knows which requests wait for a reply, lets through what can be a
// reply to one of them, and ends the connection at anything else. It need not
// be right about what is forged: signatures are checked after it.
//
// Of replies that are encrypted it sees the outside only: that is all of them
// once the logon is over, if the machine can encrypt (handshake.go). Then the
// guard knows from the calls of the client that something is owed, and its
// owner asks the machine for a sign of life while a reply takes time.
type guard struct {
	net.Conn
	silence time.Duration
	calls   atomic.Int32 // of the client that are under way

	// The requests, as they pass; one goroutine writes.
	out frame

	// The reply that is being read; one goroutine reads.
	head []byte // checked and not read yet
	rest int    // bytes that follow it

	mu       sync.Mutex
	requests map[uint64]request // that wait for a reply, by message ID
	credits  int                // requests that the machine still allows
	sent     int                // messages
	received int
	since    time.Time // when what waits was sent, or something came; zero: nothing waits
	slow     time.Time // when the reply that has begun must have ended
	logon    handshake
	leaving  bool // the reply to the logoff is the last one
	left     bool
	err      error // why replies are not believed any more
}

// request is what a reply must fit to.
type request struct {
	command uint16
	session uint64
	length  uint32 // of what a write writes, bytes
	interim bool   // it was said that the reply takes time
}

// The parts of a message (MS-SMB2 2.1, 2.2.1, 2.2.41) that matter here, in bytes.
const (
	prefixSize    = 4
	headerSize    = 64
	transformSize = 52
	// headSize is how much of a message is looked at: its header and the fixed
	// part of what follows.
	headSize = headerSize + 64
	// maxReply is the longest reply: the client never asks for more than 1 MiB.
	maxReply = 1<<20 + 64<<10
	// slowest is how many bytes of a reply that has begun come in a second, at
	// least; less is a machine that hangs.
	slowest = 4 << 10
	// unasked is how many replies may come that nobody has asked for.
	unasked = 8
)

// Commands (MS-SMB2 2.2.1.2), flags, and codes.
const (
	commandNegotiate    = 0
	commandSessionSetup = 1
	commandLogoff       = 2
	commandWrite        = 9

	flagReply = 0x1
	flagAsync = 0x2

	statusPending = 0x00000103
)

var le = binary.LittleEndian

func newGuard(c net.Conn, silence time.Duration) *guard {
	return &guard{Conn: c, silence: silence, requests: map[uint64]request{}, credits: 1}
}

// refuse ends the belief in the machine's replies.
func (g *guard) refuse(format string, args ...any) error {
	err := fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err == nil {
		g.err = err
	}
	return g.err
}

// refused returns why replies are not believed any more, or nil.
func (g *guard) refused() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

// overdue reports whether the machine owes a reply, or the rest of one, for too
// long. A reply of which it has said that it takes time is not owed.
func (g *guard) overdue(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.logon.encrypted && g.calls.Load() == 0 {
		g.since = time.Time{}
	}
	return !g.since.IsZero() && now.Sub(g.since) > g.silence || !g.slow.IsZero() && now.After(g.slow)
}

// quiet returns for how long the machine has owed something without a word, where
// it encrypts: it may have said that it takes time, which cannot be seen.
func (g *guard) quiet(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.logon.encrypted || g.since.IsZero() || g.calls.Load() == 0 {
		return 0
	}
	return now.Sub(g.since)
}

// heard notes that something came, or that a reply ended.
func (g *guard) heard(ended bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if ended {
		g.slow = time.Time{}
	}
	g.since = time.Time{}
	if ended := g.slow.IsZero(); !ended || g.logon.encrypted {
		g.since = time.Now()
		return
	}
	for _, r := range g.requests {
		if !r.interim {
			g.since = time.Now()
			return
		}
	}
}

// leave makes the reply to the logoff end the connection, as an error. The
// client would take the end after a logoff for no error at all, and what still
// waits for a reply would get none, which it does not expect.
func (g *guard) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.leaving = true
}

// loggedOff reports whether the reply to the logoff has come.
func (g *guard) loggedOff() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.left
}

// frame follows messages through a stream.
type frame struct {
	head []byte // of the message, as far as it has come
	rest int    // bytes that follow
}

// pass takes the next bytes of the stream and calls whole with each head that is
// complete and the length of its message.
func (f *frame) pass(p []byte, whole func(head []byte, length int)) {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(f.rest, len(p))
			f.rest -= n
			p = p[n:]
			continue
		}
		want := prefixSize
		if len(f.head) >= prefixSize {
			want += min(messageLength(f.head), headSize)
		}
		n := min(want-len(f.head), len(p))
		f.head = append(f.head, p[:n]...)
		p = p[n:]
		if len(f.head) < prefixSize {
			continue
		}
		length := messageLength(f.head)
		if len(f.head) == prefixSize+min(length, headSize) {
			whole(f.head[prefixSize:], length)
			f.rest, f.head = length-(len(f.head)-prefixSize), f.head[:0]
		}
	}
}

// messageLength is what a message's prefix says of its length.
func messageLength(prefix []byte) int { return int(binary.BigEndian.Uint32(prefix) & 0xffffff) }

// Write implements net.Conn. The requests are noted before they are sent.
func (g *guard) Write(p []byte) (int, error) {
	g.mu.Lock()
	g.out.pass(p, g.note)
	g.mu.Unlock()
	return g.Conn.Write(p)
}

// note takes a request that is sent.
func (g *guard) note(head []byte, _ int) {
	g.sent++
	if g.since.IsZero() {
		g.since = time.Now()
	}
	if len(head) < headerSize || head[0] != 0xfe {
		return // it is encrypted
	}
	r := request{command: le.Uint16(head[12:]), session: le.Uint64(head[40:])}
	if r.command == commandWrite && len(head) >= headerSize+8 {
		r.length = le.Uint32(head[headerSize+4:])
	}
	g.credits -= int(max(1, le.Uint16(head[6:])))
	g.requests[le.Uint64(head[24:])] = r
}

// Read implements net.Conn.
func (g *guard) Read(p []byte) (int, error) {
	if len(g.head) == 0 && g.rest == 0 {
		if err := g.next(); err != nil {
			return 0, err
		}
	}
	var n int
	var err error
	if len(g.head) > 0 {
		n = copy(p, g.head)
		g.head = g.head[n:]
	} else {
		n, err = g.Conn.Read(p[:min(len(p), g.rest)])
		g.rest -= n
	}
	if n > 0 {
		g.heard(len(g.head) == 0 && g.rest == 0)
	}
	return n, err
}

// next reads the head of the next message and checks it.
func (g *guard) next() error {
	if err := g.refused(); err != nil {
		return err
	}
	head := make([]byte, prefixSize, prefixSize+headSize)
	if _, err := io.ReadFull(g.Conn, head); err != nil {
		return err
	}
	length := messageLength(head)
	if head[0] != 0 || length < headerSize || length > maxReply {
		return g.refuse("a message of type %d and %d bytes", head[0], length)
	}
	g.mu.Lock()
	g.slow = time.Now().Add(g.silence + time.Duration(length)*time.Second/slowest)
	g.mu.Unlock()
	head = head[:prefixSize+min(length, headSize)]
	if _, err := io.ReadFull(g.Conn, head[prefixSize:]); err != nil {
		return err
	}
	if isReplyTo(head[prefixSize:], commandNegotiate) { // all of it is looked at
		head = append(head, make([]byte, length-(len(head)-prefixSize))...)
		if _, err := io.ReadFull(g.Conn, head[prefixSize+headSize:]); err != nil {
			return err
		}
	}
	if err := g.check(head[prefixSize:], length); err != nil {
		return err
	}
	g.head, g.rest = head, length-(len(head)-prefixSize)
	return nil
}

func isReplyTo(m []byte, command uint16) bool {
	return len(m) >= headSize && string(m[:4]) == "\xfeSMB" && le.Uint16(m[12:]) == command
}

// check checks a reply by its head.
func (g *guard) check(m []byte, length int) error {
	g.mu.Lock()
	g.received++
	spare := 2*g.sent + unasked - g.received // a reply, and before it one that says that it takes time
	leaving := g.leaving
	g.mu.Unlock()
	if spare < 0 {
		return g.refuse("more replies than requests")
	}
	switch {
	case string(m[:4]) == "\xfdSMB":
		// What is inside must have a header: the client takes that for granted.
		if length < transformSize+headerSize {
			return g.refuse("an encrypted message of %d bytes", length)
		}
		if leaving {
			return g.end()
		}
		return nil
	case string(m[:4]) != "\xfeSMB" || le.Uint16(m[4:]) != headerSize:
		return g.refuse("a header")
	case le.Uint32(m[16:])&flagReply == 0:
		return g.refuse("a request")
	case le.Uint32(m[20:]) != 0:
		return g.refuse("replies in a row, which nobody has asked for")
	}
	return g.settle(m)
}

// settle finds the request that a reply belongs to, and checks what the client
// believes of it.
func (g *guard) settle(m []byte) error {
	id, command, status := le.Uint64(m[24:]), le.Uint16(m[12:]), le.Uint32(m[8:])
	g.mu.Lock()
	r, ok := g.requests[id]
	interim := status == statusPending
	switch {
	case !ok || r.command != command || r.session != 0 && r.session != le.Uint64(m[40:]) || interim && (r.interim || le.Uint32(m[16:])&flagAsync == 0):
		g.mu.Unlock()
		return g.refuse("a reply to command %d that nobody has asked for", command)
	case interim:
		r.interim = true
		g.requests[id] = r
	default:
		delete(g.requests, id)
	}
	g.credits += int(le.Uint16(m[14:]))
	starved := len(g.requests) == 0 && g.credits < 1
	leaving := g.leaving
	g.mu.Unlock()
	switch {
	case interim:
		return nil
	case command == commandLogoff && leaving:
		return g.end()
	case starved:
		return g.refuse("no further request is allowed")
	}
	switch {
	case command == commandNegotiate && status == 0:
		return g.negotiated(m)
	case command == commandSessionSetup:
		return g.answered(m, status)
	case command == commandWrite && status == 0 && (len(m) < headSize-48 || le.Uint32(m[headerSize+4:]) != r.length):
		return g.refuse("a write that wrote something else")
	}
	return nil
}

// end is the end of a connection that was logged off.
func (g *guard) end() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.left = true
	return io.EOF
}

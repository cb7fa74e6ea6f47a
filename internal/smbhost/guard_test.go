package smbhost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// wire is a connection whose other end has said everything already.
type wire struct {
	net.Conn
	said io.Reader
}

func (w *wire) Read(p []byte) (int, error)  { return w.said.Read(p) }
func (w *wire) Write(p []byte) (int, error) { return len(p), nil }

// message makes a message of a command.
func message(command uint16, id uint64, flags, status uint32, body ...byte) []byte {
	m := make([]byte, headerSize, headerSize+len(body))
	copy(m, "\xfeSMB")
	le.PutUint16(m[4:], headerSize)
	le.PutUint16(m[6:], 1)
	le.PutUint32(m[8:], status)
	le.PutUint16(m[12:], command)
	le.PutUint16(m[14:], 1)
	le.PutUint32(m[16:], flags)
	le.PutUint64(m[24:], id)
	return append(m, body...)
}

func requests() []byte {
	var out []byte
	for id, command := range []uint16{commandNegotiate, commandSessionSetup, commandCreate, commandWrite, commandRead} {
		out = append(out, framed(message(command, uint64(id), 0, 0, make([]byte, 200)...))...)
	}
	return out
}

// FuzzGuard: what is let through are whole messages of a bounded length with a
// header, each of which belongs to a request, or is encrypted; and it does not
// matter in which parts anything comes.
func FuzzGuard(f *testing.F) {
	write := make([]byte, 64)
	f.Add(framed(message(commandWrite, 3, flagReply, 0, write...)), uint16(7))
	f.Add(append(framed(message(commandRead, 4, flagReply|flagAsync, statusPending)), framed(message(commandRead, 4, flagReply, 0, write...))...), uint16(100))
	f.Add(framed(message(commandNegotiate, 0, flagReply, 0, write...)), uint16(1))
	f.Add(framed(message(commandSessionSetup, 1, flagReply, 0, 9, 0, 1, 0, 0, 0, 0, 0)), uint16(1))
	f.Add(framed(append([]byte("\xfdSMB"), make([]byte, 150)...)), uint16(1000))
	f.Add([]byte{0, 0xff, 0xff, 0xff}, uint16(1))
	f.Fuzz(func(t *testing.T, said []byte, part uint16) {
		size := int(part)%300 + 1
		g := newGuard(&wire{said: bytes.NewReader(said)}, time.Second)
		for rest := requests(); len(rest) > 0; rest = rest[min(size, len(rest)):] {
			g.Write(rest[:min(size, len(rest))])
		}
		if g.sent != 5 || len(g.requests) != 5 {
			t.Fatalf("%d requests, %d to be answered", g.sent, len(g.requests))
		}
		var passed []byte
		for p := make([]byte, size); ; {
			n, err := g.Read(p)
			passed = append(passed, p[:n]...)
			if err != nil {
				break
			}
		}
		if !bytes.HasPrefix(said, passed) {
			t.Fatal("what was let through is not what was said")
		}
		final := map[uint64]bool{}
		for len(passed) > prefixSize {
			length := int(binary.BigEndian.Uint32(passed))
			m := passed[prefixSize:min(len(passed), prefixSize+length)]
			passed = passed[prefixSize+len(m):]
			if length < headerSize || length > maxReply || len(m) < headerSize {
				t.Fatalf("a message of %d bytes", length)
			}
			if string(m[:4]) == "\xfdSMB" {
				continue
			}
			id := le.Uint64(m[24:])
			if id > 4 || final[id] {
				t.Fatalf("a reply to %d", id)
			}
			final[id] = le.Uint32(m[8:]) != statusPending
		}
	})
}

// A machine that says that a reply takes time is waited for; one that says
// nothing, or stops in the middle, is not.
func TestOverdue(t *testing.T) {
	later := time.Now().Add(2 * time.Second)
	asked := func(said ...[]byte) *guard {
		g := newGuard(&wire{said: bytes.NewReader(bytes.Join(said, nil))}, time.Second)
		if g.overdue(later) {
			t.Error("it owes something before it was asked")
		}
		g.Write(framed(message(commandRead, 1, 0, 0, make([]byte, 60)...)))
		io.ReadAll(g)
		return g
	}
	reply := framed(message(commandRead, 1, flagReply, 0, make([]byte, 10<<10)...))
	soon := framed(message(commandRead, 1, flagReply|flagAsync, statusPending, make([]byte, 10)...))
	for name, c := range map[string]struct {
		g    *guard
		want bool
	}{
		"nothing": {asked(), true}, "all": {asked(reply), false}, "soon": {asked(soon), false},
		"a part": {asked(reply[:1000]), true}, "soon, and a part": {asked(soon, reply[:1000]), true},
	} {
		if got := c.g.overdue(later.Add(10 * time.Second)); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
	before := time.Now()
	if g := asked(reply[:1000]); g.overdue(before.Add(900 * time.Millisecond)) {
		t.Error("it has no time")
	}
}

// Where all is encrypted, a machine that was quiet for too long while a call is
// under way is gone, whatever it said before; one of which nobody wants anything
// is not.
func TestOverdueEncrypted(t *testing.T) {
	sealed := framed(append([]byte("\xfdSMB"), make([]byte, 150)...))
	g := newGuard(&wire{said: bytes.NewReader(bytes.Repeat(sealed, 3))}, time.Second)
	g.logon.encrypted = true
	g.calls.Add(1)
	g.Write(sealed)
	io.ReadAll(g) // more answers than questions
	later := time.Now().Add(2 * time.Second)
	if !g.overdue(later) || g.quiet(later) < time.Second {
		t.Errorf("after it was quiet for %v it counts as there", g.quiet(later))
	}
	g.calls.Add(-1)
	if g.overdue(later) || g.quiet(later) != 0 {
		t.Error("it owes something that nobody wants")
	}
	g.calls.Add(1) // a call after a long time
	if g.overdue(later) {
		t.Error("what it said long ago is held against it")
	}
	before := time.Now()
	g.Write(sealed)
	if g.overdue(before.Add(900*time.Millisecond)) || !g.overdue(time.Now().Add(1100*time.Millisecond)) {
		t.Error("it does not have the time that it should have")
	}
}

// Where the machine demands encryption, the guard sees nothing of the replies
// and lets them through.
func TestEncrypted(t *testing.T) {
	s := samba{sambatest.Start(t, "server smb encrypt = required")}
	r := packedFrom(t, "win11", testenv.Random(1, 2500<<10))
	h := s.dial(t, "root")
	if _, err := h.ReadDir(t.Context(), `C:\`); err != nil {
		t.Fatal(err)
	}
	if !h.Encrypted() {
		t.Fatal("it does not encrypt")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	var err error
	testenv.Bounded(t, 6*patience, func() { err = work(t, s.Port, r, patience) })
	if err != nil {
		t.Fatal(err)
	}
}

var errTest = errors.New("test")

// A panic of the client is an error of its machine.
func TestPanicOfClient(t *testing.T) {
	s := startSamba(t)
	h := s.dial(t, "root")
	err := h.call(func() error { panic(errTest) })
	if !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "test") {
		t.Errorf("error %v", err)
	}
	if _, err := h.Stat(t.Context(), `C:\`); !errors.Is(err, ErrProtocol) {
		t.Errorf("after that: %v", err)
	}
}

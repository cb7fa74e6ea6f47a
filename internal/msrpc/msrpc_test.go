package msrpc

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"testing"
)

// server is a pipe with a server of our own at its end: Samba does not let
// anybody start and stop services. It answers what it was told to.
type server struct {
	t      testing.TB
	answer func(operation uint16, in []byte) (out []byte, fault uint32)

	fragment int // of answers, bytes; 0 for one packet
	args     []byte
	replies  [][]byte
	closed   bool
}

func (s *server) Close() error { s.closed = true; return nil }

func (s *server) Read(p []byte) (int, error) {
	if len(s.replies) == 0 {
		return 0, io.EOF
	}
	n := copy(p, s.replies[0])
	if n < len(s.replies[0]) {
		s.t.Error("a message does not fit the reader's buffer")
	}
	s.replies = s.replies[1:]
	return n, nil
}

func (s *server) Write(p []byte) (int, error) {
	if int(le.Uint16(p[8:])) != len(p) || p[0] != 5 {
		s.t.Errorf("a packet of %d bytes with the header % x", len(p), p[:16])
	}
	call := le.Uint32(p[12:])
	switch p[2] {
	case packetBind:
		b := header(packetBindAck, 3, 60, call)
		b = le.AppendUint16(b, maxFragment)
		b = le.AppendUint16(b, maxFragment)
		b = le.AppendUint32(b, 1)
		b = append(b, 13, 0)
		b = append(b, "\\PIPE\\winreg\x00"...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		b = append(b, 1, 0, 0, 0, 0, 0, 0, 0)
		b = append(b, ndr[:]...)
		b = le.AppendUint32(b, 2)
		le.PutUint16(b[8:], uint16(len(b)))
		s.replies = append(s.replies, b)
	case packetRequest:
		if p[3]&firstFragment != 0 {
			s.args = nil
		}
		s.args = append(s.args, p[callHeader:]...)
		if p[3]&lastFragment == 0 {
			break
		}
		out, fault := s.answer(le.Uint16(p[22:]), s.args)
		if fault != 0 {
			b := header(packetFault, 3, callHeader+8, call)
			b = append(b, make([]byte, 8)...)
			b = le.AppendUint32(b, fault)
			s.replies = append(s.replies, append(b, 0, 0, 0, 0))
			break
		}
		size := s.fragment
		if size == 0 {
			size = len(out)
		}
		for first := true; first || len(out) > 0; first = false {
			part := out[:min(size, len(out))]
			out = out[len(part):]
			flags := byte(0)
			if first {
				flags |= firstFragment
			}
			if len(out) == 0 {
				flags |= lastFragment
			}
			b := header(packetResponse, flags, callHeader+len(part), call)
			b = append(b, make([]byte, 8)...)
			s.replies = append(s.replies, append(b, part...))
		}
	}
	return len(p), nil
}

func code(c Code) []byte { return le.AppendUint32(nil, uint32(c)) }

var opened = append(bytes.Repeat([]byte{7}, 20), 0, 0, 0, 0)

// A service that is stopped and disabled is enabled and started, and put back.
func TestServices(t *testing.T) {
	state, start := StateStopped, StartDisabled
	status := func(c Code) []byte {
		b := le.AppendUint32(nil, 0x20)
		b = le.AppendUint32(b, state)
		return append(append(b, make([]byte, 20)...), code(c)...)
	}
	s := &server{t: t, fragment: 7}
	s.answer = func(operation uint16, in []byte) ([]byte, uint32) {
		switch operation {
		case opOpenManager:
			return opened, 0
		case opOpenService:
			if !bytes.Contains(in, Text("RemoteRegistry")) {
				return append(make([]byte, 20), code(codeNoSuchService)...), 0
			}
			return opened, 0
		case opQueryStatus:
			return status(0), 0
		case opQueryConfig:
			b := le.AppendUint32(nil, 0x20)
			b = le.AppendUint32(b, start)
			return append(append(b, make([]byte, 61)...), append([]byte{0, 0, 0}, code(0)...)...), 0
		case opChangeConfig:
			start = le.Uint32(in[24:])
			return append(make([]byte, 4), code(0)...), 0
		case opStartService:
			switch {
			case start == StartDisabled:
				return code(codeServiceDisabled), 0
			case state == StateRunning:
				return code(codeAlreadyRunning), 0
			}
			state = StateRunning
			return code(0), 0
		case opControl:
			if state == StateStopped {
				return status(codeServiceNotStarted), 0
			}
			state = StateStopped
			return status(0), 0
		case opCloseHandle:
			return append(make([]byte, 20), code(0)...), 0
		}
		return nil, 0x1c010002 // no such operation
	}
	services, err := OpenServices(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := services.Open("NoSuch"); !errors.Is(err, codeNoSuchService) {
		t.Errorf("a service that is not there: %v", err)
	}
	v, err := services.Open("RemoteRegistry")
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Start(); !errors.Is(err, codeServiceDisabled) {
		t.Errorf("starting a disabled service: %v", err)
	}
	if err := v.SetStartType(StartOnDemand); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := v.Start(); err != nil {
			t.Fatal(err)
		}
	}
	if now, err := v.State(); err != nil || now != StateRunning {
		t.Errorf("state %d, %v", now, err)
	}
	if how, err := v.StartType(); err != nil || how != StartOnDemand {
		t.Errorf("start type %d, %v", how, err)
	}
	for range 2 {
		if err := v.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if state != StateStopped {
		t.Error("it was not stopped")
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := services.Close(); err != nil || !s.closed {
		t.Errorf("the pipe is not closed: %v", err)
	}
}

func TestFaultsAndRefusals(t *testing.T) {
	s := &server{t: t, answer: func(uint16, []byte) ([]byte, uint32) { return nil, 5 }}
	if _, err := OpenRegistry(s); !errors.Is(err, Fault(5)) || !s.closed {
		t.Errorf("a fault: %v", err)
	}
	s = &server{t: t, answer: func(uint16, []byte) ([]byte, uint32) { return append(make([]byte, 20), code(codeAccessDenied)...), 0 }}
	if _, err := OpenRegistry(s); !errors.Is(err, fs.ErrPermission) || !s.closed {
		t.Errorf("a refusal: %v", err)
	}
	s = &server{t: t, answer: func(uint16, []byte) ([]byte, uint32) { return []byte{1}, 0 }}
	if _, err := OpenRegistry(s); !errors.Is(err, ErrProtocol) {
		t.Errorf("a result that is cut: %v", err)
	}
}

// hostile answers every call with the next of its messages.
type hostile struct{ messages [][]byte }

func (h *hostile) Close() error                { return nil }
func (h *hostile) Write(p []byte) (int, error) { return len(p), nil }
func (h *hostile) Read(p []byte) (int, error) {
	if len(h.messages) == 0 {
		return 0, io.EOF
	}
	n := copy(p, h.messages[0])
	h.messages = h.messages[1:]
	return n, nil
}

// FuzzReplies lets a server answer anything: nothing is read outside of what was
// received, no answer is waited for without end, memory is bounded.
func FuzzReplies(f *testing.F) {
	record := &server{t: f, answer: func(op uint16, in []byte) ([]byte, uint32) {
		if op == opQueryValue {
			b := append(code(2), code(1)...)
			b = append(b, code(2)...)
			b = append(b, code(4096)...)
			b = append(b, code(0)...)
			b = append(b, code(4)...)
			b = append(b, 'a', 0, 0, 0)
			return append(b, make([]byte, 12)...), 0
		}
		return opened, 0
	}}
	record.Write(header(packetBind, 3, 16, 1))
	for call, op := range []uint16{opOpenLocalMachine, opOpenKey, opQueryValue, opCloseKey} {
		p := header(packetRequest, 3, callHeader, uint32(call)+2)
		p = append(p, make([]byte, 6)...)
		record.Write(le.AppendUint16(p, op))
	}
	f.Add(bytes.Join(record.replies, nil), uint16(60), uint16(48))
	f.Fuzz(func(t *testing.T, data []byte, cut, more uint16) {
		var messages [][]byte
		for i := 0; len(data) > 0; i++ {
			n := min(len(data), int(more)+1)
			if i == 0 {
				n = min(len(data), int(cut)+1)
			}
			messages = append(messages, data[:n])
			data = data[n:]
		}
		h := &hostile{messages}
		r, err := OpenRegistry(h)
		if err != nil {
			return
		}
		_, value, err := r.Get("SOFTWARE", "x")
		if err == nil && len(value) > maxReply {
			t.Errorf("a value of %d bytes", len(value))
		}
	})
}

// endless answers every call with empty parts of a reply that does not end.
type endless struct {
	server
	call  uint32
	parts int
}

func (e *endless) Write(p []byte) (int, error) {
	e.call = le.Uint32(p[12:])
	if p[2] == packetBind {
		return e.server.Write(p)
	}
	return len(p), nil
}

func (e *endless) Read(p []byte) (int, error) {
	if len(e.replies) > 0 {
		return e.server.Read(p)
	}
	e.parts++
	return copy(p, append(header(packetResponse, 0, callHeader, e.call), make([]byte, 8)...)), nil
}

func TestEndlessReply(t *testing.T) {
	e := &endless{server: server{t: t}}
	if _, err := OpenRegistry(e); !errors.Is(err, ErrProtocol) || e.parts > 2*maxFragments {
		t.Errorf("after %d parts: %v", e.parts, err)
	}
}

// FuzzServices is FuzzReplies for service control.
func FuzzServices(f *testing.F) {
	record := &server{t: f, answer: func(op uint16, in []byte) ([]byte, uint32) {
		switch op {
		case opQueryConfig:
			return append(append(code(32), code(3)...), make([]byte, 40)...), 0
		case opQueryStatus, opControl:
			return make([]byte, 32), 0
		case opStartService, opChangeConfig:
			return make([]byte, 8), 0
		}
		return opened, 0
	}}
	record.Write(header(packetBind, 3, 16, 1))
	for call, op := range []uint16{opOpenManager, opOpenService, opQueryConfig, opChangeConfig, opStartService, opQueryStatus, opControl, opCloseHandle} {
		p := header(packetRequest, 3, callHeader, uint32(call)+2)
		p = append(p, make([]byte, 6)...)
		record.Write(le.AppendUint16(p, op))
	}
	seed := bytes.Join(record.replies, nil)
	if err := driveServices(seed); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, data []byte) { driveServices(data) })
}

// driveServices does all that there is with what data answers, a packet for each
// read.
func driveServices(data []byte) error {
	var messages [][]byte
	for len(data) > 0 {
		n := len(data)
		if n > headerSize {
			n = min(n, max(1, int(le.Uint16(data[8:]))))
		}
		messages, data = append(messages, data[:n]), data[n:]
	}
	s, err := OpenServices(&hostile{messages})
	if err != nil {
		return err
	}
	v, err := s.Open("x")
	if err != nil {
		return err
	}
	_, e1 := v.StartType()
	e2, e3 := v.SetStartType(StartOnDemand), v.Start()
	_, e4 := v.State()
	return errors.Join(e1, e2, e3, e4, v.Stop(), v.Close())
}

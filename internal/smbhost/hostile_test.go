package smbhost

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"prestage/internal/host"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

const (
	commandTreeConnect    = 3
	commandCreate         = 5
	commandCloseFile      = 6
	commandFlush          = 7
	commandRead           = 8
	commandQueryDirectory = 14
	commandQueryInfo      = 16
	commandSetInfo        = 17
)

// change is how a machine misbehaves.
type change struct {
	name string
	// unsigned has what was changed keep the signature of what it was.
	unsigned bool
	// harmless says that the work may succeed all the same.
	harmless bool
	want     string // in the error
	change   func(s *session, m []byte) [][]byte
}

// on changes the replies to one command, in place or not.
func on(command uint16, f func(s *session, m []byte) [][]byte) func(*session, []byte) [][]byte {
	return func(s *session, m []byte) [][]byte {
		if le.Uint16(m[12:]) != command {
			return [][]byte{m}
		}
		return f(s, m)
	}
}

// set32 changes a number of the replies to a command, at an offset behind the header.
func set32(command uint16, at int, v uint32) func(*session, []byte) [][]byte {
	return on(command, func(_ *session, m []byte) [][]byte {
		if len(m) >= headerSize+at+4 && le.Uint32(m[8:]) == 0 {
			le.PutUint32(m[headerSize+at:], v)
		}
		return [][]byte{m}
	})
}

// ofFiles makes a change in the replies to long reads and writes alone: those of
// pipes are short.
func ofFiles(f func(*session, []byte) [][]byte) func(*session, []byte) [][]byte {
	return func(s *session, m []byte) [][]byte {
		c, r := le.Uint16(m[12:]), s.request(m)
		if c != commandRead && c != commandWrite || len(r) < headerSize+8 || le.Uint32(r[headerSize+4:]) <= 64<<10 {
			return [][]byte{m}
		}
		return f(s, m)
	}
}

func whole(f func(m []byte)) func(*session, []byte) [][]byte {
	return func(_ *session, m []byte) [][]byte { f(m); return [][]byte{m} }
}

// after makes a change only once the logon is over.
func after(f func(*session, []byte) [][]byte) func(*session, []byte) [][]byte {
	return func(s *session, m []byte) [][]byte {
		if le.Uint16(m[12:]) < commandTreeConnect {
			return [][]byte{m}
		}
		return f(s, m)
	}
}

// listing makes a reply that lists names.
func listing(m []byte, names ...string) []byte {
	var out []byte
	for i, name := range names {
		e := make([]byte, 104, 104+2*len(name))
		for _, r := range name {
			e = le.AppendUint16(e, uint16(r))
		}
		le.PutUint32(e[60:], uint32(2*len(name)))
		for len(e)%8 != 0 {
			e = append(e, 0)
		}
		if i < len(names)-1 {
			le.PutUint32(e, uint32(len(e)))
		}
		out = append(out, e...)
	}
	return withBuffer(m, out)
}

// withBuffer makes a reply that succeeds and brings b, in the form that several
// commands share.
func withBuffer(m, b []byte) []byte {
	r := append([]byte(nil), m[:headerSize]...)
	le.PutUint32(r[8:], 0)
	r = append(r, 9, 0, headerSize+8, 0)
	r = le.AppendUint32(r, uint32(len(b)))
	return append(r, b...)
}

func pending(m []byte) []byte {
	p := append([]byte(nil), m[:headerSize]...)
	le.PutUint32(p[8:], statusPending)
	le.PutUint32(p[16:], flagReply|flagAsync)
	return append(p, 9, 0, 0, 0, 0, 0, 0, 0, 0)
}

func changes() []change {
	list := []change{
		{name: "claims 16 MB", change: on(commandCreate, func(s *session, m []byte) [][]byte {
			s.client.Write(append([]byte{0, 0xff, 0xff, 0xff}, m...))
			return nil
		})},
		{name: "16 MB", change: on(commandRead, func(_ *session, m []byte) [][]byte {
			return [][]byte{append(m, testenv.Random(9, 0xffffff-len(m))...)}
		})},
		{name: "another type of frame", change: on(commandCreate, func(s *session, m []byte) [][]byte {
			s.client.Write(append([]byte{0x81, 0, 0, 0}, m...))
			return nil
		})},
		{name: "empty frames", change: after(func(s *session, m []byte) [][]byte { return [][]byte{{}, m} })},
		{name: "message ID", change: after(whole(func(m []byte) { m[24] ^= 0xff }))},
		{name: "command", change: after(whole(func(m []byte) { m[12] ^= 1 }))},
		{name: "session ID", change: after(whole(func(m []byte) { m[40] ^= 1 }))},
		{name: "tree ID", change: after(on(commandCreate, func(_ *session, m []byte) [][]byte { m[36] ^= 1; return [][]byte{m} }))},
		{name: "a row of replies", change: after(whole(func(m []byte) { le.PutUint32(m[20:], 64) }))},
		{name: "a flipped byte, not signed", want: "signature", unsigned: true, change: after(whole(func(m []byte) { m[len(m)-1] ^= 1 }))},
		{name: "no signature", want: "signature", unsigned: true, change: after(whole(func(m []byte) { clear(m[48:64]); m[16] &^= 8 }))},
		{name: "guest", want: "for a guest", unsigned: true, change: func(_ *session, m []byte) [][]byte {
			if le.Uint16(m[12:]) == commandSessionSetup && le.Uint32(m[8:]) == 0 {
				m[headerSize+2] |= sessionGuest
			}
			clear(m[48:64])
			m[16] &^= 8
			return [][]byte{m}
		}},
		{name: "encryption without a key", change: func(_ *session, m []byte) [][]byte {
			if le.Uint16(m[12:]) == commandSessionSetup && le.Uint32(m[8:]) == 0 {
				m[headerSize+2] |= 4
			}
			return [][]byte{m}
		}},
		{name: "a share that encrypts without a key", change: set32(commandTreeConnect, 4, 0x8000)},
		{name: "logon garbage", change: on(commandSessionSetup, func(_ *session, m []byte) [][]byte {
			copy(m[headerSize+8:], testenv.Random(3, len(m)-headerSize-8))
			return [][]byte{m}
		})},
		{name: "a silent write", change: on(commandWrite, func(*session, []byte) [][]byte { return nil })},
		{name: "a silent negotiation", change: on(commandNegotiate, func(*session, []byte) [][]byte { return nil })},
		{name: "a silent close", change: on(commandCloseFile, func(*session, []byte) [][]byte { return nil })},
		{name: "a silent logoff", harmless: true, change: on(commandLogoff, func(*session, []byte) [][]byte { return nil })},
		{name: "one byte at a time", change: on(commandQueryInfo, func(s *session, m []byte) [][]byte {
			for _, c := range framed(m) {
				time.Sleep(300 * time.Millisecond)
				if _, err := s.client.Write([]byte{c}); err != nil {
					break
				}
			}
			return nil
		})},
		{name: "soon, for ever", change: on(commandWrite, func(s *session, m []byte) [][]byte {
			for {
				if _, err := s.client.Write(framed(pending(m))); err != nil {
					return nil
				}
			}
		})},
		{name: "soon, and never", change: on(commandFlush, func(_ *session, m []byte) [][]byte {
			if le.Uint32(m[16:])&flagAsync == 0 {
				return [][]byte{pending(m)}
			}
			if le.Uint32(m[8:]) == statusPending {
				return [][]byte{m}
			}
			return nil
		})},
		{name: "replies that nobody has asked for", change: on(commandTreeConnect, func(s *session, m []byte) [][]byte {
			for {
				m[24] ^= 0x80
				if _, err := s.client.Write(framed(m)); err != nil {
					return nil
				}
			}
		})},
		{name: "more than was asked for", harmless: true, change: on(commandRead, func(_ *session, m []byte) [][]byte {
			if le.Uint32(m[8:]) != 0 {
				return [][]byte{m}
			}
			m = append(m, make([]byte, 64<<10)...)
			le.PutUint32(m[headerSize+4:], le.Uint32(m[headerSize+4:])+64<<10)
			return [][]byte{m}
		})},
		{name: "reads nothing", change: set32(commandRead, 4, 0)},
		{name: "reads nothing of files", change: ofFiles(set32(commandRead, 4, 0))},
		{name: "reads something else", change: ofFiles(on(commandRead, func(_ *session, m []byte) [][]byte { m[len(m)-1]++; return [][]byte{m} }))},
		{name: "writes nothing", change: set32(commandWrite, 4, 0)},
		{name: "writes nothing to files", want: "wrote something else", change: ofFiles(set32(commandWrite, 4, 0))},
		{name: "writes more to files", change: ofFiles(set32(commandWrite, 4, 0xfffffff0))},
		{name: "writes a part", change: ofFiles(set32(commandWrite, 4, 1000))},
		{name: "silent about files", change: ofFiles(func(*session, []byte) [][]byte { return nil })},
		{name: "16 MB of a file", want: "16777215 bytes", change: ofFiles(on(commandRead, func(_ *session, m []byte) [][]byte {
			return [][]byte{append(m, testenv.Random(9, 0xffffff-len(m))...)}
		}))},
		{name: "no credits", want: "no further request", change: whole(func(m []byte) { le.PutUint16(m[14:], 0) })},
		{name: "all credits", harmless: true, change: whole(func(m []byte) { le.PutUint16(m[14:], 0xffff) })},
		{name: "reads no bytes at once", change: set32(commandNegotiate, 32, 0)},
		{name: "writes no bytes at once", change: set32(commandNegotiate, 36, 0)},
		{name: "dialect of old", want: "dialect", change: set32(commandNegotiate, 4, 0x02ff)},
		{name: "dialect of tomorrow", change: set32(commandNegotiate, 4, 0x9999)},
		{name: "contexts that lie outside", change: on(commandNegotiate, func(_ *session, m []byte) [][]byte {
			le.PutUint16(m[headerSize+4:], 0x0311)
			le.PutUint16(m[headerSize+6:], 0xffff)
			return [][]byte{m}
		})},
		{name: "a link", change: on(commandCreate, func(_ *session, m []byte) [][]byte {
			r := append([]byte(nil), m[:headerSize]...)
			le.PutUint32(r[8:], 0x8000002d)
			r = append(r, 9, 0, 0, 0, 60, 0, 0, 0)
			return [][]byte{append(r, testenv.Random(4, 60)...)}
		})},
		{name: "a file of 2^63 bytes", change: on(commandCreate, func(_ *session, m []byte) [][]byte {
			if le.Uint32(m[8:]) == 0 {
				le.PutUint64(m[headerSize+48:], 1<<63)
			}
			return [][]byte{m}
		})},
		{name: "a long description", change: on(commandQueryInfo, func(_ *session, m []byte) [][]byte {
			return [][]byte{withBuffer(m, bytes.Repeat([]byte{1, 0, 4, 0x80}, 250<<10))}
		})},
		{name: "a longer description", change: on(commandQueryInfo, func(_ *session, m []byte) [][]byte {
			return [][]byte{withBuffer(m, bytes.Repeat([]byte{1, 0, 4, 0x80}, 2<<20))}
		})},
		{name: "a folder without end", want: "more than 10000", change: on(commandQueryDirectory, func(_ *session, m []byte) [][]byte {
			names := make([]string, 5000)
			for i := range names {
				names[i] = fmt.Sprintf("file %d of no package at all", i)
			}
			return [][]byte{listing(m, names...)}
		})},
		{name: "long names without end", change: on(commandQueryDirectory, func(_ *session, m []byte) [][]byte {
			return [][]byte{listing(m, strings.Repeat("x", 500<<10))}
		})},
		{name: "an empty folder without end", change: on(commandQueryDirectory, func(_ *session, m []byte) [][]byte {
			return [][]byte{listing(m, ".", "..")}
		})},
		{name: "a folder of which each file follows itself", change: on(commandQueryDirectory, func(_ *session, m []byte) [][]byte {
			m = listing(m, "a", "b")
			le.PutUint32(m[headerSize+8:], 0xfffffff8)
			return [][]byte{m}
		})},
	}
	for _, name := range []string{`..\..\x_1.ckm`, "a/b", "nul\x00.ckm"} {
		list = append(list, change{name: fmt.Sprintf("a file called %q", name), change: on(commandQueryDirectory, func(s *session, m []byte) [][]byte {
			return [][]byte{listing(m, name)}
		})})
	}
	for name, command := range map[string]uint16{"negotiation": commandNegotiate, "logon": commandSessionSetup, "tree": commandTreeConnect, "creation": commandCreate,
		"close": commandCloseFile, "flush": commandFlush, "read": commandRead, "write": commandWrite, "listing": commandQueryDirectory,
		"query": commandQueryInfo, "change": commandSetInfo} {
		for _, n := range []int{headerSize, headerSize + 3} {
			list = append(list, change{name: fmt.Sprintf("a %s of %d bytes", name, n), harmless: command == commandSetInfo,
				change: on(command, func(_ *session, m []byte) [][]byte { return [][]byte{m[:min(n, len(m))]} })})
		}
		list = append(list, change{name: "refuses a " + name, harmless: command == commandFlush, change: on(command, func(_ *session, m []byte) [][]byte {
			return [][]byte{append(append(append([]byte(nil), m[:8]...), 1, 0, 0, 0xc0), append(m[12:headerSize], 9, 0, 200, 0, 0xff, 0xff, 0xff, 0xff)...)}
		})})
	}
	// Anything, validly signed.
	for seed := range uint64(24) {
		r := rand.New(rand.NewPCG(seed, 1))
		list = append(list, change{name: fmt.Sprintf("chance %d", seed), harmless: true, change: after(whole(func(m []byte) {
			if r.IntN(12) != 0 {
				return
			}
			body := m[headerSize:]
			for range 1 + r.IntN(3) {
				at := r.IntN(min(len(body), 64))
				switch r.IntN(3) {
				case 0:
					body[at] ^= byte(1 << r.IntN(8))
				case 1:
					copy(body[at:], "\xff\xff\xff\xff")
				case 2:
					copy(body[at&^3:], []byte{0, 0, 0, byte(r.IntN(2)) << 7})
				}
			}
		}))})
		list = append(list, change{name: fmt.Sprintf("chance %d before signing", seed), harmless: true, change: func(_ *session, m []byte) [][]byte {
			if c := le.Uint16(m[12:]); c == commandNegotiate && seed%2 == 0 || c == commandSessionSetup && seed%2 == 1 {
				for range 1 + r.IntN(4) {
					m[8+r.IntN(len(m)-8)] = byte(r.Uint32())
				}
			}
			return [][]byte{m}
		}})
	}
	return list
}

// stall is after how long the work on a machine is given up, as a fleet does it.
// What must come to a certain end has more time: the machine of the tests may be busy.
const (
	stall    = 2 * time.Second
	patience = 20 * time.Second
)

// work does all of the procedure, and gives it up after some time.
func work(t *testing.T, port string, r *repo.Folder, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	h, err := Dial(ctx, Options{Name: "127.0.0.1", Port: port, User: "root", Password: sambatest.Password, Silence: limit / 2})
	if err != nil {
		return err
	}
	defer h.Close()
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if _, err := prestage.Setup(ctx, h, `C:\`, ""); err != nil {
		return err
	}
	if _, err := prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{}); err != nil {
		return err
	}
	st, err := prestage.GetStatus(ctx, h)
	if err == nil && !st.OK() {
		err = fmt.Errorf("status %+v", st)
	}
	return err
}

// Whatever a machine answers: the work on it ends soon, with an error if it was
// not done, and the program goes on.
func TestHostileMachine(t *testing.T) {
	testenv.NeedTime(t)
	s := startSamba(t)
	r := packedFrom(t, "win11", testenv.Random(1, 2500<<10))
	staged := s.Path("c", prestage.ImagesFolder, prestage.PrestagedFolder)
	honest := change{name: "honest", harmless: true, change: whole(func([]byte) {})}
	for _, c := range append([]change{honest}, changes()...) {
		t.Run(c.name, func(t *testing.T) {
			// All of it is to be done anew, also what an unfinished copy would save.
			for _, file := range []string{"win11_1.ckm", "win11_1.index", ".prestage/win11_1.ckm.partial"} {
				if err := os.Remove(filepath.Join(staged, file)); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Fatal(err)
				}
			}
			b := newBetween(t, s.Port, !c.unsigned, c.change)
			var err error
			limit := stall
			if c.name == honest.name || c.want != "" {
				limit = patience
			}
			testenv.Bounded(t, 6*limit, func() { err = work(t, b.port(), r, limit) })
			if err == nil && !c.harmless || err != nil && c.name == honest.name {
				t.Errorf("error %v", err)
			}
			if c.want != "" && !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("error %v does not say %q", err, c.want)
			}
		})
	}
}

// Closing while replies are due ends what waits for them: the client would read
// a reply that is none.
func TestCloseWhileReplyIsDue(t *testing.T) {
	s := startSamba(t)
	asked := make(chan struct{}, 64)
	b := newBetween(t, s.Port, true, on(commandWrite, func(*session, []byte) [][]byte {
		asked <- struct{}{}
		return nil
	}))
	s.Port = b.port()
	h := s.dial(t, "root")
	f, err := h.OpenWrite(t.Context(), `C:\file`)
	if err != nil {
		t.Fatal(err)
	}
	testenv.Bounded(t, 6*stall, func() {
		ended := make(chan error)
		go func() {
			f.WriteAt(make([]byte, 4<<20), 0)
			ended <- f.Sync()
		}()
		<-asked
		go h.Close()
		h.Close()
		if err := <-ended; err == nil || errors.Is(err, host.ErrUnreachable) {
			t.Errorf("what was under way ended with %v", err)
		}
	})
}

package smbhost

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"

	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// between sits onTheWay us and a machine. It keeps what goes by, and alter may
// change the machine's messages.
type onTheWay struct {
	port string

	mu   sync.Mutex
	sent bytes.Buffer // both ways
}

func sitBetween(t *testing.T, port string, alter func(message []byte)) *onTheWay {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	b := &onTheWay{}
	_, b.port, _ = net.SplitHostPort(l.Addr().String())
	go func() {
		for {
			us, err := l.Accept()
			if err != nil {
				return
			}
			machine, err := net.Dial("tcp", "127.0.0.1:"+port)
			if err != nil {
				us.Close()
				return
			}
			go b.pass(machine, us, nil)
			go b.pass(us, machine, alter)
		}
	}()
	return b
}

func (b *onTheWay) pass(to, from net.Conn, alter func([]byte)) {
	defer to.Close()
	defer from.Close()
	for {
		var size [4]byte
		if _, err := io.ReadFull(from, size[:]); err != nil {
			return
		}
		m := make([]byte, binary.BigEndian.Uint32(size[:]))
		if _, err := io.ReadFull(from, m); err != nil {
			return
		}
		if alter != nil {
			alter(m)
		}
		b.mu.Lock()
		b.sent.Write(m)
		b.mu.Unlock()
		if _, err := to.Write(append(size[:], m...)); err != nil {
			return
		}
	}
}

func (b *onTheWay) saw(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return bytes.Contains(b.sent.Bytes(), []byte(text))
}

// Whatever a machine can encrypt is encrypted, also if it only could; what it
// cannot is signed. Samba says the same.
func TestEncryption(t *testing.T) {
	testenv.Need(t, "smbstatus")
	for _, c := range []struct {
		name     string
		settings []string
		want     string // what smbstatus says of encryption; empty: none
	}{
		{"off", []string{"server smb encrypt = off"}, ""},
		{"offered", []string{"server smb encrypt = default"}, "AES-128-GCM"},
		{"desired", []string{"server smb encrypt = desired"}, "AES-128-GCM"},
		{"required", []string{"server smb encrypt = required"}, "AES-128-GCM"},
		{"CCM", []string{"server smb3 encryption algorithms = AES-128-CCM"}, "AES-128-CCM"},
		{"SMB 3.0.2", []string{"server max protocol = SMB3_02"}, "AES-128-CCM"},
		{"SMB 2.1", []string{"server max protocol = SMB2_10"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := sambatest.Start(t, c.settings...)
			b := sitBetween(t, s.Port, nil)
			h, err := Dial(t.Context(), Options{Name: "127.0.0.1", Port: b.port, User: "root", Password: sambatest.Password})
			if err != nil {
				t.Fatal(err)
			}
			defer h.Close()
			marker := strings.Repeat("a marker that is easy to see ", 100_000) // in several parts
			f, err := h.OpenWrite(t.Context(), `C:\marker`)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteAt([]byte(marker), 0); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, len(marker))
			if _, err := f.ReadAt(got, 0); err != nil || string(got) != marker {
				t.Errorf("what was written is not read: %v", err)
			}
			f.Close()
			if _, err := h.Settings(t.Context()); err != nil { // IPC$, another share
				t.Error(err)
			}
			if h.Encrypted() != (c.want != "") || b.saw("a marker that is easy to see") != (c.want == "") {
				t.Errorf("encrypted %v, the marker is seen: %v; want %q", h.Encrypted(), b.saw("a marker"), c.want)
			}
			out, err := exec.Command("smbstatus", "-p", "-s", s.Path("smb.conf")).CombinedOutput()
			if err != nil {
				t.Fatalf("smbstatus: %v\n%s", err, out)
			}
			line := string(out)
			line = line[strings.LastIndex(strings.TrimSpace(line), "\n")+1:]
			fields := strings.Fields(line)
			if c.want != "" && !strings.Contains(line, c.want) && !strings.Contains(line, "partial("+c.want) {
				t.Errorf("Samba's sessions: %s", out)
			}
			if c.want == "" && (len(fields) < 2 || fields[len(fields)-2] != "-" || !strings.Contains(fields[len(fields)-1], "AES") && !strings.Contains(fields[len(fields)-1], "HMAC")) {
				t.Errorf("Samba's sessions: %s", out)
			}
		})
	}
}

// Whoever is on the way cannot have us talk without signatures.
func TestAlteredLogon(t *testing.T) {
	s := sambatest.Start(t)
	for name, flags := range map[string]uint16{"guest": sessionGuest, "nobody": sessionNull} {
		b := sitBetween(t, s.Port, func(m []byte) {
			if le.Uint16(m[12:]) == commandSessionSetup && le.Uint32(m[8:]) == 0 {
				le.PutUint16(m[66:], le.Uint16(m[66:])|flags)
			}
		})
		_, err := Dial(t.Context(), Options{Name: "127.0.0.1", Port: b.port, User: "root", Password: sambatest.Password})
		if !errors.Is(err, ErrProtocol) {
			t.Errorf("a machine that takes us for %s: %v", name, err)
		}
	}
	// That it can encrypt cannot be hidden either: both sides' keys depend on it.
	hidden := 0
	b := sitBetween(t, s.Port, func(m []byte) {
		if le.Uint16(m[12:]) != commandNegotiate {
			return
		}
		at := int(le.Uint32(m[124:]))
		for range le.Uint16(m[70:]) {
			if le.Uint16(m[at:]) == contextEncryption {
				le.PutUint16(m[at:], 0x7777)
				hidden++
			}
			at = (at + 8 + int(le.Uint16(m[at+2:])) + 7) / 8 * 8
		}
	})
	h, err := Dial(t.Context(), Options{Name: "127.0.0.1", Port: b.port, User: "root", Password: sambatest.Password})
	if err == nil {
		_, err = h.Stat(t.Context(), `C:\`)
		h.Close()
	}
	if err == nil || hidden != 1 {
		t.Errorf("what was negotiated was changed %d times on the way, and nobody noticed: %v", hidden, err)
	}
}

// A machine that demands what was not agreed on is refused, and does not end the
// run for the others.
func TestDemandedEncryption(t *testing.T) {
	s := sambatest.Start(t, "server smb encrypt = off")
	b := sitBetween(t, s.Port, func(m []byte) {
		if le.Uint16(m[12:]) == commandSessionSetup && le.Uint32(m[8:]) == 0 {
			le.PutUint16(m[66:], sessionEncrypt)
		}
	})
	h, err := Dial(t.Context(), Options{Name: "127.0.0.1", Port: b.port, User: "root", Password: sambatest.Password})
	if err == nil {
		_, err = h.Stat(t.Context(), `C:\`)
		h.Close()
	}
	if !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
}

// keyless is an initiator whose key is shorter than the library takes it to be,
// as Kerberos' is if a machine sends none.
type keyless struct{ *smb2.NTLMInitiator }

func (keyless) SessionKey() []byte { return []byte(nil)[:16] }

func TestNoKey(t *testing.T) {
	s := sambatest.Start(t)
	c, err := net.Dial("tcp", "127.0.0.1:"+s.Port)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	h := &Host{o: Options{Address: "127.0.0.1"}, conn: watch(c, 20*time.Second)}
	h.life, h.end = context.WithCancel(ctx)
	defer h.cut()
	if err := h.negotiate(ctx, keyless{&smb2.NTLMInitiator{User: "root", Password: sambatest.Password}}); !errors.Is(err, ErrProtocol) {
		t.Errorf("%v", err)
	}
}

// Answers to a logon come from whoever answers.
func FuzzHandshake(f *testing.F) {
	negotiate := message(commandNegotiate, 0, flagReply, 0, make([]byte, 64+16)...)
	le.PutUint16(negotiate[68:], dialect311)
	le.PutUint16(negotiate[70:], 1)
	for _, at := range []int{92, 96, 100} {
		le.PutUint32(negotiate[at:], 1<<20)
	}
	le.PutUint32(negotiate[124:], negotiateSize)
	le.PutUint16(negotiate[negotiateSize:], contextEncryption)
	le.PutUint16(negotiate[negotiateSize+2:], 4)
	negotiate[negotiateSize+8], negotiate[negotiateSize+10] = 1, 2
	done := message(commandSessionSetup, 1, flagReply, 0, make([]byte, 8)...)
	g := newGuard(nil, time.Second)
	if err := errors.Join(g.negotiated(bytes.Clone(negotiate)), g.answered(bytes.Clone(done), 0)); err != nil || !g.logon.encrypted {
		f.Fatalf("the first example does not lead to encryption: %v", err)
	}
	f.Add(negotiate, done)
	f.Fuzz(func(t *testing.T, a, b []byte) {
		if len(b) < headerSize {
			return
		}
		g := newGuard(nil, time.Second)
		if g.negotiated(a) != nil || g.answered(b, le.Uint32(b[8:])) != nil || !g.logon.encrypted {
			return
		}
		if !g.logon.canEncrypt || le.Uint16(b[66:])&(sessionGuest|sessionNull) != 0 || le.Uint16(b[66:])&sessionEncrypt == 0 {
			t.Errorf("encrypted, with flags %x", b[66])
		}
	})
}

// What protection costs, on loopback.
func BenchmarkTransfer(b *testing.B) {
	data := testenv.Random(1, 64<<20)
	for _, c := range []struct{ name, setting string }{
		{"signed", "server smb encrypt = off"},
		{"GCM", "server smb encrypt = default"},
		{"CCM", "server smb3 encryption algorithms = AES-128-CCM"},
	} {
		s := sambatest.Start(b, c.setting)
		h, err := Dial(b.Context(), Options{Name: "127.0.0.1", Port: s.Port, User: "root", Password: sambatest.Password})
		if err != nil {
			b.Fatal(err)
		}
		f, err := h.OpenWrite(b.Context(), `C:\transfer`)
		if err != nil {
			b.Fatal(err)
		}
		for _, way := range []struct {
			name string
			move func([]byte, int64) (int, error)
		}{{"write", f.WriteAt}, {"read", f.ReadAt}} {
			b.Run(c.name+"/"+way.name, func(b *testing.B) {
				b.SetBytes(int64(len(data)))
				for b.Loop() {
					if _, err := way.move(data, 0); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
		f.Close()
		h.Close()
	}
}

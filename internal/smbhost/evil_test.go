package smbhost

import (
	"bytes"
	"crypto/hmac"
	"crypto/md5"
	"crypto/rc4"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"unicode/utf16"

	//lint:ignore SA1019 NTLM is made of it
	"golang.org/x/crypto/md4"

	"prestage/internal/sambatest"
)

// A between stands between us and a real server, and changes what the server
// answers. It knows the password, and so the key of the session: what it changes
// is signed as well as what the server itself signs, if resign says so. For that
// it has the two speak SMB 2.1, whose signatures are simple.
type between struct {
	net.Listener
	to     string
	resign bool
	// change returns what is sent in place of a reply: messages without their
	// prefix. It may send by itself, and end the connection.
	change func(b *session, reply []byte) [][]byte
}

// session is one connection through a between.
type session struct {
	*between
	client, server net.Conn

	mu    sync.Mutex
	asked map[uint64][]byte // requests by message ID
	key   []byte
	seen  map[uint16]int // replies by command
}

func newBetween(t *testing.T, port string, resign bool, change func(*session, []byte) [][]byte) *between {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &between{Listener: l, to: "127.0.0.1:" + port, resign: resign, change: change}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", b.to)
			if err != nil {
				c.Close()
				continue
			}
			x := &session{between: b, client: c, server: s, asked: map[uint64][]byte{}, seen: map[uint16]int{}}
			all.Go(x.requests)
			all.Go(x.replies)
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return b
}

func (b *between) port() string {
	_, port, _ := net.SplitHostPort(b.Addr().String())
	return port
}

func readMessage(r io.Reader) ([]byte, error) {
	var prefix [4]byte
	if _, err := io.ReadFull(r, prefix[:]); err != nil {
		return nil, err
	}
	m := make([]byte, messageLength(prefix[:]))
	_, err := io.ReadFull(r, m)
	return m, err
}

func framed(m []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(m))), m...)
}

func (s *session) close() { s.client.Close(); s.server.Close() }

// requests passes requests on, and learns the key of the session.
func (s *session) requests() {
	defer s.close()
	for {
		m, err := readMessage(s.client)
		if err != nil {
			return
		}
		switch le.Uint16(m[12:]) {
		case commandNegotiate: // 2.1 at most
			for i := range int(le.Uint16(m[66:])) {
				if at := m[100+2*i:]; le.Uint16(at) > 0x0210 {
					le.PutUint16(at, 0x0210)
				}
			}
		case commandSessionSetup:
			if key := sessionKey(m); key != nil {
				s.mu.Lock()
				s.key = key
				s.mu.Unlock()
			}
		}
		s.mu.Lock()
		s.asked[le.Uint64(m[24:])] = m
		s.mu.Unlock()
		if _, err := s.server.Write(framed(m)); err != nil {
			return
		}
	}
}

func (s *session) replies() {
	defer s.close()
	for {
		m, err := readMessage(s.server)
		if err != nil {
			return
		}
		s.seen[le.Uint16(m[12:])]++
		signed := le.Uint32(m[16:])&8 != 0
		for _, out := range s.change(s, m) {
			if s.resign && signed {
				s.sign(out)
			}
			if _, err := s.client.Write(framed(out)); err != nil {
				return
			}
		}
	}
}

// request returns what a reply answers.
func (s *session) request(reply []byte) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[le.Uint64(reply[24:])]
}

// sign signs a message anew (MS-SMB2 3.1.4.1).
func (s *session) sign(m []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(m) < headerSize || s.key == nil {
		return
	}
	clear(m[48:64])
	h := hmac.New(sha256.New, s.key)
	h.Write(m)
	copy(m[48:64], h.Sum(nil))
}

// sessionKey computes the key from the last message of a logon by NTLM and the
// password (MS-NLMP 3.3.2, 3.4.5).
func sessionKey(m []byte) []byte {
	at := bytes.Index(m, []byte("NTLMSSP\x00\x03\x00\x00\x00"))
	if at < 0 {
		return nil
	}
	m = m[at:]
	field := func(at int) []byte {
		n, off := int(le.Uint16(m[at:])), int(le.Uint32(m[at+4:]))
		return m[off : off+n]
	}
	utf16le := func(s string) (b []byte) {
		for _, u := range utf16.Encode([]rune(s)) {
			b = le.AppendUint16(b, u)
		}
		return b
	}
	mac := func(key []byte, parts ...[]byte) []byte {
		h := hmac.New(md5.New, key)
		for _, p := range parts {
			h.Write(p)
		}
		return h.Sum(nil)
	}
	var user []uint16
	for b := field(36); len(b) > 1; b = b[2:] {
		user = append(user, le.Uint16(b))
	}
	h := md4.New()
	h.Write(utf16le(sambatest.Password))
	key := mac(mac(h.Sum(nil), utf16le(strings.ToUpper(string(utf16.Decode(user)))), field(28)), field(20)[:16])
	if sealed := field(52); len(sealed) == 16 {
		c, _ := rc4.NewCipher(key)
		key = make([]byte, 16)
		c.XORKeyStream(key, sealed)
	}
	return key
}

//go:build linux

package sshhost

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"encoding/pem"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/pack"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/testenv"
)

// evil is how a machine misbehaves. What it does not change, a real shell and a
// real SFTP server do.
type evil struct {
	name     string
	harmless bool // the work may succeed all the same
	want     string
	raw      func(w io.Writer)                  // in place of SSH
	id       func(w io.Writer)                  // in place of what "id -u" says
	refuse   bool                               // channels are never answered
	shell    func(w io.Writer, r io.Reader)     // between shells and us
	request  func(m []byte) (answer []byte)     // an answer in place of the server's
	answer   func(m []byte, w io.Writer) []byte // in place of an answer of the SFTP server
}

// evilMachine serves SSH with one evil.
type evilMachine struct {
	evil
	config *ssh.ServerConfig
	all    sync.WaitGroup
}

func (m *evilMachine) serve(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		m.all.Go(func() {
			defer c.Close()
			if m.raw != nil {
				m.raw(c)
				return
			}
			conn, channels, requests, err := ssh.NewServerConn(c, m.config)
			if err != nil {
				return
			}
			defer conn.Close()
			m.all.Go(func() {
				for r := range requests {
					r.Reply(false, nil)
				}
			})
			n := 0
			for nc := range channels {
				if m.refuse && n > 0 {
					continue
				}
				ch, reqs, err := nc.Accept()
				if err != nil {
					return
				}
				which := n
				m.all.Go(func() { m.session(which, ch, reqs) })
				n++
			}
		})
	}
}

// session runs one command: the first asks who we are, the second becomes the
// SFTP server, the others are shells.
func (m *evilMachine) session(which int, ch ssh.Channel, reqs <-chan *ssh.Request) {
	defer ch.Close()
	for r := range reqs {
		if r.Type != "exec" {
			r.Reply(r.Type == "env", nil)
			continue
		}
		r.Reply(true, nil)
		command := string(r.Payload[4:])
		m.all.Go(func() {
			defer ch.Close()
			m.run(which, command, ch)
			ch.SendRequest("exit-status", false, make([]byte, 4))
		})
	}
}

func (m *evilMachine) run(which int, command string, ch ssh.Channel) {
	if which == 0 && m.id != nil {
		m.id(ch)
		return
	}
	cmd := exec.Command("sh", "-c", command)
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if cmd.Start() != nil {
		return
	}
	m.all.Go(func() { // ends with the channel
		defer in.Close()
		if which == 1 && m.request != nil {
			m.requests(in, ch)
		} else {
			io.Copy(in, ch)
		}
	})
	switch {
	case which == 1 && m.answer != nil:
		m.answers(ch, out)
	case which > 1 && m.shell != nil:
		m.shell(ch, out)
	default:
		io.Copy(ch, out)
	}
	cmd.Process.Kill()
	cmd.Wait()
}

// lines passes lines on up to the one after which SFTP begins.
func lines(w io.Writer, r io.Reader, last func(line string) bool) {
	var line []byte
	for b := make([]byte, 1); ; {
		if _, err := r.Read(b); err != nil {
			return
		}
		line = append(line, b[0])
		if b[0] == '\n' {
			w.Write(line)
			if last(string(line)) {
				return
			}
			line = nil
		}
	}
}

func (m *evilMachine) answers(w io.Writer, r io.Reader) {
	n := 0
	lines(w, r, func(string) bool { n++; return n == 2 }) // the shell's word, and that of SFTP
	for {
		p, err := readAnswer(r)
		if err != nil {
			return
		}
		if p = m.answer(p, w); p != nil {
			if _, err := w.Write(p); err != nil {
				return
			}
		}
	}
}

func (m *evilMachine) requests(w io.Writer, ch ssh.Channel) {
	lines(w, ch, func(line string) bool { return strings.Contains(line, "echo none; exit 1") })
	lines(w, ch, func(string) bool { return true })
	for {
		p, err := readAnswer(ch)
		if err != nil {
			return
		}
		if a := m.request(p); a != nil {
			ch.Write(a)
		} else if _, err := w.Write(p); err != nil {
			return
		}
	}
}

// readAnswer reads a request or an answer of SFTP, with its length.
func readAnswer(r io.Reader) ([]byte, error) {
	p := make([]byte, 4)
	if _, err := io.ReadFull(r, p); err != nil {
		return nil, err
	}
	p = append(p, make([]byte, binary.BigEndian.Uint32(p))...)
	_, err := io.ReadFull(r, p[4:])
	return p, err
}

// Types of SFTP messages (draft-ietf-secsh-filexfer-02, 3).
const (
	sftpVersion = 2
	sftpWrite   = 6
	sftpStatus  = answerStatus
	sftpHandle  = 102
	sftpAttrs   = 105
)

// of changes the answers of one type.
func of(kind byte, f func(m []byte) []byte) func([]byte, io.Writer) []byte {
	return func(m []byte, _ io.Writer) []byte {
		if m[4] != kind {
			return m
		}
		return f(m)
	}
}

// flood says the same for as long as somebody listens.
func flood(what string) func(w io.Writer) {
	b := bytes.Repeat([]byte(what), 1+(32<<10)/len(what))
	return func(w io.Writer) {
		for {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
	}
}

func id(m []byte) uint32 { return binary.BigEndian.Uint32(m[5:]) }

func word(s string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...)
}

// named lists files.
func named(m []byte, names ...string) []byte {
	rest := binary.BigEndian.AppendUint32(nil, uint32(len(names)))
	for _, n := range names {
		rest = append(append(append(rest, word(n)...), word("long")...), 0, 0, 0, 0)
	}
	return answer(answerName, id(m), rest...)
}

// endless lists files in place of the end of a listing, which is a status.
func endless() func([]byte, io.Writer) []byte {
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprint(i)
	}
	listing := false
	return func(m []byte, _ io.Writer) []byte {
		if m[4] == answerName || listing && m[4] == sftpStatus {
			listing = true
			return named(m, names...)
		}
		return m
	}
}

func evils() []evil {
	shell := func(f func(w io.Writer, line string)) func(io.Writer, io.Reader) {
		return func(w io.Writer, r io.Reader) {
			n := 0
			lines(io.Discard, r, func(line string) bool {
				if n++; n == 1 { // that it has begun
					io.WriteString(w, line)
					return false
				}
				f(w, line)
				return false
			})
		}
	}
	list := []evil{
		{name: "lines before its version", raw: flood("hello\r\n")},
		{name: "a line without end", raw: flood("SSH-")},
		{name: "silence", raw: func(w io.Writer) { io.Copy(io.Discard, w.(io.Reader)) }},
		{name: "who we are, for ever", want: "too much", id: flood("0 ")},
		{name: "who we are, never", id: func(w io.Writer) {
			for err := error(nil); err == nil; time.Sleep(20 * time.Millisecond) {
				_, err = w.(ssh.Channel).SendRequest("are you there", true, nil)
			}
		}},
		{name: "channels that never open", refuse: true},
		{name: "a shell that talks", shell: func(w io.Writer, _ io.Reader) { flood("x\n")(w) }},
		{name: "a shell that mumbles", shell: func(w io.Writer, _ io.Reader) { flood("x")(w) }},
		{name: "a shell that is silent", shell: shell(func(io.Writer, string) {})},
		{name: "output for ever", shell: shell(func(w io.Writer, line string) { flood(line)(w) })},
		{name: "codes that are none", shell: shell(func(w io.Writer, line string) {
			if f := strings.Fields(line); len(f) == 2 && len(f[0]) > 20 {
				line = f[0] + " 99999999999999999999\n"
			}
			io.WriteString(w, line)
		})},
		{name: "numbers that are none", harmless: true, shell: shell(func(w io.Writer, line string) {
			if strings.Contains(line, ".") {
				line = "-99999999999.999999999 9223372036854775807\n"
			}
			io.WriteString(w, line)
		})},
		{name: "escapes", shell: shell(func(w io.Writer, line string) {
			if f := strings.Fields(line); len(f) == 2 && len(f[0]) > 20 {
				line = "\x1b[2J\n" + f[0] + " 77\n"
			}
			io.WriteString(w, line)
		})},
		{name: "another version", answer: of(sftpVersion, func(m []byte) []byte { m[8] = 9; return m })},
		{name: "a long answer", want: "4294967295 bytes", answer: of(sftpAttrs, func([]byte) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 1} })},
		{name: "an empty answer", want: "0 bytes", answer: of(sftpAttrs, func([]byte) []byte { return []byte{0, 0, 0, 0} })},
		{name: "a short answer", answer: of(sftpAttrs, func([]byte) []byte { return []byte{0, 0, 0, 3, sftpAttrs, 0, 0} })},
		{name: "half an answer", answer: of(sftpAttrs, func(m []byte) []byte { return m[:len(m)/2] })},
		{name: "an answer to nothing", answer: of(sftpAttrs, func(m []byte) []byte { m[5] ^= 0xff; return m })},
		{name: "an answer twice", answer: of(sftpAttrs, func(m []byte) []byte { return append(m, m...) })},
		{name: "a file of 2^63 bytes", want: "9223372036854775808 bytes", answer: of(sftpAttrs, func(m []byte) []byte {
			copy(m[13:], []byte{0x80, 0, 0, 0, 0, 0, 0, 0})
			return m
		})},
		{name: "many attributes", answer: of(sftpAttrs, func(m []byte) []byte {
			return answer(sftpAttrs, id(m), 0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff)
		})},
		{name: "no attributes", answer: of(sftpAttrs, func(m []byte) []byte { return answer(sftpAttrs, id(m), 0, 0, 0, 0) })},
		{name: "attributes that are done", want: "no act", answer: of(sftpAttrs, func(m []byte) []byte { return answer(sftpStatus, id(m), make([]byte, 12)...) })},
		{name: "data that are done", want: "no act", answer: of(answerData, func(m []byte) []byte { return answer(sftpStatus, id(m), make([]byte, 12)...) })},
		{name: "an open that is done", want: "no act", answer: of(sftpHandle, func(m []byte) []byte { return answer(sftpStatus, id(m), make([]byte, 12)...) })},
		{name: "space that is done", want: "0 are free", answer: of(201, func(m []byte) []byte { return answer(sftpStatus, id(m), make([]byte, 12)...) })},
		{name: "a handle that is none", answer: of(sftpHandle, func(m []byte) []byte { return answer(sftpHandle, id(m), 0xff, 0xff, 0xff, 0xff) })},
		{name: "an empty handle", answer: of(sftpHandle, func(m []byte) []byte { return answer(sftpHandle, id(m), 0, 0, 0, 0) })},
		{name: "data of no bytes", want: "no bytes", answer: of(answerData, func(m []byte) []byte { return answer(answerData, id(m), 0, 0, 0, 0) })},
		{name: "too few data", harmless: true, answer: of(answerData, func(m []byte) []byte { return answer(answerData, id(m), 0, 0, 0, 1, m[13]) })},
		{name: "too many data", harmless: true, answer: of(answerData, func(m []byte) []byte {
			return answer(answerData, id(m), word(string(m[13:])+strings.Repeat("x", 64<<10))...)
		})},
		{name: "a length that is none", answer: of(answerData, func(m []byte) []byte { m[9] = 0xff; return m })},
		{name: "a folder without end", want: "does not end", answer: endless()},
		{name: "a count that is none", answer: of(answerName, func(m []byte) []byte { return answer(answerName, id(m), 0xff, 0xff, 0xff, 0xff) })},
		{name: "words without end", answer: of(sftpStatus, func(m []byte) []byte {
			return answer(sftpStatus, id(m), append([]byte{0, 0, 0, 4}, word(strings.Repeat("\x1b[2J", 40<<10))...)...)
		})},
		{name: "yes to all, and stores nothing", want: "what was read back", request: func(m []byte) []byte {
			if m[4] != sftpWrite || len(m) < 16<<10 { // but for the settings
				return nil
			}
			return answer(sftpStatus, id(m), make([]byte, 12)...)
		}},
		{name: "never says that it has written", request: func(m []byte) []byte {
			if m[4] != sftpWrite {
				return nil
			}
			return []byte{}
		}},
	}
	for _, n := range []string{"..", "", "/", "x/..", "nul\x00.ckm"} {
		list = append(list, evil{name: fmt.Sprintf("a file called %q", n), want: "a file is called",
			answer: of(answerName, func(m []byte) []byte {
				return named(m, n, ".")
			})})
	}
	list[len(list)-5].want, list[len(list)-5].harmless = "", true // the client leaves ".." out
	for seed := range uint64(20) {
		r := mathrand.New(mathrand.NewPCG(seed, 2))
		list = append(list, evil{name: fmt.Sprintf("chance %d", seed), harmless: true, answer: func(m []byte, _ io.Writer) []byte {
			if r.IntN(15) != 0 {
				return m
			}
			switch r.IntN(4) {
			case 0:
				m[4+r.IntN(len(m)-4)] ^= byte(1 << r.IntN(8))
			case 1:
				copy(m[9+r.IntN(max(1, len(m)-9)):], "\xff\xff\xff\xff")
			case 2:
				m = m[:5+r.IntN(len(m)-4)]
				binary.BigEndian.PutUint32(m, uint32(len(m)-4))
			case 3:
				m[4] = []byte{sftpStatus, sftpHandle, answerData, answerName, sftpAttrs, 201}[r.IntN(6)]
			}
			return m
		}})
	}
	return list
}

// stall is after how long the work on a machine is given up, as a fleet does it.
// What must come to a certain end has more time: the machine of the tests may be busy.
const (
	stall    = 2 * time.Second
	patience = time.Minute
)

func TestHostileMachine(t *testing.T) {
	testenv.NeedTime(t)
	testenv.NeedRoot(t)
	testenv.Need(t, "sshd", "getfacl", "setfacl", "flock")
	keys := t.TempDir()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	must(t, err)
	signer, err := ssh.NewSignerFromKey(private)
	must(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	must(t, err)
	key := filepath.Join(keys, "key")
	must(t, os.WriteFile(key, pem.EncodeToMemory(block), 0o600))
	config := &ssh.ServerConfig{PublicKeyCallback: func(ssh.ConnMetadata, ssh.PublicKey) (*ssh.Permissions, error) { return nil, nil }}
	config.AddHostKey(signer)
	r := packedDisk(t)

	for _, e := range append([]evil{{name: "honest"}}, evils()...) {
		t.Run(e.name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			must(t, err)
			m := &evilMachine{evil: e, config: config}
			m.all.Go(func() { m.serve(l) })
			defer m.all.Wait()
			defer l.Close()
			_, port, _ := net.SplitHostPort(l.Addr().String())
			dir := t.TempDir()
			known := filepath.Join(dir, "known")
			must(t, os.WriteFile(known, fmt.Appendf(nil, "[127.0.0.1]:%s %s", port, ssh.MarshalAuthorizedKey(signer.PublicKey())), 0o644))
			limit := stall
			if e.name == "honest" || e.want != "" {
				limit = patience
			}
			o := Options{Name: "pc-1", Address: "127.0.0.1", Port: port, User: "root", KnownHosts: []string{known}, Keys: []string{key},
				Agent: "none", Settings: filepath.Join(dir, "prestage.toml"), Silence: limit / 2}
			testenv.Bounded(t, 6*limit, func() { err = workOn(t, o, dir, r, limit) })
			if (err == nil) != (e.name == "honest") && !e.harmless {
				t.Errorf("error %v", err)
			}
			if e.want != "" && !strings.Contains(fmt.Sprint(err), e.want) {
				t.Errorf("error %v does not say %q", err, e.want)
			}
			if s := fmt.Sprint(err); len(s) > 4096 || strings.Contains(s, "\x1b") {
				t.Errorf("an error that is not fit to be read: %.5000q", s)
			}
		})
	}
}

// workOn does all of the procedure, and gives it up after some time.
func workOn(t *testing.T, o Options, dir string, r repo.Repository, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	h, err := Dial(ctx, o)
	if err != nil {
		return err
	}
	defer h.Close()
	defer context.AfterFunc(ctx, func() { h.Close() })()
	if _, err := prestage.Setup(ctx, h, dir, ""); err != nil {
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

// packedDisk returns a folder with a package.
func packedDisk(t *testing.T) *repo.Folder {
	image := filepath.Join(t.TempDir(), "disk.img")
	must(t, os.WriteFile(image, testenv.Random(1, 2500<<10), 0o644))
	files, err := disk.Open(image)
	must(t, err)
	defer files[0].Close()
	r := repo.NewFolder(t.TempDir())
	_, _, err = r.Add(t.Context(), "win11", func(w io.Writer) (*ckm.Index, error) {
		return pack.Write(t.Context(), w, files, pack.Options{Meter: progress.Discard})
	})
	must(t, err)
	return r
}

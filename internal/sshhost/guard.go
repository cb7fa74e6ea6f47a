package sshhost

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// ErrProtocol says that a machine answers what no SFTP server or shell does.
var ErrProtocol = errors.New("not a valid answer")

// What a machine may say, at most, where there is no bound of its own.
const (
	maxListing = 4 << 20 // bytes of all answers that list one folder
	maxAnswer  = 256 << 10
	maxSaid    = 300 // characters of its words in an error
)

// answers reads an SFTP server's answers and ends at the first that the SFTP
// client would wait for without end, or keep without bound.
type answers struct {
	from   io.Reader
	failed func(error) // told why it ended

	head   []byte // of an answer, checked and not read yet
	rest   int    // bytes that follow
	listed atomic.Int64
	err    error

	mu    sync.Mutex
	asked map[uint32]byte // types of the requests that wait for an answer
}

// newAnswers returns what stands between an SFTP server and the client.
func newAnswers(from io.Reader, failed func(error)) *answers {
	return &answers{from: from, failed: failed, asked: map[uint32]byte{}}
}

// Types of answers (draft-ietf-secsh-filexfer-02, 3) that matter here.
const (
	answerStatus = 101
	answerData   = 103
	answerName   = 104
	// answerHead is length, type, number of the request, and what counts or
	// measures the rest, in bytes.
	answerHead = 4 + 1 + 4 + 4
)

// requests passes an SFTP client's requests on, and notes them.
type requests struct {
	io.WriteCloser
	a    *answers
	head []byte // of the request, as far as it has come
	rest int    // bytes that follow
}

// requestHead is length, type and number of a request, in bytes.
const requestHead = 4 + 1 + 4

// Write implements io.Writer. One goroutine writes at a time.
func (r *requests) Write(p []byte) (int, error) {
	for b := p; len(b) > 0; {
		if r.rest > 0 {
			n := min(r.rest, len(b))
			r.rest, b = r.rest-n, b[n:]
			continue
		}
		n := min(requestHead-len(r.head), len(b))
		r.head, b = append(r.head, b[:n]...), b[n:]
		if len(r.head) == requestHead {
			r.a.mu.Lock()
			r.a.asked[binary.BigEndian.Uint32(r.head[5:])] = r.head[4]
			r.a.mu.Unlock()
			r.rest, r.head = int(binary.BigEndian.Uint32(r.head))-5, r.head[:0]
		}
	}
	return r.WriteCloser.Write(p)
}

// done are the requests that have no more of an answer than that they were
// done. The client takes such an answer to any other for a result, which it has
// not.
const done = 1<<4 | 1<<6 | 1<<9 | 1<<10 | 1<<13 | 1<<14 | 1<<15 | 1<<18 | 1<<20

// extended is a request that is not of the protocol itself.
const extended = 200

// listing begins the listing of a folder.
func (a *answers) listing() { a.listed.Store(0) }

// Read implements io.Reader.
func (a *answers) Read(p []byte) (int, error) {
	if len(a.head) == 0 && a.rest == 0 && a.err == nil {
		a.err = a.next()
	}
	if a.err != nil {
		return 0, a.err
	}
	if len(a.head) > 0 {
		n := copy(p, a.head)
		a.head = a.head[n:]
		return n, nil
	}
	n, err := a.from.Read(p[:min(len(p), a.rest)])
	a.rest -= n
	return n, err
}

func (a *answers) next() error {
	head := make([]byte, answerHead)
	if _, err := io.ReadFull(a.from, head[:4]); err != nil {
		return err
	}
	length := int64(binary.BigEndian.Uint32(head))
	if length == 0 || length > maxAnswer {
		return a.refuse("an answer of %d bytes", length)
	}
	head = head[:min(answerHead, 4+length)]
	if _, err := io.ReadFull(a.from, head[4:]); err != nil {
		return err
	}
	var request byte
	if len(head) >= requestHead {
		id := binary.BigEndian.Uint32(head[5:])
		a.mu.Lock()
		request = a.asked[id]
		delete(a.asked, id)
		a.mu.Unlock()
	}
	switch {
	case head[4] == answerStatus && (len(head) < answerHead || binary.BigEndian.Uint32(head[9:]) == 0 && request != extended && done>>request&1 == 0):
		return a.refuse("it has done what is no act (request %d)", request)
	case head[4] == answerData && (len(head) < answerHead || binary.BigEndian.Uint32(head[9:]) == 0):
		return a.refuse("data of no bytes")
	case head[4] == answerName:
		// An entry takes more room here than it takes on the way.
		if a.listed.Add(length+64) > maxListing {
			return a.refuse("a folder that does not end")
		}
	}
	a.head, a.rest = head, int(length)+4-len(head)
	return nil
}

func (a *answers) refuse(format string, args ...any) error {
	err := fmt.Errorf("%w: %s", ErrProtocol, fmt.Sprintf(format, args...))
	a.failed(err)
	return err
}

// checkInfo refuses what no file has: a size that would count as negative, a
// name that leads elsewhere.
func checkInfo(st fs.FileInfo, err error) (fs.FileInfo, error) {
	if err != nil {
		return nil, err
	}
	if st == nil {
		return nil, fmt.Errorf("%w: no description", ErrProtocol)
	}
	if st.Size() < 0 {
		return nil, fmt.Errorf("%w: %q has %d bytes", ErrProtocol, st.Name(), uint64(st.Size()))
	}
	if n := st.Name(); n == "" || n == "." || n == ".." || n != "/" && strings.ContainsAny(n, "/\x00") {
		return nil, fmt.Errorf("%w: a file is called %q", ErrProtocol, n)
	}
	return st, nil
}

// printable makes the words of a machine fit for a terminal and a report.
func printable(said string) string {
	cut := false
	if r := []rune(said[:min(len(said), 4*maxSaid)]); len(r) > maxSaid || len(said) > 4*maxSaid {
		said, cut = string(r[:min(len(r), maxSaid)]), true
	}
	said = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || unicode.IsPrint(r):
			return r
		}
		return unicode.ReplacementChar
	}, said)
	if cut {
		said += "…"
	}
	return said
}

// foreign is an error in the words of the machine.
type foreign struct{ error }

// Error implements error.
func (e foreign) Error() string { return printable(e.error.Error()) }

// Unwrap returns the error as it came.
func (e foreign) Unwrap() error { return e.error }

// legible makes the text of an error fit to be read, if the machine has written it.
func legible(err error) error {
	var status *sftp.StatusError
	if errors.As(err, &status) {
		return foreign{err}
	}
	return err
}

// output runs a command and returns what it says, up to maxOutput bytes.
func output(s *ssh.Session, command string) (string, error) {
	said := &bounded{end: func() { s.Close() }}
	s.Stdout = said
	err := s.Run(command)
	if said.full {
		err = fmt.Errorf("%w: it says too much", ErrProtocol)
	}
	return said.String(), err
}

// bounded keeps what is written to it, and calls end when that is too much.
type bounded struct {
	strings.Builder
	end  func()
	full bool
}

// Write implements io.Writer.
func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > maxOutput {
		b.full = true
		b.end()
		return 0, ErrProtocol
	}
	return b.Builder.Write(p)
}

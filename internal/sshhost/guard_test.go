package sshhost

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/pkg/sftp"
)

// answer makes an SFTP server's answer.
func answer(kind byte, id uint32, rest ...byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(5+len(rest)))
	b = append(b, kind)
	return append(binary.BigEndian.AppendUint32(b, id), rest...)
}

// FuzzAnswers: what is let through are answers of a bounded length, whose data
// are not empty, and folders are bounded.
func FuzzAnswers(f *testing.F) {
	f.Add(append(answer(answerData, 1, 0, 0, 0, 1, 'x'), answer(answerStatus, 2, 0, 0, 0, 0)...))
	f.Add(answer(answerName, 3, 0, 0, 0, 0))
	f.Add(answer(answerData, 3, 0, 0, 0, 0))
	f.Add(answer(answerStatus, 1, 0, 0, 0, 0))
	f.Add([]byte{0, 0, 0, 1, 103})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, said []byte) {
		var why error
		a := newAnswers(bytes.NewReader(said), func(err error) { why = err })
		r := &requests{WriteCloser: discard{io.Discard}, a: a}
		r.Write(answer(6, 1, 'x'))        // a write,
		for _, b := range answer(17, 2) { // and a question, in parts
			r.Write([]byte{b})
		}
		if len(a.asked) != 2 || a.asked[1] != 6 || a.asked[2] != 17 {
			t.Fatalf("asked %v", a.asked)
		}
		passed, err := io.ReadAll(a)
		if !bytes.HasPrefix(said, passed) || (why != nil) != errors.Is(err, ErrProtocol) {
			t.Fatalf("%q let %q through: %v, %v", said, passed, err, why)
		}
		listed := 0
		for len(passed) > 4 {
			length := int(binary.BigEndian.Uint32(passed))
			p := passed[:min(len(passed), 4+length)]
			passed = passed[len(p):]
			if length == 0 || length > maxAnswer {
				t.Errorf("an answer of %d bytes", length)
			}
			if p[4] == answerStatus && len(p) >= answerHead && bytes.Equal(p[9:13], make([]byte, 4)) && p[8] != 1 {
				t.Errorf("success of a question: %x", p)
			}
			if p[4] == answerName {
				listed += length
			}
			if p[4] == answerData && (len(p) < answerHead || bytes.Equal(p[9:13], make([]byte, 4))) {
				t.Errorf("data of no bytes: %x", p)
			}
		}
		if listed > maxListing {
			t.Errorf("a folder of %d bytes", listed)
		}
	})
}

// A folder's bound is its own.
func TestListings(t *testing.T) {
	long := answer(answerName, 1, make([]byte, 200<<10)...)
	a := newAnswers(bytes.NewReader(bytes.Repeat(long, 100)), func(error) {})
	for range 5 {
		a.listing()
		if _, err := io.CopyN(io.Discard, a, int64(15*len(long))); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.CopyN(io.Discard, a, int64(15*len(long))); !errors.Is(err, ErrProtocol) {
		t.Errorf("a folder that does not end: %v", err)
	}
}

// FuzzPrintable: the words of a machine do nothing to a terminal.
func FuzzPrintable(f *testing.F) {
	f.Add("\x1b]0;title\x07\x1b[2J, \u202e, \xff")
	f.Add(strings.Repeat("ä", 1000))
	f.Fuzz(func(t *testing.T, said string) {
		got := printable(said)
		if n := utf8.RuneCountInString(got); n > maxSaid+1 {
			t.Errorf("%d characters", n)
		}
		for _, r := range got {
			if r != '\n' && r != '\t' && r != unicode.ReplacementChar && !unicode.IsPrint(r) {
				t.Errorf("%q became %q", said, got)
			}
		}
	})
}

func TestLegible(t *testing.T) {
	status := &sftp.StatusError{Code: 4}
	if err := legible(fmt.Errorf("\x1b[2J%w", status)); strings.Contains(err.Error(), "\x1b") || !errors.Is(err, status) {
		t.Errorf("%q", err)
	}
	if err := legible(io.EOF); err != io.EOF {
		t.Error(err)
	}
}

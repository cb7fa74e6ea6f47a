package sshhost

import (
	"bufio"
	"bytes"
	"io"
	"os/exec"
	"strings"
	"testing"
	"time"
)

type discard struct{ io.Writer }

func (discard) Close() error { return nil }

// FuzzOutput: whatever a machine says, it is bounded, and ends at the mark.
func FuzzOutput(f *testing.F) {
	f.Add([]byte("out\n\nMARK 0\nMARK 1\n"))
	f.Add([]byte("\nMARK \n"))
	f.Add([]byte("MARK 99999999999999999999\n"))
	f.Add(bytes.Repeat([]byte("x"), maxOutput+1))
	f.Add(bytes.Repeat([]byte("\n"), maxOutput+1))
	f.Fuzz(func(t *testing.T, said []byte) {
		s := &shell{in: discard{io.Discard}, out: bufio.NewReaderSize(bytes.NewReader(said), 16)}
		out, _, err := s.do("true", nil, "MARK")
		if err == nil && (!bytes.HasPrefix(said, []byte(out)) || !bytes.Contains(said, []byte("MARK"))) {
			t.Errorf("%q became %q", said, out)
		}
		if len(out) > 2*maxOutput {
			t.Errorf("%d bytes were kept", len(out))
		}
	})
}

// FuzzParseStat: what is accepted is a time that the machine can have meant.
func FuzzParseStat(f *testing.F) {
	f.Add("1700000000.123456789 42\n")
	f.Add("-1.000000000 0")
	f.Add("%.9Y 42")
	f.Add("1700000000 42")
	f.Fuzz(func(t *testing.T, out string) {
		at, size, ok := parseStat(out)
		if ok && (size < 0 || at.Nanosecond() >= int(time.Second)) {
			t.Errorf("%q became %v, %d", out, at, size)
		}
	})
}

// FuzzQuote: a real shell takes a quoted text for one word that means itself.
func FuzzQuote(f *testing.F) {
	f.Add("it's", "-n")
	f.Add("\xff\n'\\", "")
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.ContainsRune(a+b, 0) {
			return
		}
		cmd := exec.Command("sh")
		cmd.Stdin = strings.NewReader(command(`printf '%s|%s|%d' "$1" "$2" $#`, []string{a, b}))
		if out, err := cmd.Output(); err != nil || string(out) != a+"|"+b+"|2" {
			t.Errorf("%q and %q became %q, %v", a, b, out, err)
		}
	})
}

// Prompts are told however they arrive, and what is kept is bounded.
func TestRemarks(t *testing.T) {
	r := &remarks{prompt: []byte("[ask]"), prompts: make(chan struct{}, 8)}
	for _, p := range []string{"one [a", "sk] two[ask", "]", "[ask", strings.Repeat("x", 10000), " end"} {
		if n, err := r.Write([]byte(p)); n != len(p) || err != nil {
			t.Errorf("wrote %d, %v", n, err)
		}
	}
	if len(r.prompts) != 2 {
		t.Errorf("%d prompts", len(r.prompts))
	}
	if s := r.text(); len(s) > 4096 || !strings.HasSuffix(s, "xxx end") {
		t.Errorf("kept %q", s)
	}
}

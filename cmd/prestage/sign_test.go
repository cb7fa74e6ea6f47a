package main

import (
	"os"
	"strconv"
	"strings"

	"github.com/rogpeppe/go-internal/testscript"

	"prestage/ckm"
)

// trust SETTINGS [FILE.pub…] makes a settings file name these keys as the trusted
// ones, and no others.
func trustKeys(ts *testscript.TestScript, _ bool, args []string) {
	var lines []string
	for _, path := range args[1:] {
		b, err := os.ReadFile(ts.MkAbs(path))
		ts.Check(err)
		_, line, _ := strings.Cut(string(b), "\n") // after the comment
		lines = append(lines, strconv.Quote(strings.TrimSpace(line)))
	}
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	var kept []string
	for _, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		if !strings.HasPrefix(line, "trusted_keys") {
			kept = append(kept, line)
		}
	}
	kept = append(kept, "trusted_keys = ["+strings.Join(lines, ", ")+"]", "")
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Join(kept, "\n")), 0o644))
}

// signature TO FROM gives an INDEX the signatures of another one.
func moveSignature(ts *testscript.TestScript, _ bool, args []string) {
	read := func(path string) *ckm.Index {
		b, err := os.ReadFile(ts.MkAbs(path))
		ts.Check(err)
		x, err := ckm.Decode(b)
		ts.Check(err)
		return x
	}
	to := read(args[0])
	to.Signatures = read(args[1]).Signatures
	b, err := to.Encode()
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), b, 0o644))
}

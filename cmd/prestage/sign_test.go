package main

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"prestage/ckm"
	"prestage/internal/testenv"
)

// trust SETTINGS [FILE.pub…] makes a settings file name these keys as the trusted
// ones, and no others.
func trustKeys(ts *testscript.TestScript, _ bool, args []string) {
	var lines []string
	for _, path := range args[1:] {
		publicLine(ts, false, []string{path})
		lines = append(lines, strconv.Quote(ts.Getenv("LINE")))
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

// publicline FILE.pub sets $LINE to the line of a public key.
func publicLine(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	_, line, _ := strings.Cut(string(b), "\n") // after the comment
	ts.Setenv("LINE", strings.TrimSpace(line))
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

// TestScriptMinisign compares keys and signatures with those of the real program.
// It encrypts keys, which takes 1 GiB of memory each time.
func TestScriptMinisign(t *testing.T) {
	testenv.NeedTime(t)
	testenv.Need(t, "minisign", "sha256sum")
	params := scriptParams(t, "testdata/minisign")
	params.Cmds["only"] = onlyFile
	testscript.Run(t, params)
}

// only PATTERN NAME copies the one file that the pattern stands for.
func onlyFile(ts *testscript.TestScript, _ bool, args []string) {
	found, err := filepath.Glob(ts.MkAbs(args[0]))
	ts.Check(err)
	if len(found) != 1 {
		ts.Fatalf("%s stands for %q", args[0], found)
	}
	b, err := os.ReadFile(found[0])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), b, 0o644))
}

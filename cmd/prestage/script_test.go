package main

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"prestage/internal/testenv"
)

func TestMain(m *testing.M) {
	testscript.Main(cleaned(m), commands)
}

// TestScript runs testdata/script: the command line's contract, to be read as
// documentation too.
func TestScript(t *testing.T) {
	testscript.Run(t, scriptParams(t, "testdata/script"))
}

// scriptParams are what the scripts in dir find.
func scriptParams(t *testing.T, dir string) testscript.Params {
	return testscript.Params{
		Dir: dir,
		Setup: func(env *testscript.Env) error {
			env.Setenv("PRESTAGE_CONFIG", filepath.Join(env.WorkDir, "prestage.toml"))
			env.Setenv("SOURCE_DATE_EPOCH", "1780000000")
			env.Values[serverKey{}] = &scriptServer{}
			return nil
		},
		// [wine] is set where the program for Windows is run, in wine_test.go.
		Condition: func(name string) (bool, error) {
			if name == "wine" {
				return false, nil
			}
			return false, fmt.Errorf("no condition %q", name)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":    exits,
			"image":    makeImage,
			"damage":   damage,
			"same":     sameBytes,
			"mode":     mode,
			"readonly": readOnly,
			"disturb":  disturb,
			"ext4":     makeExt4(t),
			"serve":    serve,
			"server":   startServer,
			"tell":     tell,
			"fill":     fill,
			"line":     addLine,

			"certificates": certificates(t),
			"env-file":     envFile,

			"trust":      trustKeys,
			"publicline": publicLine,
			"signature":  moveSignature,
		},
	}
}

// exits CODE COMMAND ARG… runs a command that must end with that exit code. Its
// output can be matched afterwards.
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	code := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		code = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(code) != args[0] {
		ts.Fatalf("exit code %d, want %s", code, args[0])
	}
}

// image FILE KIB SEED makes a file of text-like and random data with a hole.
func makeImage(ts *testscript.TestScript, _ bool, args []string) {
	kib, err := strconv.Atoi(args[1])
	ts.Check(err)
	seed, err := strconv.Atoi(args[2])
	ts.Check(err)
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	f, err := os.Create(path)
	ts.Check(err)
	defer f.Close()
	part := kib << 10 / 4
	_, err = f.WriteAt(testenv.Text(byte(seed), 2*part), 0)
	ts.Check(err)
	_, err = f.WriteAt(testenv.Random(byte(seed), part), int64(3*part))
	ts.Check(err)
}

// damage FILE OFFSET flips the bits of a byte, of the file's end if negative.
func damage(ts *testscript.TestScript, _ bool, args []string) {
	off, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	path := ts.MkAbs(args[0])
	b, err := os.ReadFile(path)
	ts.Check(err)
	if off < 0 {
		off += int64(len(b))
	}
	b[off] ^= 0xff
	st, err := os.Stat(path)
	ts.Check(err)
	ts.Check(os.Chmod(path, 0o644))
	// In place, as a failing disk does it; the time stays as it was.
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	ts.Check(err)
	_, err = f.WriteAt(b[off:off+1], off)
	ts.Check(err)
	ts.Check(f.Close())
	ts.Check(os.Chtimes(path, st.ModTime(), st.ModTime()))
	ts.Check(os.Chmod(path, st.Mode().Perm()))
}

// same A B compares two files' bytes.
func sameBytes(ts *testscript.TestScript, neg bool, args []string) {
	a, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	b, err := os.ReadFile(ts.MkAbs(args[1]))
	ts.Check(err)
	if (string(a) == string(b)) == neg {
		ts.Fatalf("%s and %s: the same is %v", args[0], args[1], !neg)
	}
}

// mode FILE MODE compares a file's or a folder's permission bits, as -rw-r--r--.
func mode(ts *testscript.TestScript, _ bool, args []string) {
	st, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if st.Mode().String() != args[1] {
		ts.Fatalf("%s has mode %v, want %s", args[0], st.Mode(), args[1])
	}
}

// readonly FILE checks that a file is marked read-only, on POSIX with the rights
// that all staged files have.
func readOnly(ts *testscript.TestScript, _ bool, args []string) {
	mode(ts, false, []string{args[0], "-r--r--r--"})
}

// disturb FOLDER gives a folder rights that it must not have.
func disturb(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.Chmod(ts.MkAbs(args[0]), 0o777))
}

// ext4 FILE DIR MIB makes a file system with what is in DIR.
func makeExt4(t *testing.T) func(ts *testscript.TestScript, _ bool, args []string) {
	return func(ts *testscript.TestScript, _ bool, args []string) {
		mib, err := strconv.ParseInt(args[2], 10, 64)
		ts.Check(err)
		testenv.Ext4(t, ts.MkAbs(args[0]), ts.MkAbs(args[1]), mib<<20)
	}
}

// serve DIR serves a folder as MEDVImages and sets $URL to it, $SERVER_ADDRESS
// and $SERVER_PORT to what a URL is made of.
func serve(ts *testscript.TestScript, _ bool, args []string) {
	s := httptest.NewServer(http.StripPrefix("/MEDVImages/", http.FileServer(http.Dir(ts.MkAbs(args[0])))))
	ts.Defer(s.Close)
	ts.Setenv("URL", s.URL+"/MEDVImages/")
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	ts.Check(err)
	ts.Setenv("SERVER_ADDRESS", host)
	ts.Setenv("SERVER_PORT", port)
}

// line FILE TEXT adds a line to a file.
func addLine(ts *testscript.TestScript, _ bool, args []string) {
	b, err := os.ReadFile(ts.MkAbs(args[0]))
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), append(b, args[1]+"\n"...), 0o644))
}

// fill FILE BYTE COUNT writes COUNT times the same byte.
func fill(ts *testscript.TestScript, _ bool, args []string) {
	b, err := strconv.Atoi(args[1])
	ts.Check(err)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Repeat(fmt.Sprintf("%c", b), n)), 0o644))
}

//go:build linux

// Package winetest runs Windows programs in tests on Linux, with Wine. Each
// test binary that uses it has a Wine prefix, a Windows of its own, made at
// first use and removed at the end, however that end comes about.
package winetest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"prestage/internal/testenv"
)

// Prefix is a Windows: its drives, its registry, its services.
type Prefix struct {
	dir string // holds everything that belongs to it

	// running is held for writing while the wineserver is another one.
	running sync.RWMutex
}

// bench is what the tests of this binary share.
var bench struct {
	sync.Mutex
	dir    string
	ending io.Closer // to close it, or to end, lets the keeper clean up
	keeper *exec.Cmd

	prefix *Prefix
	failed error // why there is no prefix
	built  map[string]string
}

// New returns the Wine prefix of this test binary, made at first use (about
// 10 s) and shared by its tests. What is missing on this machine is named
// through testenv.
func New(t testing.TB) *Prefix {
	t.Helper()
	testenv.NeedTime(t)
	testenv.NeedLinux(t)
	testenv.Need(t, "wine", "wineserver")
	bench.Lock()
	defer bench.Unlock()
	if bench.prefix == nil && bench.failed == nil {
		bench.prefix, bench.failed = newPrefix()
	}
	if bench.failed != nil {
		t.Fatalf("making a Wine prefix: %v", bench.failed)
	}
	return bench.prefix
}

// M is a testing.M, or what stands for one.
type M interface{ Run() int }

// Main runs the tests and ends the program. TestMain calls it in a package
// whose tests use Wine.
func Main(m M) { os.Exit(Wrap(m).Run()) }

// Wrap returns m with the cleaning up after its tests, for a TestMain that
// hands m to somebody else.
func Wrap(m M) M { return wrapped{m} }

type wrapped struct{ M }

func (w wrapped) Run() int {
	code := w.M.Run()
	if err := stop(); err != nil {
		fmt.Fprintln(os.Stderr, "winetest:", err)
		return max(code, 1)
	}
	return code
}

// keeper waits until its standard input ends, which it does when the test
// binary closes it, or crashes, or is killed. Then it ends all that runs in the
// prefix and removes the folder.
const keeper = `trap '' INT TERM HUP
cat
if [ -d "$WINEPREFIX" ]; then
	timeout -k 5 20 wineserver -k
	timeout -k 5 20 wineserver -w
fi
rm -rf -- "$1"`

// workDir returns the folder of this test binary. bench is locked.
func workDir() (string, error) {
	if bench.dir != "" {
		return bench.dir, nil
	}
	dir, err := os.MkdirTemp("", "prestage-wine-")
	if err != nil {
		return "", err
	}
	// Some tests run programs as somebody else than root.
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	// A Ctrl-C on the terminal must reach the tests and not the keeper, so it
	// has a process group of its own.
	cmd := exec.Command("sh", "-c", keeper, "keeper", dir)
	cmd.Env = environment(dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", err
	}
	bench.dir, bench.ending, bench.keeper, bench.built = dir, in, cmd, map[string]string{}
	return dir, nil
}

// stop waits until everything is cleaned up.
func stop() error {
	bench.Lock()
	defer bench.Unlock()
	if bench.dir == "" {
		return nil
	}
	if err := errors.Join(bench.ending.Close(), bench.keeper.Wait()); err != nil {
		return err
	}
	if _, err := os.Lstat(bench.dir); !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s was not removed", bench.dir)
	}
	return nil
}

// environment is what every program of Wine gets: nothing of the user's, and
// no display.
func environment(dir string) []string {
	return []string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "WINEPREFIX=" + filepath.Join(dir, "prefix"),
		"TMPDIR=" + dir, // where programs look for the wineserver: with another, each would start one of its own
		"WINEARCH=win64", "WINEDEBUG=-all",
		"WINEDLLOVERRIDES=mscoree,mshtml=", // Wine would ask to download them
		"LANG=C.UTF-8",
	}
}

// Environment returns the variables that a program needs to run wine in this
// prefix by itself. Such a program must not be handed a pipe for its output:
// what Wine leaves running would keep it open.
func (p *Prefix) Environment() []string { return environment(p.dir) }

func newPrefix() (*Prefix, error) {
	dir, err := workDir()
	if err != nil {
		return nil, err
	}
	p := &Prefix{dir: dir}
	if err := p.wine("wineboot", "-i"); err != nil {
		return nil, err
	}
	// Programs find their own forms of system functions in the prefix alone.
	if err := os.WriteFile(p.Unix(`C:\windows\system32\bcryptprimitives.dll`), forwarder(), 0o644); err != nil {
		return nil, err
	}
	// The registry's files appear when the server that wineboot started ends.
	if err := p.wine("wineserver", "-w"); err != nil {
		return nil, err
	}
	return p, p.startServer("")
}

// Windows returns the name that Windows programs have for a file of this
// machine, which need not exist.
func (p *Prefix) Windows(unix string) string {
	drive := "Z:"
	if in, ok := strings.CutPrefix(unix, p.Unix(`C:\`)+"/"); ok {
		drive, unix = "C:", "/"+in
	}
	return drive + strings.ReplaceAll(unix, "/", `\`)
}

// Unix returns where a file lies that Windows programs know by this absolute
// name. Upper and lower case matter from the drive's colon on.
func (p *Prefix) Unix(windows string) string {
	drive, rest, ok := strings.Cut(windows, ":")
	rest = strings.ReplaceAll(rest, `\`, "/")
	switch {
	case !ok || len(drive) != 1:
		panic(fmt.Sprintf("%q does not start with a drive letter", windows))
	case strings.EqualFold(drive, "C"):
		return filepath.Join(p.dir, "prefix", "drive_c", rest)
	case strings.EqualFold(drive, "Z"):
		return filepath.Join("/", rest)
	}
	return filepath.Join(p.dir, "prefix", "dosdevices", strings.ToLower(drive)+":", rest)
}

// Drive makes a folder of this machine the drive with that letter, until the
// test ends.
func (p *Prefix) Drive(t testing.TB, letter byte, unix string) {
	t.Helper()
	link := filepath.Join(p.dir, "prefix", "dosdevices", strings.ToLower(string(letter))+":")
	if err := os.Symlink(unix, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(link) })
}

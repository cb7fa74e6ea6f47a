//go:build linux

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"prestage/internal/winetest"
)

// windowsProgram is the environment variable that makes the command prestage of
// a script be the Windows program with that path.
const windowsProgram = "PRESTAGE_TEST_WINDOWS_PROGRAM"

// cleaned is m with the cleaning up after Wine.
func cleaned(m testscript.TestingM) testscript.TestingM { return winetest.Wrap(m) }

// commands are the programs that scripts can run.
var commands = map[string]func(){"prestage": program, "windows": windowsCommand}

// program is what scripts run as prestage.
func program() {
	if exe := os.Getenv(windowsProgram); exe != "" {
		os.Exit(inWine(exe, os.Args[1:]))
	}
	main()
}

// windowsCommand is the command windows of scripts, which runs a command of
// Windows such as reg.
func windowsCommand() {
	os.Exit(inWine(os.Args[1], os.Args[2:]))
}

func inWine(exe string, args []string) int {
	code, err := runWindows(exe, args)
	if err != nil {
		fmt.Fprintln(os.Stderr, "running", exe, "in Wine:", err)
		return 125 // none of prestage's
	}
	return code
}

// runWindows runs a Windows program. Its exit code must be below 256.
//
// Now and then, on a busy machine, Wine does not start a program and says nothing
// at all, with the exit code 1. Ours never fails without a word, so that is told
// apart, and tried again.
func runWindows(exe string, args []string) (code int, err error) {
	for range 3 {
		var said bool
		if code, said, err = startWindows(exe, args); code != 1 || said {
			break
		}
	}
	return code, err
}

// startWindows runs a Windows program and reports whether it wrote anything, as
// far as that can be seen.
func startWindows(exe string, args []string) (code int, said bool, err error) {
	cmd := exec.Command("wine", append([]string{exe}, args...)...)
	for _, s := range []struct {
		to  *os.File
		set *io.Writer
	}{{os.Stdout, &cmd.Stdout}, {os.Stderr, &cmd.Stderr}} {
		f, after, err := asFile(s.to)
		if err != nil {
			return 0, false, err
		}
		defer func() { said = after() || said }()
		*s.set = f
	}
	if err := cmd.Start(); err != nil {
		return 0, false, err
	}
	// Scripts interrupt the program by interrupting this one.
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	go func() {
		for range interrupts {
			cmd.Process.Signal(syscall.SIGINT)
		}
	}()
	defer signal.Stop(interrupts)
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode(), false, nil
	}
	return 0, false, err
}

// asFile returns a file that Wine may be given for its output, and what to do in
// the end to have that output in f, which reports whether there was any. A pipe
// may be kept open by what Wine leaves running.
func asFile(f *os.File) (*os.File, func() bool, error) {
	if st, err := f.Stat(); err == nil && st.Mode().IsRegular() {
		return f, func() bool { return true }, nil
	}
	kept, err := os.CreateTemp("", "prestage-output-")
	if err != nil {
		return nil, nil, err
	}
	return kept, func() bool {
		n := int64(0)
		if _, err := kept.Seek(0, io.SeekStart); err == nil {
			n, _ = io.Copy(f, kept)
		}
		kept.Close()
		os.Remove(kept.Name())
		return n > 0
	}, nil
}

// windowsParams are the parameters of scripts that run the program for Windows.
func windowsParams(t *testing.T) testscript.Params {
	p := winetest.New(t)
	exe := winetest.Build(t, "winedacl")
	params := scriptParams(t, "")
	params.Condition = func(name string) (bool, error) {
		if name == "wine" {
			return true, nil
		}
		return false, fmt.Errorf("no condition %q", name)
	}
	params.Setup = func(env *testscript.Env) error {
		for _, v := range p.Environment() {
			// The script's own PATH leads to this program.
			if name, value, _ := strings.Cut(v, "="); name != "PATH" {
				env.Setenv(name, value)
			}
		}
		env.Setenv(windowsProgram, exe)
		env.Setenv("SOURCE_DATE_EPOCH", "1780000000")
		env.Values[serverKey{}] = &scriptServer{}
		return nil
	}
	params.Cmds["readonly"] = func(ts *testscript.TestScript, _ bool, args []string) {
		// Wine keeps the attribute as the lack of any right to write.
		st, err := os.Lstat(ts.MkAbs(args[0]))
		ts.Check(err)
		if st.Mode().Perm()&0o222 != 0 {
			ts.Fatalf("%s is not read-only: %v", args[0], st.Mode())
		}
	}
	params.Cmds["disturb"] = func(ts *testscript.TestScript, _ bool, args []string) {
		// The program for tests remembers DACLs by the file's number. What is
		// forgotten is what Wine makes of the file's mode.
		st, err := os.Lstat(ts.MkAbs(args[0]))
		ts.Check(err)
		inode := st.Sys().(*syscall.Stat_t).Ino
		found, err := filepath.Glob(p.Unix(fmt.Sprintf(`C:\users\*\Temp\winedacl\*-%x-%x`, inode>>32, inode&0xffffffff)))
		ts.Check(err)
		if len(found) != 1 {
			ts.Fatalf("of %s %d DACLs are remembered", args[0], len(found))
		}
		ts.Check(os.Remove(found[0]))
	}
	return params
}

// leftOut are scripts that say nothing about the program for Windows.
var leftOut = map[string]string{
	"bundle.txtar": "the program for Windows puts itself into a bundle; TestBundleOnWindows and TestStartOnWindows are about that",
}

// TestScriptWine runs the command line's contract with the program for Windows.
func TestScriptWine(t *testing.T) {
	p := winetest.New(t)
	params := windowsParams(t)
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scripts {
		if leftOut[filepath.Base(s)] == "" {
			params.Files = append(params.Files, s)
		}
	}
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("PRESTAGE_CONFIG", p.Windows(filepath.Join(env.WorkDir, "prestage.toml")))
		return setup(env)
	}
	testscript.Run(t, params)
}

// TestS9RegistryWine runs what is about the registry: there is one, so this runs
// by itself and leaves nothing in it.
func TestS9RegistryWine(t *testing.T) {
	p := winetest.New(t)
	t.Cleanup(func() {
		for _, what := range [][]string{
			{`HKLM\SOFTWARE\WOW6432Node\Kidaro`}, {`HKLM\SOFTWARE\WOW6432Node`, "/v", "PrestagedImagesPath"}, {`HKLM\SOFTWARE\Policies\Kidaro`, "/reg:32"},
		} {
			p.Run(t, winetest.Command{Args: append(append([]string{"reg", "delete"}, what...), "/f")})
		}
	})
	params := windowsParams(t)
	params.Files = []string{"testdata/wine/registry.txtar"}
	setup := params.Setup
	params.Setup = func(env *testscript.Env) error {
		env.Setenv("HERE", p.Windows(env.WorkDir))
		return setup(env)
	}
	testscript.Run(t, params)
}

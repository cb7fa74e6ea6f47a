package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/nettest"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// office is a network of machines with an administrator who has prestage and a
// repository.
type office struct {
	*nettest.Net
	exe, work, repo string
	home            string // the administrator's
}

func newOffice(t *testing.T) *office {
	testenv.NeedTime(t)
	o := &office{Net: nettest.New(t), work: t.TempDir()}
	o.repo = filepath.Join(o.work, "repo")
	o.exe = filepath.Join(o.work, "prestage")
	if out, err := exec.Command("go", "build", "-o", o.exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	o.home = o.Login(t)
	return o
}

// pack makes a package of an image of so many bytes, most of which do not compress.
func (o *office) pack(t *testing.T, name string, seed byte, size int) {
	t.Helper()
	o.packInto(t, o.repo, name, seed, size)
}

func (o *office) packInto(t *testing.T, repo, name string, seed byte, size int) {
	t.Helper()
	image := filepath.Join(o.work, fmt.Sprintf("%s-%d.img", name, seed))
	if err := os.WriteFile(image, append(testenv.Text(seed, size/8), testenv.Random(seed, size-size/8)...), 0o644); err != nil {
		t.Fatal(err)
	}
	o.run(t, 0, "pack", image, "--name", name, "--images", repo)
}

// windows adds Windows machines, running.
func (o *office) windows(t *testing.T, names ...string) []*sambatest.Client {
	t.Helper()
	list := make([]*sambatest.Client, len(names))
	for i, name := range names {
		list[i] = sambatest.Add(t, o.Net, name)
	}
	var wg sync.WaitGroup
	for _, c := range list {
		wg.Go(func() { c.Run(t) })
	}
	wg.Wait()
	return list
}

// linux adds a Linux machine, running and known to the administrator.
func (o *office) linux(t *testing.T, name string) *nettest.Machine {
	t.Helper()
	m := o.Add(t, name)
	m.SetUpSSH(t)
	m.Trust(t)
	m.ServeSSH(t)
	return m
}

// hosts writes a hosts file.
func (o *office) hosts(t *testing.T, name, text string) (path string) {
	t.Helper()
	path = filepath.Join(o.work, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// command is a run of prestage by the administrator.
func (o *office) command(args ...string) *exec.Cmd {
	cmd := o.Command(o.exe, args...)
	cmd.Dir = o.work
	cmd.Env = append(os.Environ(), "PRESTAGE_USER="+sambatest.Administrator, "PRESTAGE_PASSWORD="+sambatest.Password,
		"PRESTAGE_CONFIG="+filepath.Join(o.work, "none.toml"), "HOME="+o.home, "SSH_AUTH_SOCK=")
	return cmd
}

// run runs prestage and wants it to end with a code.
func (o *office) run(t *testing.T, wantCode int, args ...string) (out string) {
	t.Helper()
	cmd := o.command(args...)
	b, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Errorf("prestage %s: exit code %d, want %d (%v)\n%s", strings.Join(args, " "), code, wantCode, err, b)
	}
	if bytes.Contains(b, []byte(sambatest.Password)) {
		t.Errorf("the password is in the output of prestage %s", strings.Join(args, " "))
	}
	return string(b)
}

// report runs prestage on machines and returns its report, and what it said.
func (o *office) report(t *testing.T, wantCode int, args ...string) (r *fleet.Report, out string) {
	t.Helper()
	f, err := os.CreateTemp(o.work, "report*.json")
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	out = o.run(t, wantCode, append(args, "--progress", "plain", "--report", f.Name())...)
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &r); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if bytes.Contains(b, []byte(sambatest.Password)) {
		t.Error("the password is in the report")
	}
	return r, out
}

// sameFile compares two files.
func sameFile(t *testing.T, want, got string) {
	t.Helper()
	a, err := os.ReadFile(want)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(got); err != nil || !bytes.Equal(a, b) {
		t.Errorf("%s differs: %d bytes, want %d (%v)", got, len(b), len(a), err)
	}
}

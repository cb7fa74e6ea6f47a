//go:build linux

package crashtest

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"prestage/internal/testenv"
)

// seedFlag repeats the moments of an earlier run.
var seedFlag = flag.Uint64("crash.seed", 0, "seed of the random moments (default: another one each time)")

var (
	work   string // holds all that the tests make; anybody may enter it
	binary string // the program
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	var err error
	if work, err = os.MkdirTemp("", "prestage-crashtest-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(work)
	if err := os.Chmod(work, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	binary = filepath.Join(work, "prestage")
	build := exec.Command("go", "build", "-o", binary, "prestage/cmd/prestage")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "building the program: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

// seeded returns a source of random moments and says how to have it again.
func seeded(t *testing.T) *rand.Rand {
	t.Helper()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("-crash.seed=%d", seed)
	return rand.New(rand.NewPCG(seed, 1))
}

// Disks that the tests pack: each is made once and never written to.
const (
	large = 24 << 20
	small = 4 << 20
)

var (
	disksMu sync.Mutex
	disks   = map[string]string{}
)

// diskImage returns an ext4 disk of size bytes, half full. Its file name tells
// its seed, so that an installed image says what it must be.
func diskImage(t testing.TB, seed byte, size int) string {
	t.Helper()
	disksMu.Lock()
	defer disksMu.Unlock()
	name := fmt.Sprintf("disk-%d-%d.img", seed, size)
	if disks[name] == "" {
		tree, path := filepath.Join(t.TempDir(), "tree"), filepath.Join(work, "disks", name)
		for _, dir := range []string{tree, filepath.Dir(path)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				t.Fatal(err)
			}
		}
		testenv.Tree(t, tree, seed, size/2)
		testenv.Ext4(t, path, tree, int64(size))
		disks[name] = path
	}
	return disks[name]
}

// world is a machine of its own: settings, a folder of packages, a place for
// the pre-stage folder and the image store.
type world struct {
	t      *testing.T
	dir    string
	config string
	images string // folder of packages, the default of --images
	parent string // holds medv
	medv   string // MED-V Images, also the image store
	staged string // PrestagedImages
	user   *syscall.Credential
	umask  string // for the program, if not the tests'
	env    []string

	// packages are the contents that version numbers had: a number has one for ever.
	packages map[string]string
	// origins are the folders that staged packages come from.
	origins []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp(work, "world-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, dir: dir, config: filepath.Join(dir, "etc", "prestage.toml"), images: filepath.Join(dir, "images"), packages: map[string]string{}}
	w.origins = []string{w.images}
	w.at(filepath.Join(dir, "data"))
	for _, d := range []string{w.parent, filepath.Dir(w.config)} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return w
}

// at says where the machine's folders are.
func (w *world) at(parent string) {
	w.parent, w.medv = parent, filepath.Join(parent, "MED-V Images")
	w.staged = filepath.Join(w.medv, "PrestagedImages")
}

// result is how the program ended.
type result struct {
	code     int // -1: by a signal
	out, err string
	took     time.Duration
}

func (r result) String() string {
	return fmt.Sprintf("exit code %d after %v\n%s%s", r.code, r.took.Round(time.Millisecond), r.out, r.err)
}

// hung is how long the program may take for anything here.
const hung = 2 * time.Minute

// command prepares the program without starting it.
func (w *world) command(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	if w.umask != "" {
		cmd = exec.Command("sh", append([]string{"-c", `umask ` + w.umask + `; exec "$0" "$@"`, binary}, args...)...)
	}
	cmd.Dir = w.dir
	cmd.Env = []string{"PRESTAGE_CONFIG=" + w.config, "PRESTAGE_IMAGES=" + w.images, "PATH=" + os.Getenv("PATH"), "HOME=" + w.dir}
	cmd.Env = append(cmd.Env, w.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: w.user, Pdeathsig: syscall.SIGKILL}
	return cmd
}

// process is the program while it runs.
type process struct {
	w        *world
	cmd      *exec.Cmd
	out, err bytes.Buffer
	started  time.Time
	ended    chan struct{}
}

func (w *world) start(args ...string) *process {
	w.t.Helper()
	p := &process{w: w, cmd: w.command(args...), ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.err
	// The thread that starts a process must live as long: Pdeathsig is about it.
	p.cmd.SysProcAttr.Pdeathsig = 0
	p.started = time.Now()
	if err := p.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		defer close(p.ended)
		p.cmd.Wait()
	}()
	w.t.Cleanup(func() { p.cmd.Process.Kill(); <-p.ended })
	return p
}

// wait waits until the program ends by itself.
func (p *process) wait() result {
	p.w.t.Helper()
	select {
	case <-p.ended:
	case <-time.After(hung):
		p.cmd.Process.Kill()
		<-p.ended
		p.w.t.Fatalf("%v hangs\n%s%s", p.cmd.Args[1:], &p.out, &p.err)
	}
	return result{p.cmd.ProcessState.ExitCode(), p.out.String(), p.err.String(), time.Since(p.started)}
}

// kill kills the program's process, and reports false when it had ended before.
func (p *process) kill() bool {
	p.cmd.Process.Kill()
	<-p.ended
	st, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && st.Signaled()
}

// pause stops the program, if it has not ended, until resume.
func (p *process) pause() {
	p.w.t.Helper()
	if err := p.cmd.Process.Signal(syscall.SIGSTOP); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.w.t.Fatalf("stopping %v: %v", p.cmd.Args[1:], err)
	}
}

func (p *process) resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

func (w *world) run(args ...string) result {
	w.t.Helper()
	return w.start(args...).wait()
}

// must runs the program, which has to succeed.
func (w *world) must(args ...string) result {
	w.t.Helper()
	r := w.run(args...)
	if r.code != 0 {
		w.t.Fatalf("prestage %s: %v", strings.Join(args, " "), r)
	}
	return r
}

// refused runs the program, which has to fail with this code and say all of these.
func (w *world) refused(code int, says []string, args ...string) result {
	w.t.Helper()
	r := w.run(args...)
	r.check(w.t, code, says, args...)
	return r
}

func (r result) check(t *testing.T, code int, says []string, args ...string) {
	t.Helper()
	if r.code != code {
		t.Errorf("prestage %s: exit code %d expected: %v", strings.Join(args, " "), code, r)
	}
	for _, s := range says {
		if !strings.Contains(r.err, s) {
			t.Errorf("prestage %s: the error does not say %q: %v", strings.Join(args, " "), s, r)
		}
	}
	if strings.Contains(r.err, "goroutine ") || strings.Contains(r.err, "panic:") {
		t.Errorf("prestage %s: it crashed: %v", strings.Join(args, " "), r)
	}
}

// eventually waits for something that a running program does.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for !ok() {
		if ctx.Err() != nil {
			t.Fatalf("%s has not happened", what)
		}
		time.Sleep(200 * time.Microsecond)
	}
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func removeAll(t testing.TB, paths ...string) {
	t.Helper()
	for _, p := range paths {
		if err := os.RemoveAll(p); err != nil {
			t.Fatal(err)
		}
	}
}

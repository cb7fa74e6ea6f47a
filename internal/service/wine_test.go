//go:build linux

package service

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"prestage/internal/testenv"
	"prestage/internal/winetest"
)

func TestMain(m *testing.M) { winetest.Main(m) }

// windows is a Windows with the real program in it.
type windows struct {
	t   *testing.T
	p   *winetest.Prefix
	exe string
	dir string // a folder on drive C, as a path of this machine
}

func newWindows(t *testing.T) *windows {
	t.Helper()
	w := &windows{t: t, p: winetest.New(t)}
	// A program whose path has a space, as programs of Windows have.
	dir := w.p.Unix(`C:\Program Files\Prestage client`)
	must(t, os.MkdirAll(dir, 0o755))
	w.exe = filepath.Join(dir, "prestage.exe")
	program, err := os.ReadFile(winetest.Build(t))
	must(t, err)
	must(t, os.WriteFile(w.exe, program, 0o755))
	w.dir, err = os.MkdirTemp(w.p.Unix(`C:\`), "data")
	must(t, err)
	t.Cleanup(func() {
		w.try(w.exe, "agent", "uninstall")
		w.try(w.exe, "serve", "uninstall")
		w.try("reg", "delete", `HKLM\SOFTWARE\WOW6432Node\Kidaro`, "/f")
	})
	return w
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *windows) try(args ...string) winetest.Result {
	w.t.Helper()
	return w.p.Run(w.t, winetest.Command{Dir: w.dir, Args: args})
}

// must runs a program, which has to succeed, and returns what it printed.
func (w *windows) must(args ...string) string {
	w.t.Helper()
	r := w.try(args...)
	if r.Code != 0 {
		w.t.Fatalf("%s: %v", strings.Join(args, " "), r)
	}
	return r.Stdout
}

// state returns the state of the agent's service, as sc has it.
func (w *windows) state() string {
	w.t.Helper()
	return w.stateOf(Agent.Name)
}

func (w *windows) stateOf(service string) string {
	w.t.Helper()
	r := w.try("sc", "query", service)
	if m := regexp.MustCompile(`STATE\s*:\s*\d+\s+(\w+)`).FindStringSubmatch(r.Stdout); m != nil {
		return m[1]
	}
	return "none"
}

func (w *windows) reaches(want string) {
	w.t.Helper()
	state := ""
	for range 60 {
		if state = w.state(); state == want {
			return
		}
		time.Sleep(200 * time.Millisecond)
	}
	w.t.Fatalf("the service is %s and should be %s", state, want)
}

// stage packs an image and pre-stages it.
func (w *windows) stage(name string, seed byte, size int) {
	w.t.Helper()
	must(w.t, os.WriteFile(filepath.Join(w.dir, name+".img"), testenv.Random(seed, size), 0o644))
	w.must(w.exe, "pack", name+".img", "--name", name, "--images", "repo")
	w.must(w.exe, "push", name, "--images", "repo")
}

func (w *windows) installs(name string, seed byte, size int) {
	w.t.Helper()
	path := filepath.Join(w.dir, "MED-V Images", name, "1", name+".img")
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		got, err := os.ReadFile(path)
		if err == nil && string(got) == string(testenv.Random(seed, size)) {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("the service has not installed %s: %v", name, err)
		}
	}
}

// value returns what reg has of a value, as "TYPE DATA"; "" if it is not there.
func (w *windows) value(key, name string) string {
	w.t.Helper()
	r := w.try("reg", "query", key, "/v", name)
	if m := regexp.MustCompile(`(?m)^\s+` + name + `\s+(REG_\w+)\s+(.*?)\s*$`).FindStringSubmatch(r.Stdout); m != nil {
		return m[1] + " " + m[2]
	}
	return ""
}

var (
	serviceKey = `HKLM\SYSTEM\CurrentControlSet\Services\` + Agent.Name
	eventKey   = `HKLM\SYSTEM\CurrentControlSet\Services\EventLog\Application\` + Agent.Name
)

// stops stops the service, which has to happen within seconds.
func (w *windows) stops() {
	w.t.Helper()
	began := time.Now()
	w.must("net", "stop", Agent.Name)
	w.reaches("STOPPED")
	if took := time.Since(began); took > 30*time.Second {
		w.t.Errorf("stopping took %v", took)
	}
}

// powerCut ends all programs and starts Windows again.
func (w *windows) powerCut() {
	w.t.Helper()
	for _, args := range [][]string{{"wineserver", "-k"}, {"wineserver", "-w"}, {"wineserver", "-p"}} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Env = w.p.Environment()
		must(w.t, cmd.Run())
	}
}

// The life of the service on Windows: it is installed, installs what is
// pre-staged with no network, is stopped, started by hand, killed, starts with
// the machine, and is removed.
func TestWineService(t *testing.T) {
	w := newWindows(t)
	w.must(w.exe, "setup", w.p.Windows(w.dir))
	w.stage("win11", 1, 3<<20)

	if out := w.must(w.exe, "agent", "install"); !strings.Contains(out, "installed and runs") {
		t.Errorf("installing said: %s", out)
	}
	w.installs("win11", 1, 3<<20)
	if state := w.state(); state != "RUNNING" {
		t.Errorf("the service is %s", state)
	}
	for _, want := range []struct{ key, name, value string }{
		{serviceKey, "ImagePath", `REG_SZ "C:\Program Files\Prestage client\prestage.exe" agent run --service`},
		{serviceKey, "DisplayName", "REG_SZ " + Agent.DisplayName},
		{serviceKey, "Description", "REG_SZ " + Agent.Description},
		{serviceKey, "ObjectName", "REG_SZ LocalSystem"},
		{serviceKey, "Start", "REG_DWORD 0x2"},
		{serviceKey, "Type", "REG_DWORD 0x10"},
		{eventKey, "EventMessageFile", `REG_EXPAND_SZ %SystemRoot%\System32\EventCreate.exe`},
		{eventKey, "TypesSupported", "REG_DWORD 0x7"},
	} {
		if got := w.value(want.key, want.name); got != want.value {
			t.Errorf("%s in %s is %q, want %q", want.name, want.key, got, want.value)
		}
	}
	w.must(w.exe, "verify", filepath.Join("MED-V Images", "win11", "1"))

	// There is one agent on a machine.
	if r := w.try(w.exe, "agent", "run"); r.Code != 1 || !strings.Contains(r.Stderr, "another agent is running") {
		t.Errorf("a second agent: %v", r)
	}

	w.stops()
	if left, _ := filepath.Glob(filepath.Join(w.dir, "MED-V Images", ".agent.lock")); len(left) > 0 {
		t.Error("a stopped agent has left its lock")
	}
	w.stage("win10", 2, 1<<20)
	w.must("net", "start", Agent.Name)
	w.reaches("RUNNING")
	w.installs("win10", 2, 1<<20)

	// Killed, and with it all of Windows, it starts with the machine and goes on.
	w.must("taskkill", "/f", "/im", "prestage.exe")
	w.stage("win7", 3, 1<<20)
	if _, err := os.Stat(filepath.Join(w.dir, "MED-V Images", "win7")); err == nil {
		t.Error("a service that was killed goes on working")
	}
	w.powerCut()
	w.reaches("RUNNING")
	w.installs("win7", 3, 1<<20)

	// Installing again changes what is there, here also to a settings file.
	w.must("reg", "delete", `HKLM\SOFTWARE\WOW6432Node\Kidaro`, "/f")
	other := filepath.Join(w.dir, "other")
	must(t, os.Mkdir(other, 0o755))
	w.must(w.exe, "--config", "own.toml", "setup", w.p.Windows(other))
	w.must(w.exe, "--config", "own.toml", "push", "win11", "--images", "repo")
	w.must(w.exe, "--config", "own.toml", "agent", "install", "--start", "demand")
	w.reaches("RUNNING")
	if got := w.value(serviceKey, "Start"); got != "REG_DWORD 0x3" {
		t.Errorf("Start is %q", got)
	}
	if got := w.value(serviceKey, "ImagePath"); !strings.HasSuffix(got, ` --config `+w.p.Windows(w.dir)+`\own.toml`) {
		t.Errorf("ImagePath is %q", got)
	}
	w.dir = other
	w.installs("win11", 1, 3<<20)

	if out := w.must(w.exe, "agent", "uninstall"); !strings.Contains(out, "is removed") {
		t.Errorf("uninstalling said: %s", out)
	}
	w.reaches("none")
	if got := w.value(eventKey, "EventMessageFile"); got != "" {
		t.Errorf("the event log still knows of it: %s", got)
	}
	if out := w.must(w.exe, "agent", "uninstall"); !strings.Contains(out, "there is no service") {
		t.Errorf("uninstalling twice said: %s", out)
	}
}

// The server as a service on Windows: it is checked before it is installed, serves,
// takes what machines tell, is stopped and started, and is removed.
func TestWineServer(t *testing.T) {
	w := newWindows(t)
	must(t, os.WriteFile(filepath.Join(w.dir, "a.img"), testenv.Random(1, 1<<20), 0o644))
	w.must(w.exe, "pack", "a.img", "--name", "win11", "--images", "repo")
	if r := w.try(w.exe, "serve", "install", "--images", "repo", "--users", "nowhere"); r.Code != 4 || w.stateOf(Server.Name) != "none" {
		t.Errorf("a file of users that is not there was taken: %v", r)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	address := l.Addr().String()
	l.Close()
	url := "http://" + address + "/MEDVImages/"
	if out := w.must(w.exe, "serve", "install", "--images", "repo", "--listen", address, "--events", "events.db"); !strings.Contains(out, "installed and runs") {
		t.Errorf("installing said: %s", out)
	}
	serves := func() bool { return w.try(w.exe, "list", "--images", url).Code == 0 }
	if !serves() || w.stateOf(Server.Name) != "RUNNING" {
		t.Errorf("it does not serve, and is %s", w.stateOf(Server.Name))
	}
	key := `HKLM\SYSTEM\CurrentControlSet\Services\` + Server.Name
	for name, want := range map[string]string{
		"ImagePath":   fmt.Sprintf(`REG_SZ "C:\Program Files\Prestage client\prestage.exe" serve --images=%[1]s\repo --events=%[1]s\events.db --listen=%s --service`, w.p.Windows(w.dir), address),
		"DisplayName": "REG_SZ " + Server.DisplayName,
		"Start":       "REG_DWORD 0x2",
	} {
		if got := w.value(key, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	resp, err := http.Post(url+"events", "application/json", strings.NewReader(`{}`))
	must(t, err)
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest { // it takes some, but none like that
		t.Errorf("what a machine tells: %s", resp.Status)
	}
	w.must(w.exe, "report", "status", "--events", "events.db")
	w.must("net", "stop", Server.Name)
	if state := w.stateOf(Server.Name); state != "STOPPED" || serves() {
		t.Errorf("stopped, it is %s", state)
	}
	w.must("net", "start", Server.Name)
	if !serves() {
		t.Error("started again, it does not serve")
	}
	if out := w.must(w.exe, "serve", "uninstall"); !strings.Contains(out, "is removed") {
		t.Errorf("uninstalling said: %s", out)
	}
	if w.stateOf(Server.Name) != "none" || serves() {
		t.Errorf("removed, it is %s", w.stateOf(Server.Name))
	}
}

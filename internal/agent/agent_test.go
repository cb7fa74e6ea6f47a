package agent

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/disk"
	"prestage/internal/localhost"
	"prestage/internal/pack"
	"prestage/internal/prestage"
	"prestage/internal/progress"
	"prestage/internal/repo"
	"prestage/internal/settings"
	"prestage/internal/testenv"
)

// parcel is a package, and the image that it was made from.
type parcel struct {
	name       string
	number     uint32
	index, ckm []byte
	image      []byte
}

// newParcel packs an image of size bytes in a folder of packages; number is its
// version.
func newParcel(t *testing.T, name string, number uint32, seed byte, size int) parcel {
	t.Helper()
	dir := t.TempDir()
	p := parcel{name: name, number: number, image: testenv.Random(seed, size)}
	source := filepath.Join(dir, "disk.img")
	write(t, source, p.image)
	in, err := disk.Open(source)
	must(t, err)
	defer in[0].Close()
	var data bytes.Buffer
	x, err := pack.Write(t.Context(), &data, in, pack.Options{Meter: progress.Discard})
	must(t, err)
	x.Name, x.Version = name, number
	p.index, err = x.Encode()
	must(t, err)
	p.ckm = data.Bytes()
	return p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// write makes a file, or replaces it, at once: an agent that looks meanwhile sees
// all of it or nothing.
func write(t *testing.T, path string, data []byte) {
	t.Helper()
	aside := path + "~"
	must(t, os.WriteFile(aside, data, 0o644))
	must(t, os.Rename(aside, path))
}

// machine is a client machine with an agent.
type machine struct {
	t      *testing.T
	dir    string
	host   *localhost.Host
	keeper settings.Keeper
	store  string
	staged string
	log    *journal
	agent  *Agent
}

// newMachine returns a machine that is set up, with an agent that does not wait
// long for anything.
func newMachine(t *testing.T) *machine {
	t.Helper()
	m := bareMachine(t)
	_, err := prestage.Setup(t.Context(), m.host, m.dir, "")
	must(t, err)
	return m
}

// bareMachine is newMachine before anything is set up.
func bareMachine(t *testing.T) *machine {
	dir := t.TempDir()
	m := &machine{t: t, dir: dir, keeper: settings.File(filepath.Join(dir, "prestage.toml")), log: &journal{}}
	m.host = localhost.New(m.keeper)
	m.store = filepath.Join(dir, prestage.ImagesFolder)
	m.staged = filepath.Join(m.store, prestage.PrestagedFolder)
	m.agent = m.newAgent(m.log)
	return m
}

func (m *machine) newAgent(log *journal) *Agent {
	a := New(m.host, slog.New(log))
	a.Times = Times{Look: 5 * time.Millisecond, LookMax: 50 * time.Millisecond,
		Retry: 10 * time.Millisecond, RetryMax: 200 * time.Millisecond, Patience: time.Hour, Poll: time.Hour, Tick: 5 * time.Millisecond}
	return a
}

// start runs the agent until stop is called, which also is at the test's end.
func (m *machine) start() (stop func()) {
	m.t.Helper()
	return m.run(m.agent)
}

func (m *machine) run(a *Agent) (stop func()) {
	m.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- a.Run(ctx, func() { close(ready) }) }()
	stop = sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				m.t.Errorf("the agent ended with: %v", err)
			}
		case <-time.After(time.Minute):
			m.t.Error("the agent does not stop")
		}
	})
	m.t.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(time.Minute):
		m.t.Fatal("the agent is not ready")
	}
	return stop
}

func (m *machine) index(p parcel) string {
	return filepath.Join(m.staged, ckm.IndexName(p.name, p.number))
}
func (m *machine) data(p parcel) string {
	return filepath.Join(m.staged, ckm.DataName(p.name, p.number))
}

// stage puts a package into the pre-stage folder.
func (m *machine) stage(p parcel) {
	m.t.Helper()
	write(m.t, m.data(p), p.ckm)
	write(m.t, m.index(p), p.index)
}

// has reports whether an image is installed, whole.
func (m *machine) has(p parcel) bool {
	m.t.Helper()
	got, err := os.ReadFile(filepath.Join(m.store, p.name, repo.ImageName("", p.number)[1:], "disk.img"))
	if err != nil {
		return false
	}
	if !bytes.Equal(got, p.image) {
		m.t.Fatalf("%s is installed, but is not what was packed", p.name)
	}
	return true
}

func (m *machine) eventually(what string, ok func() bool) {
	m.t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			m.t.Fatalf("%s: this has not happened; the agent told:\n%s", what, m.log)
		}
	}
}

func (m *machine) installs(p parcel) {
	m.t.Helper()
	m.eventually(p.name+" is installed", func() bool { return m.has(p) && m.log.count(Installed, p.name+":") == 1 })
}

func (m *machine) tells(e Event, part string) {
	m.t.Helper()
	m.eventually(e.String()+": "+part, func() bool { return m.log.count(e, part) > 0 })
}

// rests gives the agent the time for some rounds, and returns how many records
// it made in them.
func (m *machine) rests() int {
	before := len(m.log.all())
	time.Sleep(8 * m.agent.Times.LookMax)
	return len(m.log.all()) - before
}

// journal is a slog.Handler that keeps what it is told.
type journal struct {
	mu      sync.Mutex
	records []record
}

type record struct {
	event   Event
	level   slog.Level
	message string
}

func (j *journal) Enabled(context.Context, slog.Level) bool { return true }
func (j *journal) WithAttrs([]slog.Attr) slog.Handler       { return j }
func (j *journal) WithGroup(string) slog.Handler            { return j }

func (j *journal) Handle(_ context.Context, r slog.Record) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	rec := record{level: r.Level, message: r.Message}
	r.Attrs(func(a slog.Attr) bool {
		if e, ok := a.Value.Any().(Event); ok {
			rec.event = e
		}
		return true
	})
	j.records = append(j.records, rec)
	return nil
}

func (j *journal) all() []record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]record{}, j.records...)
}

func (j *journal) count(e Event, part string) (n int) {
	for _, r := range j.all() {
		if r.event == e && strings.Contains(r.message, part) {
			n++
		}
	}
	return n
}

func (j *journal) String() string {
	var b strings.Builder
	for _, r := range j.all() {
		io.WriteString(&b, r.event.String()+": "+r.message+"\n")
	}
	return b.String()
}

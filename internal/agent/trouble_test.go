package agent

import (
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/settings"
)

// A machine that is not set up yet is waited for.
func TestNotSetUp(t *testing.T) {
	m := bareMachine(t)
	m.start()
	m.tells(Failed, "prestage setup")
	if n := m.rests(); n > 0 {
		t.Errorf("it was told %d times more:\n%s", n, m.log)
	}
	_, err := prestage.Setup(t.Context(), m.host, m.dir, "")
	must(t, err)
	p := newParcel(t, "win11", 1, 1, 300*kib)
	m.stage(p)
	m.installs(p)
}

// Settings that make no sense are told, and used as soon as they are mended.
func TestBadSettings(t *testing.T) {
	m := newMachine(t)
	path := m.keeper.String()
	good, err := os.ReadFile(path)
	must(t, err)
	write(t, path, []byte("vms_folder = \"images\"\n"))
	p := newParcel(t, "win11", 1, 1, 300*kib)
	m.stage(p)
	m.start()
	m.tells(Failed, "must be an absolute path")
	write(t, path, []byte("not toml at all\n"))
	m.tells(Failed, "nothing can be installed: settings file")
	if m.has(p) {
		t.Fatal("an image was installed without settings")
	}
	write(t, path, good)
	m.installs(p)
	// The same trouble at another time is news.
	write(t, path, []byte("vms_folder = \"images\"\n"))
	m.eventually("it is told again", func() bool { return m.log.count(Failed, "must be an absolute path") == 2 })
}

// Folders that are not there are not made: their rights are for setup.
func TestFolderMissing(t *testing.T) {
	m := newMachine(t)
	p := newParcel(t, "win11", 1, 1, 300*kib)
	away := filepath.Join(m.dir, "away")
	must(t, os.Rename(m.staged, away))
	m.start()
	m.tells(Failed, "pre-stage folder")
	if _, err := os.Lstat(m.staged); !errors.Is(err, os.ErrNotExist) {
		t.Error("the agent made the pre-stage folder")
	}
	must(t, os.Rename(away, m.staged))
	m.stage(p)
	m.installs(p)
}

// A store that is not there is not made either.
func TestStoreMissing(t *testing.T) {
	m := newMachine(t)
	store := filepath.Join(m.dir, "store")
	must(t, m.keeper.Save(settings.Settings{VMSFolder: store}))
	p := newParcel(t, "win11", 1, 1, 300*kib)
	m.stage(p)
	m.start()
	m.tells(Failed, "does not exist")
	if len(entries(t, store)) > 0 {
		t.Error("the agent made the image store")
	}
	m.store = store
	must(t, os.Mkdir(store, 0o755))
	m.installs(p)
}

// Of two agents on one image store the second gives up, and says why.
func TestTwoAgents(t *testing.T) {
	m := newMachine(t)
	stop := m.start()
	err := m.newAgent(&journal{}).Run(t.Context(), func() { t.Error("the second agent is ready") })
	if !errors.Is(err, ErrRunning) {
		t.Errorf("the second agent ended with: %v", err)
	}
	stop()
	m.run(m.newAgent(&journal{})) // the first one has let go
}

// An installation that is stopped half way ends within seconds, and the next
// agent goes on from there.
func TestStopInTheMiddle(t *testing.T) {
	m := newMachine(t)
	p := newParcel(t, "win11", 1, 1, 64*mib)
	site := newHaltingSite(t, p)
	must(t, m.keeper.Save(settings.Settings{Images: []string{"win11"}, Server: site.URL}))
	stop := m.start()
	m.eventually("the server has sent a part", func() bool { return site.halted.Load() > 0 && site.sent.Load() > 24*mib })
	asked := time.Now()
	stop()
	if took := time.Since(asked); took > 10*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if m.has(p) {
		t.Fatal("the image was installed without all of its bytes")
	}
	if m.log.count(Stopped, "") != 1 || m.log.count(Failed, "") > 0 {
		t.Errorf("being stopped is no failure:\n%s", m.log)
	}
	close(site.goOn)
	first := site.sent.Swap(0)
	m.run(m.newAgent(m.log))
	m.installs(p)
	// Of what was sent, some was still on its way.
	if second := site.sent.Load(); second > int64(len(p.ckm))-4*mib {
		t.Errorf("%d bytes were sent before the stop, and %d of %d again after it", first, second, len(p.ckm))
	}
}

// haltingSite is a web server that sends half of each range of a CKM and then
// waits for goOn to be closed.
type haltingSite struct {
	*httptest.Server
	goOn         chan struct{}
	sent, halted atomic.Int64
}

func newHaltingSite(t *testing.T, p parcel) *haltingSite {
	dir := t.TempDir()
	write(t, filepath.Join(dir, ckm.DataName(p.name, p.number)), p.ckm)
	write(t, filepath.Join(dir, ckm.IndexName(p.name, p.number)), p.index)
	must(t, repo.NewFolder(dir).WriteCatalog(t.Context()))
	s := &haltingSite{goOn: make(chan struct{})}
	files := http.FileServer(http.Dir(dir))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ckm.DataExt) {
			w = &haltingWriter{w, s, r.Context().Done(), 0}
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(s.CloseClientConnections)
	return s
}

type haltingWriter struct {
	http.ResponseWriter
	site *haltingSite
	gone <-chan struct{}
	n    int64
}

func (w *haltingWriter) Write(b []byte) (int, error) {
	length, _ := strconv.ParseInt(w.Header().Get("Content-Length"), 10, 64)
	if w.n > length/2 {
		w.ResponseWriter.(http.Flusher).Flush()
		w.site.halted.Add(1)
		select {
		case <-w.site.goOn:
		case <-w.gone:
			return 0, io.ErrClosedPipe
		}
	}
	n, err := w.ResponseWriter.Write(b)
	w.n += int64(n)
	w.site.sent.Add(int64(n))
	return n, err
}

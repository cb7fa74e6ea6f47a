package agent

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/settings"
)

const (
	kib = 1 << 10
	mib = 1 << 20
)

// All images that are pre-staged are installed when none are assigned, and
// then there is nothing more to do or to tell.
func TestInstallsWhatIsStaged(t *testing.T) {
	m := newMachine(t)
	a, b := newParcel(t, "win11", 3, 1, 700*kib), newParcel(t, "win10", 1, 2, 300*kib)
	m.stage(a)
	m.stage(b)
	stop := m.start()
	m.installs(a)
	m.installs(b)
	if n := m.rests(); n > 0 {
		t.Errorf("the agent told %d things more with nothing to do:\n%s", n, m.log)
	}
	stop()
	if m.log.count(Started, "") != 1 || m.log.count(Stopped, "") != 1 || len(m.log.all()) != 4 {
		t.Errorf("expected: started, two installed, stopped; the agent told:\n%s", m.log)
	}
}

// Only assigned images are installed where some are.
func TestAssigned(t *testing.T) {
	m := newMachine(t)
	a, b := newParcel(t, "win11", 1, 1, 300*kib), newParcel(t, "win10", 1, 2, 300*kib)
	must(t, m.keeper.Save(settings.Settings{Images: []string{"win10"}}))
	m.stage(a)
	m.stage(b)
	m.start()
	m.installs(b)
	m.rests()
	if m.has(a) {
		t.Error("an image that is not assigned was installed")
	}
	// Settings are read anew in each round.
	must(t, m.keeper.Save(settings.Settings{Images: []string{"win10", "win11"}}))
	m.installs(a)
}

// An image that cannot be a name is told, and does not keep others waiting.
func TestBadName(t *testing.T) {
	m := newMachine(t)
	a := newParcel(t, "win11", 1, 1, 300*kib)
	must(t, m.keeper.Save(settings.Settings{Images: []string{`C:\win`, "win11"}}))
	m.stage(a)
	m.start()
	m.installs(a)
	m.tells(Failed, `C:\\win`)
}

// S5: a package that appears late, a file at a time, is not touched before both
// are there; the agent tells once that it waits.
func TestPackageArrivesLate(t *testing.T) {
	for _, indexFirst := range []bool{false, true} {
		t.Run(fmt.Sprintf("index first %v", indexFirst), func(t *testing.T) {
			m := newMachine(t)
			must(t, m.keeper.Save(settings.Settings{Images: []string{"win11"}}))
			p := newParcel(t, "win11", 1, 1, 300*kib)
			m.start()
			m.tells(Waiting, "not in the pre-stage folder")
			first, second := m.data(p), m.index(p)
			firstData, secondData := p.ckm, p.index
			if indexFirst {
				first, second, firstData, secondData = second, first, secondData, firstData
			}
			write(t, first, firstData)
			m.tells(Waiting, filepath.Base(second)+" is not yet")
			if n := m.rests(); n > 0 {
				t.Errorf("the agent told %d times more that it waits:\n%s", n, m.log)
			}
			if m.has(p) || len(entries(t, filepath.Join(m.store, "win11"))) > 0 {
				t.Error("half a package was touched")
			}
			write(t, second, secondData)
			m.installs(p)
			if n := m.log.count(Failed, ""); n > 0 {
				t.Errorf("waiting is no failure:\n%s", m.log)
			}
		})
	}
}

func entries(t *testing.T, dir string) []os.DirEntry {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return list
}

// A CKM that grows in place is waited for, with its INDEX there all the time.
func TestPackageGrows(t *testing.T) {
	m := newMachine(t)
	p := newParcel(t, "win11", 1, 1, 900*kib)
	write(t, m.index(p), p.index)
	m.start()
	f, err := os.Create(m.data(p))
	must(t, err)
	defer f.Close()
	for part := p.ckm; len(part) > 0; {
		n := min(len(part), len(p.ckm)/12)
		_, err := f.Write(part[:n])
		must(t, err)
		part = part[n:]
		m.tells(Waiting, fmt.Sprintf("of %d bytes", len(p.ckm)))
		time.Sleep(20 * time.Millisecond)
	}
	m.installs(p)
	if m.log.count(Waiting, "bytes") != 1 || m.log.count(Failed, "") > 0 {
		t.Errorf("growing should be told once, and is no failure:\n%s", m.log)
	}
}

// A CKM that has its full size from the beginning, as Windows copies files, is
// left alone as long as it is being written to.
func TestPackageIsFilledIn(t *testing.T) {
	m := newMachine(t)
	m.agent.Times.Settle = 1500 * time.Millisecond
	p := newParcel(t, "win11", 1, 1, 900*kib)
	write(t, m.index(p), p.index)
	write(t, m.data(p), make([]byte, len(p.ckm)))
	f, err := os.OpenFile(m.data(p), os.O_WRONLY, 0)
	must(t, err)
	defer f.Close()
	m.start()
	for i := range 12 {
		at, end := len(p.ckm)*i/12, len(p.ckm)*(i+1)/12
		_, err := f.WriteAt(p.ckm[at:end], int64(at))
		must(t, err)
		time.Sleep(m.agent.Times.Settle / 10)
	}
	m.installs(p)
	if m.log.count(Failed, "") > 0 {
		t.Errorf("the package was read before it was whole:\n%s", m.log)
	}
}

// Damage is told once, tried again without end, and mended by another copy.
func TestDamagedThenReplaced(t *testing.T) {
	m := newMachine(t)
	p := newParcel(t, "win11", 1, 1, 900*kib)
	bad := p
	bad.ckm = bytes.Clone(p.ckm)
	bad.ckm[len(bad.ckm)/2] ^= 1
	m.stage(bad)
	m.start()
	m.tells(Failed, "damaged")
	m.rests()
	if n := m.log.count(Failed, ""); n != 1 {
		t.Errorf("the failure was told %d times:\n%s", n, m.log)
	}
	if m.has(p) {
		t.Fatal("a damaged package was installed")
	}
	must(t, os.Remove(m.index(p)))
	m.stage(p)
	m.installs(p)
}

// What fails is tried less and less often, but tried.
func TestBackOff(t *testing.T) {
	m := newMachine(t)
	var mu sync.Mutex
	var asked []time.Time
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet { // what it tells is another matter
			mu.Lock()
			asked = append(asked, time.Now())
			mu.Unlock()
		}
		http.Error(w, "no", http.StatusForbidden)
	}))
	t.Cleanup(s.Close)
	must(t, m.keeper.Save(settings.Settings{Images: []string{"win11"}, Server: s.URL}))
	m.start()
	m.tells(Failed, "403")
	m.eventually("it is tried again and again", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(asked) >= 18
	})
	// 10, 20, 40, 80, 160, 200, … ms, less a quarter at most, for the image and for
	// the policy.
	most := func(within time.Duration) int {
		n := 1
		for delay := 10 * time.Millisecond; within >= delay*3/4; delay = min(2*delay, 200*time.Millisecond) {
			n, within = n+1, within-delay*3/4
		}
		return 2 * n
	}
	mu.Lock()
	for i, at := range asked {
		if took := at.Sub(asked[0]); i+1 > most(took) {
			t.Errorf("it was tried %d times in %v", i+1, took)
		}
	}
	mu.Unlock()
	if n := m.log.count(Failed, ""); n != 1 {
		t.Errorf("the failure was told %d times:\n%s", n, m.log)
	}
}

// What the pre-stage folder has not whole comes from the server; without
// waiting for ever for a copy that was cut.
func TestServerIsSecond(t *testing.T) {
	m := newMachine(t)
	p := newParcel(t, "win11", 1, 1, 900*kib)
	server := t.TempDir()
	write(t, filepath.Join(server, ckm.DataName(p.name, p.number)), p.ckm)
	write(t, filepath.Join(server, ckm.IndexName(p.name, p.number)), p.index)
	must(t, repo.NewFolder(server).WriteCatalog(t.Context()))
	s := httptest.NewServer(http.FileServer(http.Dir(server)))
	t.Cleanup(s.Close)
	must(t, m.keeper.Save(settings.Settings{Server: s.URL}))
	write(t, m.index(p), p.index)
	write(t, m.data(p), p.ckm[:len(p.ckm)/2])
	stop := m.start()
	m.tells(Waiting, "bytes")
	m.rests()
	if m.has(p) {
		t.Fatal("the server was used while the package may still be growing")
	}
	stop()
	m.agent = m.newAgent(m.log)
	m.agent.Times.Patience = 100 * time.Millisecond
	m.start()
	m.installs(p)
	m.tells(Installed, "from "+m.staged+" and "+s.URL)
	m.tells(Warned, "will be read from")
}

// An assigned image comes from the server where nothing is pre-staged at all.
func TestServerAlone(t *testing.T) {
	m := bareMachine(t)
	p := newParcel(t, "win11", 1, 1, 300*kib)
	server := t.TempDir()
	write(t, filepath.Join(server, ckm.DataName(p.name, p.number)), p.ckm)
	write(t, filepath.Join(server, ckm.IndexName(p.name, p.number)), p.index)
	must(t, os.Mkdir(m.store, 0o755))
	must(t, m.keeper.Save(settings.Settings{VMSFolder: m.store, Server: server, Images: []string{"win11"}}))
	m.start()
	m.installs(p)
}

// A newer version whose copying was cut does not keep an older one, whole, from
// being installed.
func TestOlderVersion(t *testing.T) {
	m := newMachine(t)
	m.agent.Times.Patience = 100 * time.Millisecond
	p, newer := newParcel(t, "win11", 1, 1, 300*kib), newParcel(t, "win11", 2, 2, 300*kib)
	m.stage(p)
	write(t, m.data(newer), newer.ckm)
	m.start()
	m.tells(Waiting, "win11_2.index")
	m.installs(p)
}

// S11: a version that is there is left alone, whatever is pre-staged.
func TestVersionThereIsLeftAlone(t *testing.T) {
	m := newMachine(t)
	p, newer := newParcel(t, "win11", 1, 1, 300*kib), newParcel(t, "win11", 2, 2, 300*kib)
	m.stage(p)
	stop := m.start()
	m.installs(p)
	m.stage(newer)
	m.rests()
	stop()
	m.log = &journal{}
	m.agent = m.newAgent(m.log)
	m.start()
	if n := m.rests(); n > 0 {
		t.Errorf("the agent told things:\n%s", m.log)
	}
	if m.has(newer) || !m.has(p) {
		t.Error("the pre-stage folder was used for an update")
	}
}

// Newly pre-staged images are found while the agent runs, and images that were
// removed come back.
func TestKeepsLooking(t *testing.T) {
	m := newMachine(t)
	m.start()
	m.rests()
	if strings.Contains(m.log.String(), "waiting") {
		t.Errorf("nothing was assigned to wait for:\n%s", m.log)
	}
	p := newParcel(t, "win11", 1, 1, 300*kib)
	m.stage(p)
	m.installs(p)
}

// A package that came by itself gets a receipt, once it was read; a damaged one
// gets none, and is read once.
func TestAttest(t *testing.T) {
	m := newMachine(t)
	good, bad := newParcel(t, "good", 1, 1, 600<<10), newParcel(t, "bad", 1, 2, 600<<10)
	bad.ckm[len(bad.ckm)/2] ^= 1
	m.stage(good)
	m.stage(bad)
	for _, p := range []parcel{good, bad} {
		must(t, prestage.Seal(t.Context(), m.host, p.name, p.number))
	}
	m.start()
	m.tells(Warned, "package bad:1 in "+m.staged+" is damaged")
	m.eventually("good has a receipt", func() bool {
		st, err := prestage.GetStatus(t.Context(), m.host)
		must(t, err)
		for _, p := range st.Packages {
			if p.Name == "bad" && p.Verified != nil {
				t.Fatal("the damaged package has a receipt")
			}
			if p.Name == "good" && p.Verified != nil {
				return p.How == prestage.HowHost
			}
		}
		return false
	})
	m.rests()
	if n := m.log.count(Warned, "is damaged"); n != 1 {
		t.Errorf("damage was told %d times:\n%s", n, m.log)
	}
}

package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"prestage/ckm"
	"prestage/internal/daytime"
	"prestage/internal/event"
	"prestage/internal/policy"
	"prestage/internal/repo"
	"prestage/internal/settings"
	"prestage/internal/sign"
)

// site is a server of packages with a policy: any web server.
type site struct {
	t      *testing.T
	folder *repo.Folder
	policy *policy.Policy
	key    *sign.Key // signs the policy, if there is one
	url    string
	bytes  atomic.Int64 // that CKMs were asked for
	down   atomic.Bool
}

func newSite(t *testing.T) *site {
	s := &site{t: t, folder: repo.NewFolder(t.TempDir()), policy: policy.New()}
	files := http.FileServer(http.Dir(s.folder.String()))
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if s.down.Load() {
			panic(http.ErrAbortHandler)
		}
		if strings.HasSuffix(r.URL.Path, ckm.DataExt) {
			s.bytes.Add(1)
		}
		files.ServeHTTP(w, r)
	}))
	t.Cleanup(web.Close)
	s.url = web.URL
	must(t, s.folder.WriteCatalog(t.Context()))
	return s
}

func (s *site) publish(p parcel) {
	s.t.Helper()
	write(s.t, s.folder.Path(ckm.DataName(p.name, p.number)), p.ckm)
	write(s.t, s.folder.Path(ckm.IndexName(p.name, p.number)), p.index)
	must(s.t, s.folder.WriteCatalog(s.t.Context()))
}

// ask changes the policy for an image.
func (s *site) ask(image string, change func(r *policy.Rule)) {
	s.t.Helper()
	r := s.policy.Images[image]
	r.Machines = []string{"*"}
	change(&r)
	s.policy.Images[image] = r
	s.policy.Serial++
	s.write()
}

func (s *site) write() {
	s.t.Helper()
	b, err := s.policy.Encode()
	must(s.t, err)
	if s.key != nil {
		_, signed, err := policy.Parse(b)
		must(s.t, err)
		must(s.t, signed.Sign(*s.key, s.policy.Serial, 1))
		b, err = signed.Encode()
		must(s.t, err)
	}
	must(s.t, s.folder.EditPolicy(s.t.Context(), func([]byte) ([]byte, error) { return b, nil }))
}

// newMachine returns a machine that follows a site's policy, and asks for it often.
func (s *site) newMachine() *machine {
	m := newMachine(s.t)
	must(s.t, m.keeper.Save(settings.Settings{Server: s.url}))
	m.agent.Times.Poll = 40 * time.Millisecond
	return m
}

func (m *machine) gone(p parcel) {
	m.t.Helper()
	m.eventually(fmt.Sprintf("%s:%d is removed", p.name, p.number), func() bool { return !m.has(p) })
}

func versions(t *testing.T, n uint32) (list []parcel) {
	for v := range n {
		list = append(list, newParcel(t, "win11", v+1, byte(v+1), 900*kib))
	}
	return list
}

func TestPolicyAssigns(t *testing.T) {
	s := newSite(t)
	v := versions(t, 1)
	s.publish(v[0])
	other := newParcel(t, "other", 1, 9, 500*kib)
	s.publish(other)
	s.ask("win11", func(*policy.Rule) {})
	s.ask("other", func(r *policy.Rule) { r.Machines = []string{"not-this-machine"} })
	s.ask("other", func(r *policy.Rule) { r.Machines = []string{"not-this-machine"} })
	m := s.newMachine()
	m.start()
	m.installs(v[0])
	m.rests()
	if m.has(other) {
		t.Error("an image was installed that is another machine's")
	}
}

func TestSuggest(t *testing.T) {
	s := newSite(t)
	v := versions(t, 3)
	s.publish(v[0])
	s.ask("win11", func(*policy.Rule) {})
	m := s.newMachine()
	if runtime.GOOS != "windows" {
		hook := filepath.Join(m.dir, "hook")
		must(t, os.WriteFile(hook, []byte("#!/bin/sh\necho \"$@\" >>"+m.dir+"/said\n"), 0o755))
		must(t, os.WriteFile(filepath.Join(m.dir, "prestage.toml"), append(must1(os.ReadFile(filepath.Join(m.dir, "prestage.toml"))), "update_hook = \""+hook+"\"\n"...), 0o644))
	}
	m.start()
	m.installs(v[0])
	s.publish(v[1])
	m.tells(Suggested, "there is version 2 of image win11, version 1 is installed")
	m.rests()
	s.publish(v[2])
	m.tells(Suggested, "there is version 3")
	m.rests()
	if m.has(v[1]) || m.has(v[2]) || m.log.count(Suggested, "") != 2 {
		t.Errorf("a suggestion was more, or told more than once:\n%s", m.log)
	}
	if runtime.GOOS != "windows" {
		m.eventually("the program that tells of updates was told of both", func() bool {
			said, _ := os.ReadFile(m.dir + "/said")
			return string(said) == "win11 1 2\nwin11 1 3\n"
		})
	}
	k := LoadKnown(m.store, s.url, sign.Trust{})
	list := k.Updates(m.agentStore(), m.agent.Machine, time.Now())
	if len(list) != 1 || list[0].Available != 3 || list[0].Mode != policy.Suggest {
		t.Errorf("updates are %+v", list)
	}
}

func must1[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestForce(t *testing.T) {
	s := newSite(t)
	v := versions(t, 3)
	none := 0
	s.publish(v[0])
	s.ask("win11", func(r *policy.Rule) { r.Update, r.Keep = policy.Force, &none })
	m := s.newMachine()
	m.start()
	m.installs(v[0])
	s.publish(v[1])
	m.eventually("version 2 is installed", func() bool { return m.has(v[1]) })
	m.tells(Updated, "from version 1 to 2")
	m.gone(v[0])

	// Kept from now on, and not later than it is released.
	one := 1
	s.ask("win11", func(r *policy.Rule) { r.Keep, r.Version = &one, 2 })
	s.publish(v[2])
	m.tells(PolicyUsed, "policy 2 ")
	m.rests()
	if m.has(v[2]) {
		t.Error("version 3 was installed before its release")
	}
	later := time.Now().Add(time.Hour)
	s.ask("win11", func(r *policy.Rule) { r.Version, r.NotBefore = 3, &later })
	m.tells(Waiting, "can be updated to version 3: waiting, it is not before")
	s.ask("win11", func(r *policy.Rule) { r.NotBefore = nil })
	m.eventually("version 3 is installed", func() bool { return m.has(v[2]) })
	m.rests()
	if !m.has(v[1]) {
		t.Error("version 2 was removed and should have been kept")
	}
	s.ask("win11", func(r *policy.Rule) { r.Keep = &none })
	m.gone(v[1])
}

func TestWave(t *testing.T) {
	s := newSite(t)
	v := versions(t, 2)
	s.publish(v[0])
	s.publish(v[1])
	s.ask("win11", func(r *policy.Rule) { r.Update, r.Version = policy.Force, 1 })
	m := s.newMachine()
	m.agent.Machine = "somebody"
	for policy.Share("win11", m.agent.Machine) < 50 {
		m.agent.Machine += "x"
	}
	m.start()
	m.installs(v[0])
	s.ask("win11", func(r *policy.Rule) { r.Version, r.Wave = 2, 50 })
	m.tells(Waiting, "not in the wave of 50 %")
	m.rests()
	if m.has(v[1]) {
		t.Error("updated before its wave")
	}
	s.ask("win11", func(r *policy.Rule) { r.Wave = 0 })
	m.eventually("version 2 is installed", func() bool { return m.has(v[1]) })
}

// A coming version is there before its release, is not used before, and is used
// then: nothing more is fetched.
func TestAhead(t *testing.T) {
	s := newSite(t)
	v := versions(t, 2)
	s.publish(v[0])
	s.publish(v[1])
	yes := true
	s.ask("win11", func(r *policy.Rule) {
		r.Update, r.Version, r.Ahead, r.UpdateFromPrestaged = policy.Force, 1, 2, &yes
	})
	m := s.newMachine()
	m.start()
	m.installs(v[0])
	m.tells(Staged, "pre-staged win11:2")
	q, _ := m.agent.queue.take()
	for _, e := range q.Next(100) {
		if e.Image != "win11" && e.Category != "agent" && e.Category != "policy" {
			t.Errorf("the server would not know what it is about: %+v", e)
		}
	}
	m.rests()
	if _, err := os.Stat(m.data(v[1])); err != nil || m.has(v[1]) {
		t.Fatalf("version 2 is not pre-staged, or installed already: %v\n%s", err, m.log)
	}
	before := s.bytes.Load()
	s.ask("win11", func(r *policy.Rule) { r.Version, r.Ahead = 2, 0 })
	m.eventually("version 2 is installed", func() bool { return m.has(v[1]) })
	if n := s.bytes.Load() - before; n != 0 {
		t.Errorf("the CKM was asked for %d times, although it was pre-staged", n)
	}
	m.tells(Removed, "took win11:2 out of the pre-stage folder")
	m.eventually("the package is gone", func() bool { _, err := os.Stat(m.data(v[1])); return errors.Is(err, os.ErrNotExist) })
}

// What is not allowed any more is cut where it is.
func TestWithdrawn(t *testing.T) {
	s := newSite(t)
	v := versions(t, 2)
	s.publish(v[0])
	s.ask("win11", func(r *policy.Rule) { r.Update = policy.Force })
	m := s.newMachine()
	m.start()
	m.installs(v[0])
	s.ask("win11", func(r *policy.Rule) { r.Limit = 50 << 10 })
	m.tells(PolicyUsed, "policy 2 ")
	s.publish(v[1])
	m.tells(Waiting, "updating image win11 from version 1 to 2")
	s.ask("win11", func(r *policy.Rule) { r.Update = policy.Off })
	m.tells(PolicyUsed, "policy 3 ")
	m.eventually("the update ends", func() bool {
		m.agent.server.mu.Lock()
		defer m.agent.server.mu.Unlock()
		return m.agent.server.tied == nil
	})
	m.rests()
	if m.has(v[1]) {
		t.Error("updated although the policy was withdrawn")
	}
	s.ask("win11", func(r *policy.Rule) { r.Update, r.Limit = policy.Force, 0 })
	m.eventually("version 2 is installed", func() bool { return m.has(v[1]) })
}

// Machines sleep, and their clocks are set: what a window allows ends with it all the
// same.
func TestClockJumps(t *testing.T) {
	s := newSite(t)
	v := versions(t, 3)
	s.publish(v[0])
	window, err := daytime.Parse("22:00-06:00")
	must(t, err)
	s.ask("win11", func(r *policy.Rule) { r.Update, r.Version, r.Window = policy.Force, 1, window })
	m := s.newMachine()
	m.agent.Times.LookMax = 50 * time.Millisecond
	m.agent.Times.Poll = 1000 * time.Hour // no answer of the server ends the work here
	var clock atomic.Int64
	set := func(hour int) { clock.Store(time.Date(2026, 12, 1, hour, 0, 0, 0, time.Local).UnixNano()) }
	m.agent.Now = func() time.Time { return time.Unix(0, clock.Load()) }
	set(23)
	m.start()
	m.installs(v[0])
	working := func() bool {
		m.agent.server.mu.Lock()
		defer m.agent.server.mu.Unlock()
		return m.agent.server.tied != nil
	}
	s.publish(v[1])
	s.publish(v[2])
	for _, ask := range []func(r *policy.Rule){
		func(r *policy.Rule) { r.Ahead, r.Limit = 3, 50<<10 },
		func(r *policy.Rule) { r.Version, r.Ahead = 2, 0 },
	} {
		set(23)
		s.ask("win11", ask)
		must(t, RequestPoll(m.store))
		m.eventually("it is at work", working)
		set(33) // next morning
		m.eventually("the work ends", func() bool { return !working() })
		m.rests()
		if _, err := os.Stat(m.data(v[2])); err == nil || m.has(v[1]) {
			t.Error("the work was done outside of its window")
		}
	}
	m.tells(Waiting, "the window 22:00-06:00 is closed")
	s.ask("win11", func(r *policy.Rule) { r.Limit = 0 })
	must(t, RequestPoll(m.store))
	m.tells(PolicyUsed, "policy 4 ")
	set(47)
	m.eventually("version 2 is installed", func() bool { return m.has(v[1]) })
}

// A time is over when the clock says so, or when it has gone by.
func TestPassed(t *testing.T) {
	now := time.Now()
	if passed(now.Add(time.Second), now) || !passed(now.Add(-time.Second), now) {
		t.Error("the clock is not heeded")
	}
	slept := now.Round(0).Add(time.Hour) // as if no time had gone by
	if !passed(now.Add(time.Minute), slept) {
		t.Error("the clock is not heeded by a machine that slept")
	}
}

// Whose policy counts.
func TestPolicyTrust(t *testing.T) {
	k, err := sign.NewKey()
	must(t, err)
	trust, err := sign.ParseTrust([]string{k.PublicLine()})
	must(t, err)
	s := newSite(t)
	s.publish(versions(t, 1)[0])
	ask := func(known *Known, trust sign.Trust) (*Known, error) {
		t.Helper()
		r, err := repo.Open(s.url)
		must(t, err)
		now, refused, err := known.Ask(t.Context(), r, trust)
		must(t, err)
		return now, refused
	}
	known := &Known{Server: s.url}
	s.ask("win11", func(*policy.Rule) {})
	if now, err := ask(known, trust); !errors.Is(err, sign.ErrUntrusted) || now.policy != nil {
		t.Errorf("not signed: %v", err)
	}
	s.key = &k
	s.ask("win11", func(r *policy.Rule) { r.Update = policy.Force })
	known, err = ask(known, trust)
	if err != nil || known.Serial != 2 || len(known.assigned("any")) != 1 {
		t.Fatalf("signed: %v, %+v", err, known)
	}
	// An older one is true for ever, and yet it does not come back.
	s.policy.Serial = 1
	s.write()
	now, err := ask(known, trust)
	if err == nil || !strings.Contains(err.Error(), "is older than policy 2") || now.Serial != 2 || now.policy.Serial != 2 {
		t.Errorf("an older policy: %v", err)
	}
	// Nor does leaving it out undo it.
	must(t, os.Remove(s.folder.Path(repo.PolicyName)))
	if now, err := ask(known, trust); err == nil || now.policy == nil {
		t.Errorf("a policy that was taken away: %v", err)
	}
	if now, _ := ask(known, sign.Trust{}); now.policy != nil {
		t.Error("without keys, the server's word counts")
	}
	// What was known survives, if it is signed by a key that counts.
	dir := t.TempDir()
	must(t, known.save(dir))
	if again := LoadKnown(dir, s.url, trust); again.policy == nil || again.Serial != 2 {
		t.Errorf("loaded %+v", again)
	}
	other, err := sign.NewKey()
	must(t, err)
	otherTrust, err := sign.ParseTrust([]string{other.PublicLine()})
	must(t, err)
	if again := LoadKnown(dir, s.url, otherTrust); again.policy != nil {
		t.Error("a policy is used that is signed by a key that does not count any more")
	}
}

// Offline, what was known holds, also after a start; and all that happened is
// delivered later.
func TestOffline(t *testing.T) {
	s := newSite(t)
	v := versions(t, 1)
	s.ask("win11", func(*policy.Rule) {})
	m := s.newMachine()
	stop := m.start()
	m.tells(PolicyUsed, "policy 1 ")
	stop()
	s.down.Store(true)
	m.log = &journal{}
	m.agent = m.newAgent(m.log)
	m.start()
	m.tells(Waiting, "the server cannot be asked")
	m.stage(v[0])
	m.installs(v[0])
	q, _ := m.agent.queue.take()
	list := q.Next(100)
	var kinds []string
	for _, e := range list {
		kinds = append(kinds, Event(e.Kind).String())
		if Event(e.Kind) == Installed && (e.Image != "win11" || e.Version != 1 || len(e.Digest) != 64) {
			t.Errorf("no receipt: %+v", e)
		}
	}
	if got := strings.Join(kinds, " "); !strings.HasPrefix(got, "started ") || !strings.Contains(got, " policy ") || !strings.Contains(got, " stopped started ") || !strings.HasSuffix(got, "installed") {
		t.Errorf("the queue has %s", got)
	}
	took := &taker{}
	must(t, q.Deliver(t.Context(), took, m.agent.report(&task{store: m.agentStore(), staged: m.staged})))
	if took.events != len(list) || len(took.last.Held) != 2 || took.last.Machine == "" || len(q.Next(1)) != 0 {
		t.Errorf("delivered %d of %d events, %+v", took.events, len(list), took.last)
	}
}

type taker struct {
	events int
	last   event.Report
}

func (k *taker) Report(_ context.Context, r *event.Report) (a event.Ack, err error) {
	k.events += len(r.Events)
	k.last = *r
	if n := len(r.Events); n > 0 {
		a.Number = r.Events[n-1].Number
	}
	return a, nil
}

func TestPollIsAskedFor(t *testing.T) {
	s := newSite(t)
	s.ask("win11", func(*policy.Rule) {})
	m := s.newMachine()
	m.agent.Times.Poll = time.Hour
	m.start()
	m.tells(PolicyUsed, "policy 1 ")
	s.ask("win11", func(r *policy.Rule) { r.Update = policy.Off })
	m.rests()
	if m.log.count(PolicyUsed, "policy 2") > 0 {
		t.Fatal("asked too often")
	}
	must(t, RequestPoll(m.store))
	m.tells(PolicyUsed, "policy 2 ")
}

// Package agent is what a client machine does by itself, as a service: it makes
// sure that each image assigned to the machine is in the image store, installed
// from the pre-stage folder, and follows the policy of its server for all that comes
// later.
//
// What there is to do is found out anew from the settings, the folders and what is
// known of the server in each round, so that it can be killed at any moment.
package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"prestage/ckm"
	"prestage/internal/client"
	"prestage/internal/durable"
	"prestage/internal/event"
	"prestage/internal/host"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/settings"
)

// ErrRunning says that another agent works on the same image store.
var ErrRunning = errors.New("another agent is running")

// Times say how patient an agent is.
type Times struct {
	Look, LookMax   time.Duration // between looks at folders and settings: more each time that nothing has changed
	Retry, RetryMax time.Duration // between attempts that fail
	Settle          time.Duration // a file that was written to so shortly ago may still be growing
	Patience        time.Duration // a package that has not grown so long does not keep others, or the server, from being used
	Poll            time.Duration // between questions to the server
	Tick            time.Duration // between looks whether somebody wants it asked now, and whether work is still allowed
}

// DefaultTimes are those of a machine that somebody works with.
func DefaultTimes() Times {
	return Times{Look: 2 * time.Second, LookMax: time.Minute, Retry: 5 * time.Second, RetryMax: 10 * time.Minute,
		Settle: 3 * time.Second, Patience: 10 * time.Minute, Poll: event.Interval, Tick: time.Second}
}

// Agent installs the images of a machine.
type Agent struct {
	Host  host.Host
	Log   *slog.Logger
	Times Times
	Now   func() time.Time // the time of day, as policies mean it

	Machine string // the name by which policies know the machine
	Version string // of the program, for the server

	server server
	queue  *queueHolder

	self   image             // what keeps the agent from working at all
	images map[string]*image // by name, those that are not installed yet
	// updating are images, and packages ahead, by what they are called.
	updating map[string]*image
	ahead    map[string]uint32 // of images, the version ahead that was found pre-staged
	// attested is what the packages that were checked looked like, by NAME:N.
	attested map[string]string
	locked   string // the image store whose lock is held
	unlock   func()

	ownFiles   time.Time // when the machine's own files were looked at last
	background sync.WaitGroup
}

// New returns the agent of a host, with DefaultTimes.
func New(h host.Host, log *slog.Logger) *Agent {
	a := &Agent{Host: h, Times: DefaultTimes(), Now: time.Now, images: map[string]*image{}, ahead: map[string]uint32{}, queue: &queueHolder{}}
	a.Log = slog.New(recorder{log.Handler(), a.queue})
	a.server.wake = make(chan struct{}, 1)
	a.Machine, _ = os.Hostname() // without a name, only policies for all machines mean it
	return a
}

// Run works until ctx ends, which is no error. It calls ready once, before the
// work begins. The error wraps ErrRunning when another agent is at work already.
func (a *Agent) Run(ctx context.Context, ready func()) error {
	a.self.log = a.Log
	defer a.release()
	ctx, cancel := context.WithCancel(ctx)
	defer a.background.Wait()
	defer cancel()
	a.background.Go(func() { a.askServer(ctx) })
	started := teller{log: a.Log}
	for first := true; ctx.Err() == nil; first = false {
		task, err := a.prepare(ctx)
		if errors.Is(err, ErrRunning) {
			return err
		}
		if first {
			started.tell(Started, "the agent has started; it installs the images that are pre-staged for this machine")
			ready()
		}
		select {
		case <-ctx.Done():
		case <-a.server.wake:
		case <-time.After(a.round(ctx, task, err)):
		}
	}
	started.tell(Stopped, "the agent has stopped")
	return nil
}

// task is what one round works with.
type task struct {
	settings settings.Settings
	store    *client.Store
	staged   string // "" when there is no pre-stage folder
	machine  string
	known    *Known // of the server, nil when there is none
	packages map[string][]version
}

// prepare finds out what there is to do.
func (a *Agent) prepare(ctx context.Context) (*task, error) {
	s, err := a.Host.Settings(ctx)
	if err != nil {
		return nil, err
	}
	if s.VMSFolder == "" {
		return nil, prestage.ErrNotSetUp
	}
	if err := a.lock(ctx, s.VMSFolder); err != nil {
		return nil, err
	}
	t := &task{settings: s, store: client.NewStore(s.VMSFolder), machine: a.Machine}
	t.staged, err = prestage.StagedFolder(ctx, a.Host)
	if err != nil && !errors.Is(err, prestage.ErrNotSetUp) {
		return nil, err
	}
	t.known = a.server.now(t)
	// What is assigned can come from the server alone.
	fromServer := s.Server != "" && (len(s.Images) > 0 || t.known.policy != nil)
	if errors.Is(err, prestage.ErrNotSetUp) && fromServer {
		t.staged = ""
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	t.packages, err = a.scan(ctx, t.staged)
	if errors.Is(err, fs.ErrNotExist) {
		if fromServer {
			return t, nil
		}
		err = fmt.Errorf("the pre-stage folder %q does not exist; \"prestage setup\" makes it", t.staged)
	}
	return t, err
}

// lock makes this the one agent that works on an image store. A store that is
// not there is not made: its rights are the business of setup.
func (a *Agent) lock(ctx context.Context, store string) error {
	if a.locked == store {
		return nil
	}
	a.release()
	wait, cancel := context.WithTimeout(ctx, 2*time.Second) // the one before may be about to end
	defer cancel()
	unlock, err := durable.Lock(wait, filepath.Join(store, prestage.AgentLock))
	switch {
	case err == nil:
		a.locked, a.unlock = store, unlock
		return a.queue.open(store)
	case ctx.Err() != nil:
		return ctx.Err()
	case wait.Err() != nil:
		return fmt.Errorf("%w on this machine and works on the image store %q; there must be only one", ErrRunning, store)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("the image store %q does not exist; \"prestage setup\" makes it", store)
	}
	return err
}

func (a *Agent) release() {
	a.queue.close()
	if a.unlock != nil {
		a.unlock()
		if runtime.GOOS == "windows" {
			// Uninstalling shall find nothing of ours. Elsewhere somebody may
			// have the file open to lock it; here it is not removed then.
			os.Remove(filepath.Join(a.locked, prestage.AgentLock))
		}
	}
	a.locked, a.unlock = "", nil
}

// round does what can be done now, and returns how long there is nothing more
// to do.
func (a *Agent) round(ctx context.Context, t *task, err error) time.Duration {
	if ctx.Err() != nil {
		return 0
	}
	if err != nil {
		a.self.saw(err.Error(), a.Times)
		a.self.tell(Failed, "nothing can be installed: %v; it is tried again", err)
		return a.self.look
	}
	a.self.saw("", a.Times)
	a.self.forget()
	next := a.Times.LookMax
	wanted := map[string]bool{}
	for _, name := range t.assigned() {
		if wanted[name] || ctx.Err() != nil {
			continue
		}
		wanted[name] = true
		next = min(next, a.attend(ctx, t, name))
	}
	for name := range a.images {
		if !wanted[name] {
			delete(a.images, name)
		}
	}
	next = min(next, a.followPolicy(ctx, t))
	a.attest(ctx, t)
	a.lookAtOwnFiles(ctx, t)
	return next
}

// attend sees to one image, and returns when to do it again at the latest.
func (a *Agent) attend(ctx context.Context, t *task, name string) time.Duration {
	img := a.images[name]
	if img == nil {
		img = &image{teller: teller{log: a.Log, image: name}}
		a.images[name] = img
	}
	installed, err := t.store.Versions(name)
	if len(installed) > 0 {
		// Whatever it is: pre-staging is for the first version only.
		delete(a.images, name)
		return a.Times.LookMax
	}
	img.saw(t.fingerprint(name), a.Times)
	if err == nil {
		err = ckm.CheckName(name)
	}
	if err != nil {
		img.tell(Failed, "image %q cannot be installed: %v", name, err)
		return img.look
	}
	number, ready, why := a.pick(ctx, t, img, name)
	if !ready {
		if why == "" {
			return a.Times.Look // it needs but a moment
		}
		img.tell(Waiting, "waiting for image %s: %s", name, why)
		return img.look
	}
	if rest := time.Until(img.again); img.fails > 0 && rest > 0 {
		return min(img.look, rest)
	}
	began := time.Now()
	err = a.install(ctx, t, img, name, number)
	switch {
	case err == nil:
		delete(a.images, name)
		return a.Times.LookMax
	case ctx.Err() != nil:
		return 0
	}
	if packages, scanErr := a.scan(ctx, t.staged); scanErr == nil {
		t.packages = packages
		if before := img.print; t.fingerprint(name) != before {
			img.tell(Waiting, "waiting for image %s: its package changed while it was read, it is still being copied", name)
			img.saw(t.fingerprint(name), a.Times)
			return img.look
		}
	}
	img.tell(Failed, "image %s could not be installed: %v; it is tried again", name, err)
	delay := min(a.Times.Retry<<min(img.fails, 20), a.Times.RetryMax)
	delay -= time.Duration(rand.Int64N(int64(delay)/4 + 1)) // many machines may have failed at the same moment
	// Reading a large package over and over is no use to whoever works here.
	delay = max(delay, 10*time.Since(began))
	img.fails++
	img.again = time.Now().Add(delay)
	return min(img.look, delay)
}

func (a *Agent) install(ctx context.Context, t *task, img *image, name string, number uint32) error {
	r := t.rule(name)
	in, err := a.from(t, img, name, number, &r)
	if err != nil {
		return err
	}
	done, err := in.Run(ctx)
	if err == nil && !done.Already {
		var from []string
		for _, s := range done.Sources {
			from = append(from, s.Source)
		}
		img.tellWith(t.receipt(done), Installed, "installed %s in %s, from %s", repo.ImageName(done.Name, done.Version), done.Dir, strings.Join(from, " and "))
	}
	return err
}

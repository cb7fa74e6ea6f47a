package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"prestage/internal/daytime"
	"prestage/internal/fleet"
	"prestage/internal/host"
	"prestage/internal/prestage"
	"prestage/internal/repo"
)

// exitSomeFailed says that some machines of a fleet are not as they should be.
const exitSomeFailed = 5

// fleetFlags are the flags of verbs that can work on many machines.
type fleetFlags struct {
	hosts, inventory, user, report string
	parallel, canary, maxFailures  int
	window, eachLimit              string
	retry                          time.Duration
	sshKeys, knownHosts            []string
}

func (f *fleetFlags) add(cmd *cobra.Command) {
	s := cmd.Flags()
	s.StringVar(&f.hosts, "hosts", "", "work on these machines: a hosts file, or a list such as pc-[001-020],srv1,@group")
	s.StringVar(&f.inventory, "inventory", "", "the hosts file that groups and settings of a list come from")
	s.StringVar(&f.user, "user", os.Getenv("PRESTAGE_USER"), "who logs on, unless the hosts file says (default $PRESTAGE_USER)")
	s.StringVar(&f.report, "report", "", "write a report to this file: .json, .csv or .html")
	s.IntVar(&f.parallel, "parallel", fleet.DefaultParallel, "machines at once")
	s.IntVar(&f.canary, "canary", 0, "go on to the others only if so many first machines succeed")
	s.IntVar(&f.maxFailures, "max-failures", 0, "begin no other machine after so many have failed")
	s.StringVar(&f.window, "window", "", "work only in this time of day, as in 22:00-06:00")
	s.DurationVar(&f.retry, "retry", 0, "how long to try again machines that do not answer, as in 8h")
	s.StringArrayVar(&f.sshKeys, "ssh-key", nil, "a file with a private key for Linux machines (default the SSH agent, then those of ssh)")
	s.StringArrayVar(&f.knownHosts, "ssh-known-hosts", nil, "a file with the keys of Linux machines (default those of ssh)")
	s.StringVar(&f.eachLimit, "limit-each", "", "most bytes a second with one machine, for instance 5MiB")
}

// given reports whether the command is for a fleet.
func (f *fleetFlags) given() bool { return f.hosts != "" }

// machines returns the machines that were named.
func (f *fleetFlags) machines() ([]fleet.Machine, error) {
	if inv, err := parseHosts(f.hosts); err == nil {
		return inv.Machines, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, usageError{err}
	}
	var inv *fleet.Inventory
	if f.inventory != "" {
		var err error
		if inv, err = parseHosts(f.inventory); err != nil {
			return nil, usageError{err}
		}
	}
	machines, err := fleet.ParseList(f.hosts, inv)
	if err != nil {
		return nil, usageError{fmt.Errorf("--hosts %q is no file, and as a list: %w", f.hosts, err)}
	}
	return machines, nil
}

func parseHosts(path string) (*fleet.Inventory, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return fleet.ParseHosts(r, path)
}

// options checks the flags that say how the run goes.
func (f *fleetFlags) options() (o fleet.Options, err error) {
	if f.parallel < 1 || f.canary < 0 || f.maxFailures < 0 || f.retry < 0 {
		return o, usageError{errors.New("--parallel takes a number from 1 on; --canary, --max-failures and --retry none below 0")}
	}
	o = fleet.Options{Parallel: f.parallel, Canary: f.canary, MaxFailures: f.maxFailures, Stall: 2 * time.Minute}
	if f.retry > 0 {
		o.Deadline = time.Now().Add(f.retry)
	}
	if o.Window, err = daytime.Parse(f.window); err != nil {
		return o, usageError{fmt.Errorf("--window: %w", err)}
	}
	if f.report != "" {
		if err := fleet.CheckReportFile(f.report); err != nil {
			return o, usageError{err}
		}
	}
	return o, nil
}

// station is a machine while it is worked on.
type station struct {
	host    host.Host
	machine fleet.Machine
	out     *fleet.Outcome
	meter   *stationMeter
}

// step says what is done next.
func (s *station) step(name, image string) {
	s.out.Step = name
	s.meter.step(name, image)
}

// overFleet does work on every machine, and tells and reports what came of it.
// What is left as it should not be gives the exit code exitSomeFailed.
func (a *app) overFleet(ctx context.Context, command string, images []string, limit string, f *fleetFlags, work func(ctx context.Context, s *station) error) error {
	machines, err := f.machines()
	if err != nil {
		return err
	}
	o, err := f.options()
	if err != nil {
		return err
	}
	all, err := byteRate("--limit", limit)
	if err != nil {
		return err
	}
	each, err := byteRate("--limit-each", f.eachLimit)
	if err != nil {
		return err
	}
	limits := fleet.NewLimits(all, each)
	v := a.fleetView(machines, images)
	defer context.AfterFunc(ctx, v.Interrupted)()
	login := &login{user: f.user, sshKeys: f.sshKeys, knownHosts: f.knownHosts, aside: v.Aside}
	job := func(ctx context.Context, m fleet.Machine, report func(fleet.Progress)) (out fleet.Outcome) {
		s := &station{machine: m, out: &out, meter: &stationMeter{report: report}}
		s.step("connect", "")
		h, err := login.dial(ctx, m)
		if err != nil {
			out.Err = err
			return out
		}
		defer h.Close()
		// What waits for a machine that hangs ends with the work on it.
		defer context.AfterFunc(ctx, func() { h.Close() })()
		share := limits.Share()
		share.Alive = func() { s.meter.Add(0) } // held back by the limits is not hanging
		s.host = share.Host(h)
		if out.Err = work(ctx, s); out.Err == nil {
			out.Step = ""
		}
		return out
	}
	begun := time.Now()
	results := fleet.Run(ctx, machines, o, job, v.Event)
	v.Close()
	r := fleet.NewReport(command, images, begun, time.Now(), results)
	if f.report != "" {
		if err := r.Save(f.report); err != nil {
			return fmt.Errorf("writing the report: %w", err)
		}
	}
	a.meter.finish()
	if a.json {
		if err := r.WriteJSON(a.out); err != nil {
			return err
		}
	} else {
		fmt.Fprintln(a.out, r.Verdict())
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if !r.OK() {
		return silentError{exitSomeFailed}
	}
	return nil
}

// machineLine says in a line what has become of a machine, and what to do.
func machineLine(m *fleet.MachineReport) string {
	line := fmt.Sprintf("%s: %s", m.Machine, m.State)
	moved := int64(0)
	for _, i := range m.Images {
		moved += i.Moved
	}
	if moved > 0 {
		line += fmt.Sprintf(", %s in %.1f s", size(moved), m.Seconds)
	}
	for _, p := range m.Problems() {
		line += "\n    " + p
	}
	for _, p := range m.Advices() {
		line += "\n    -> " + p
	}
	return line
}

// pushFleet pushes images to machines, setting up those that are not yet.
func (a *app) pushFleet(ctx context.Context, args []string, images, limit, how string, f *fleetFlags) error {
	r, err := a.repository(images)
	if err != nil {
		return err
	}
	packages, err := a.packagesFor(ctx, r, args)
	if err != nil {
		return err
	}
	var names []string
	for _, p := range packages {
		names = append(names, p.String())
	}
	if _, err := f.machines(); err != nil { // before anything is downloaded for them
		return err
	}
	trust, err := a.trust()
	if err != nil {
		return err
	}
	if err := a.checkTrusted(ctx, trust, r, packages); err != nil {
		return err
	}
	r, done, err := a.spool(ctx, r, packages)
	if err != nil {
		return err
	}
	defer done()
	a.meter.finish()
	return a.overFleet(ctx, "push", names, limit, f, func(ctx context.Context, s *station) error {
		s.step("set up", "")
		if err := s.setUp(ctx); err != nil {
			return err
		}
		for _, p := range packages {
			s.step("push", p.String())
			began := time.Now()
			done, err := prestage.Push(ctx, s.host, r, p.name, p.version, prestage.PushOptions{How: how, Trust: trust, Meter: s.meter})
			if err != nil {
				s.out.Images = append(s.out.Images, fleet.Image{Name: p.String(), Step: s.meter.task(), Err: err})
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if errors.Is(err, host.ErrUnreachable) {
					return err
				}
				continue
			}
			s.out.Pushed(done, time.Since(began))
		}
		s.step("check", "")
		return s.examine(ctx, false)
	})
}

// setUp makes the folders of a machine: those that are set up already, or those
// in the folder that was named for it.
func (s *station) setUp(ctx context.Context) error {
	_, err := prestage.StagedFolder(ctx, s.host)
	folder := ""
	switch {
	case errors.Is(err, prestage.ErrNotSetUp) && s.machine.Folder != "":
		folder = s.machine.Folder
	case errors.Is(err, prestage.ErrNotSetUp) && s.machine.Kind == fleet.KindSMB:
		folder = `C:\`
	case err != nil:
		return err
	}
	_, err = prestage.Setup(ctx, s.host, folder, "")
	return err
}

// examine looks at what is there now.
func (s *station) examine(ctx context.Context, all bool) error {
	st, err := prestage.GetStatus(ctx, s.host)
	if err != nil {
		return err
	}
	s.out.Examined(st, all)
	return nil
}

// statusFleet looks at machines and changes nothing.
func (a *app) statusFleet(ctx context.Context, f *fleetFlags) error {
	return a.overFleet(ctx, "status", nil, "", f, func(ctx context.Context, s *station) error {
		s.step("check", "")
		return s.examine(ctx, true)
	})
}

// setupFleet sets machines up in folder, or where they say.
func (a *app) setupFleet(ctx context.Context, folder, profile string, keys []string, f *fleetFlags) error {
	return a.overFleet(ctx, "setup", nil, "", f, func(ctx context.Context, s *station) error {
		s.step("set up", "")
		if folder != "" {
			s.machine.Folder = folder
		}
		if _, err := prestage.Trust(ctx, s.host, keys); err != nil {
			return err
		}
		if err := s.setUp(ctx); err != nil {
			return err
		}
		if profile != "" {
			if _, err := prestage.Setup(ctx, s.host, "", profile); err != nil {
				return err
			}
		}
		s.step("check", "")
		return s.examine(ctx, false)
	})
}

// relocateFleet moves the location of machines.
func (a *app) relocateFleet(ctx context.Context, folder string, f *fleetFlags) error {
	return a.overFleet(ctx, "relocate", nil, "", f, func(ctx context.Context, s *station) error {
		s.step("relocate", "")
		if _, err := prestage.Relocate(ctx, s.host, folder, s.meter); err != nil {
			return err
		}
		s.step("check", "")
		return s.examine(ctx, true)
	})
}

// removeFleet removes packages from the pre-stage folders of machines. A machine
// that has one of them not is as it should be.
func (a *app) removeFleet(ctx context.Context, args []string, force bool, f *fleetFlags) error {
	var images []imageVersion
	var names []string
	for _, arg := range args {
		name, version, err := image(arg)
		if err == nil && version == 0 {
			err = usageError{fmt.Errorf("name the version of %s, as in %s:1: the latest need not be the same everywhere", name, name)}
		}
		if err != nil {
			return err
		}
		images, names = append(images, imageVersion{name, version}), append(names, arg)
	}
	return a.overFleet(ctx, "remove", names, "", f, func(ctx context.Context, s *station) error {
		for i, p := range images {
			s.step("remove", names[i])
			removed := fleet.Image{Name: names[i]}
			err := prestage.Remove(ctx, s.host, p.name, p.version, force)
			switch {
			case errors.Is(err, repo.ErrNotFound):
				removed.Already = true
			case err != nil:
				removed.Step, removed.Err = "remove", err
			}
			s.out.Images = append(s.out.Images, removed)
			if errors.Is(err, host.ErrUnreachable) || ctx.Err() != nil {
				return cmp.Or(ctx.Err(), err)
			}
		}
		s.step("check", "")
		return s.examine(ctx, false)
	})
}

// stationMeter passes on how far the work on a machine is.
type stationMeter struct {
	report func(fleet.Progress)

	mu  sync.Mutex
	now fleet.Progress
}

func (m *stationMeter) update(change func(p *fleet.Progress)) {
	m.mu.Lock()
	change(&m.now)
	now := m.now
	m.mu.Unlock()
	m.report(now)
}

func (m *stationMeter) step(name, image string) {
	m.update(func(p *fleet.Progress) { *p = fleet.Progress{Step: name, Image: image} })
}

// task is what is being done.
func (m *stationMeter) task() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.now.Step
}

// Begin implements progress.Meter.
func (m *stationMeter) Begin(task string, total int64) {
	m.update(func(p *fleet.Progress) { p.Step, p.Done, p.Total = task, 0, total })
}

// Add implements progress.Meter.
func (m *stationMeter) Add(n int64) { m.update(func(p *fleet.Progress) { p.Done += n }) }

// Warn implements progress.Meter. What matters is in the report.
func (m *stationMeter) Warn(string, ...any) {}

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/registry"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

// How long a service may take to start and to stop.
const changeWait = 30 * time.Second

func (s Service) sourceKey() string {
	return `SYSTEM\CurrentControlSet\Services\EventLog\Application\` + s.Name
}

func connect() (*mgr.Mgr, error) {
	m, err := mgr.Connect()
	if errors.Is(err, windows.ERROR_ACCESS_DENIED) {
		return nil, errors.New("a service is installed and removed by an administrator; run it in a console that was started as administrator")
	}
	if err != nil {
		return nil, fmt.Errorf("connecting to the service control manager: %w", err)
	}
	return m, nil
}

func (s Service) install(ctx context.Context, c Config) error {
	m, err := connect()
	if err != nil {
		return err
	}
	defer m.Disconnect()
	h, err := m.OpenService(s.Name)
	created := errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST)
	if created {
		h, err = m.CreateService(s.Name, c.Command[0], mgr.Config{DisplayName: s.DisplayName, ErrorControl: mgr.ErrorNormal})
	}
	if errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) {
		return errors.New("the service is being removed; close the programs that look at it, such as Services, and install again")
	}
	if err != nil {
		return fmt.Errorf("creating the service %s: %w", s.Name, err)
	}
	defer h.Close()
	err = s.configure(h, c)
	if err == nil {
		err = s.installSource()
	}
	if err != nil {
		if created {
			h.Delete()
		}
		return err
	}
	if c.Hold {
		return nil
	}
	if err := stop(ctx, h); err != nil {
		return err
	}
	return start(ctx, h)
}

// configure makes all of the service's properties what they should be.
func (s Service) configure(h *mgr.Service, c Config) error {
	startType := uint32(mgr.StartAutomatic)
	if c.Demand {
		startType = mgr.StartManual
	}
	line, err := windows.UTF16PtrFromString(commandLine(c.Command))
	if err != nil {
		return err
	}
	account, _ := windows.UTF16PtrFromString("LocalSystem")
	display, _ := windows.UTF16PtrFromString(s.DisplayName)
	text, _ := windows.UTF16PtrFromString(s.Description)
	var delayed windows.SERVICE_DELAYED_AUTO_START_INFO
	if !c.Demand && s.delayed {
		delayed.IsDelayedAutoStartUp = 1
	}
	restart := func(after time.Duration) mgr.RecoveryAction {
		return mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: after}
	}
	const day = 24 * 60 * 60 // seconds
	for _, step := range []func() error{
		func() error {
			return windows.ChangeServiceConfig(h.Handle, windows.SERVICE_WIN32_OWN_PROCESS, startType, windows.SERVICE_ERROR_NORMAL,
				line, nil, nil, nil, account, nil, display)
		},
		func() error {
			d := windows.SERVICE_DESCRIPTION{Description: text}
			return windows.ChangeServiceConfig2(h.Handle, windows.SERVICE_CONFIG_DESCRIPTION, (*byte)(unsafe.Pointer(&d)))
		},
		func() error {
			return optional(windows.ChangeServiceConfig2(h.Handle, windows.SERVICE_CONFIG_DELAYED_AUTO_START_INFO, (*byte)(unsafe.Pointer(&delayed))))
		},
		func() error {
			return optional(h.SetRecoveryActions([]mgr.RecoveryAction{restart(5 * time.Second), restart(time.Minute), restart(5 * time.Minute)}, day))
		},
		// An error that the program ends with is a failure too.
		func() error { return optional(h.SetRecoveryActionsOnNonCrashFailures(true)) },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("configuring the service %s: %w", s.Name, err)
		}
	}
	return nil
}

// optional lets systems go without a property that they do not know.
func optional(err error) error {
	if errors.Is(err, windows.ERROR_INVALID_LEVEL) {
		return nil
	}
	return err
}

// commandLine always quotes the program: without quotes, a path with spaces
// could start something else.
func commandLine(command []string) string {
	line := `"` + command[0] + `"`
	for _, arg := range command[1:] {
		line += " " + syscall.EscapeArg(arg)
	}
	return line
}

func (s Service) installSource() error {
	if k, err := registry.OpenKey(registry.LOCAL_MACHINE, s.sourceKey(), registry.QUERY_VALUE); err == nil {
		return k.Close()
	}
	if err := eventlog.InstallAsEventCreate(s.Name, eventlog.Error|eventlog.Warning|eventlog.Info); err != nil {
		return fmt.Errorf("registering with the event log: %w", err)
	}
	return nil
}

func (s Service) uninstall(ctx context.Context) (found bool, err error) {
	m, err := connect()
	if err != nil {
		return false, err
	}
	defer m.Disconnect()
	h, err := m.OpenService(s.Name)
	switch {
	case err == nil:
		defer h.Close()
		if err := stop(ctx, h); err != nil {
			return true, err
		}
		if err := h.Delete(); err != nil && !errors.Is(err, windows.ERROR_SERVICE_MARKED_FOR_DELETE) {
			return true, fmt.Errorf("removing the service %s: %w", s.Name, err)
		}
		found = true
	case !errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST):
		return false, fmt.Errorf("opening the service %s: %w", s.Name, err)
	}
	if err := eventlog.Remove(s.Name); err != nil && !errors.Is(err, registry.ErrNotExist) {
		return found, fmt.Errorf("removing it from the event log: %w", err)
	}
	return found, nil
}

func start(ctx context.Context, h *mgr.Service) error {
	if err := h.Start(); err != nil {
		return fmt.Errorf("starting the service %s: %w", h.Name, err)
	}
	return reach(ctx, h, svc.Running)
}

func stop(ctx context.Context, h *mgr.Service) error {
	_, err := h.Control(svc.Stop)
	if err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) && !errors.Is(err, windows.ERROR_SERVICE_CANNOT_ACCEPT_CTRL) {
		return fmt.Errorf("stopping the service %s: %w", h.Name, err)
	}
	return reach(ctx, h, svc.Stopped)
}

// reach waits until the service is in a state.
func reach(ctx context.Context, h *mgr.Service, want svc.State) error {
	ctx, cancel := context.WithTimeout(ctx, changeWait)
	defer cancel()
	for {
		st, err := h.Query()
		switch {
		case err != nil:
			return fmt.Errorf("asking for the state of the service %s: %w", h.Name, err)
		case st.State == want:
			return nil
		case st.State == svc.Stopped:
			return fmt.Errorf("the service %s has stopped again, with exit code %d; the event log, Application, source %s, tells more",
				h.Name, max(st.Win32ExitCode, st.ServiceSpecificExitCode), h.Name)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the service %s takes too long to start or stop: %w", h.Name, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func run(ctx context.Context, work Work) error { return work(ctx, func() {}) }

func (s Service) runControlled(work Work) error {
	// Services are told of every user who logs off, which to Go looks like a
	// wish to end. The manager alone says when to.
	signal.Notify(make(chan os.Signal, 1), os.Interrupt, syscall.SIGTERM)
	if s.yields {
		lowerPriority()
	}
	h := &handler{work: work}
	err := svc.Run(s.Name, h)
	if errors.Is(err, windows.ERROR_FAILED_SERVICE_CONTROLLER_CONNECT) {
		return fmt.Errorf("the service control manager has not started this program; use \"net start %s\", or leave --service out", s.Name)
	}
	if err != nil {
		return fmt.Errorf("service control manager: %w", err)
	}
	return h.err
}

// lowerPriority has all others come first, at processors and disks. The mode that
// Windows has for that, PROCESS_MODE_BACKGROUND_BEGIN, would also bound the memory
// that the program works with, to 32 MiB. Where it fails, all is as it was.
func lowerPriority() {
	windows.SetPriorityClass(windows.CurrentProcess(), windows.BELOW_NORMAL_PRIORITY_CLASS)
	veryLow := uint32(0) // IO_PRIORITY_HINT, IoPriorityVeryLow
	windows.NtSetInformationProcess(windows.CurrentProcess(), windows.ProcessIoPriority, unsafe.Pointer(&veryLow), uint32(unsafe.Sizeof(veryLow)))
}

// handler answers the service control manager.
type handler struct {
	work Work
	err  error
}

const accepted = svc.AcceptStop | svc.AcceptShutdown

// stopHint is how long the manager is asked to wait for the end, anew each
// second.
const stopHint = 10 * time.Second

// Execute implements svc.Handler.
func (h *handler) Execute(_ []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (specific bool, code uint32) {
	status <- svc.Status{State: svc.StartPending, WaitHint: uint32(stopHint.Milliseconds())}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() { done <- h.work(ctx, func() { close(ready) }) }()

	now := svc.Status{State: svc.StartPending}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ready:
			ready = nil
			if now.State == svc.StartPending {
				now = svc.Status{State: svc.Running, Accepts: accepted}
				status <- now
			}
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- now
			case svc.Stop, svc.Shutdown:
				cancel()
				now = svc.Status{State: svc.StopPending, WaitHint: uint32(stopHint.Milliseconds())}
				status <- now
			}
		case <-tick.C:
			if now.State == svc.StopPending {
				now.CheckPoint++
				status <- now
			}
		case h.err = <-done:
			if h.err != nil {
				return true, 1
			}
			return false, 0
		}
	}
}

// Log returns a handler that writes messages to a file, with their time.
func Log(f *os.File) slog.Handler { return Lines(f) }

func (s Service) eventLog() (slog.Handler, error) {
	l, err := eventlog.Open(s.Name)
	if err != nil {
		return nil, fmt.Errorf("opening the event log: %w", err)
	}
	return Events(l), nil
}

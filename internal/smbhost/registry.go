package smbhost

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	"prestage/internal/msrpc"
	"prestage/internal/settings"
)

// remote is the registry of a machine, and the service that serves it, as it was
// found.
type remote struct {
	mu       sync.Mutex
	registry *msrpc.Registry
	is64     bool

	restore func() error // puts RemoteRegistry back as it was
}

// remoteRegistry is the service that serves the registry. It is stopped, and
// most often disabled, on Windows clients.
const remoteRegistry = "RemoteRegistry"

// hive returns the machine's registry, starting the service if need be.
func (h *Host) hive() (settings.Hive, error) {
	r := &h.remote
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.registry != nil {
		return (*hive)(r), nil
	}
	p, err := h.pipe(msrpc.RegistryPipe)
	// What serves pipes may only just be starting.
	for tries := 0; status(err) == statusDisconnected && tries < 10; tries++ {
		time.Sleep(500 * time.Millisecond)
		p, err = h.pipe(msrpc.RegistryPipe)
	}
	// The client has its own error for STATUS_OBJECT_NAME_NOT_FOUND.
	if errors.Is(err, fs.ErrNotExist) || status(err) == statusPipeNotAvailable {
		startErr := h.startRegistry()
		if errors.Is(startErr, fs.ErrNotExist) { // it is no file that is missing
			startErr = fmt.Errorf("services cannot be reached over the network (%v)", startErr)
		}
		if startErr != nil {
			return nil, fmt.Errorf("starting the service %s of %s: %w", remoteRegistry, h.o.Name, startErr)
		}
		p, err = h.pipe(msrpc.RegistryPipe)
	}
	if err != nil {
		return nil, fmt.Errorf("registry of %s: %w", h.o.Name, err)
	}
	if r.registry, err = msrpc.OpenRegistry(p); err != nil {
		return nil, fmt.Errorf("%s: %w", h.o.Name, err)
	}
	// Every 64-bit Windows has this value; no other has the key.
	_, _, err = r.registry.Get(`SOFTWARE\WOW6432Node\Microsoft\Windows NT\CurrentVersion`, "SystemRoot")
	r.is64 = err == nil
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.registry.Close()
		r.registry = nil // else it would pass for that of a 32-bit Windows
		return nil, fmt.Errorf("registry of %s: %w", h.o.Name, err)
	}
	return (*hive)(r), nil
}

// pipe opens a named pipe of the machine.
func (h *Host) pipe(name string) (*remoteFile, error) {
	s, err := h.share("IPC$")
	if err != nil {
		return nil, err
	}
	return s.OpenFile(name, os.O_RDWR, 0o600)
}

// startRegistry starts the service and remembers how to put it back.
func (h *Host) startRegistry() error {
	p, err := h.pipe(msrpc.ServicesPipe)
	if err != nil {
		return err
	}
	services, err := msrpc.OpenServices(p)
	if err != nil {
		return err
	}
	service, err := services.Open(remoteRegistry)
	if err != nil {
		services.Close()
		return err
	}
	before, err := service.StartType()
	if err == nil && before == msrpc.StartDisabled {
		err = service.SetStartType(msrpc.StartOnDemand)
	}
	h.remote.restore = func() error {
		err := service.Stop()
		if before == msrpc.StartDisabled {
			err = errors.Join(err, service.SetStartType(before))
		}
		return errors.Join(err, services.Close())
	}
	if err == nil {
		err = service.Start()
	}
	for end := time.Now().Add(h.o.Silence); err == nil; time.Sleep(100 * time.Millisecond) {
		var now uint32
		if now, err = service.State(); err == nil && now == msrpc.StateRunning {
			return nil
		}
		if err == nil && time.Now().After(end) {
			err = errors.New("it does not start")
		}
	}
	return err
}

func (r *remote) close() error {
	var errs []error
	if r.registry != nil {
		errs = append(errs, r.registry.Close())
	}
	if r.restore != nil {
		errs = append(errs, r.restore())
	}
	return errors.Join(errs...)
}

// hive is a machine's registry as a 32-bit program sees it.
type hive remote

// native returns the key's name for 64-bit programs, as which we count.
func (r *hive) native(key string) string {
	rest, software := strings.CutPrefix(key, "SOFTWARE")
	if !r.is64 || !software || strings.HasPrefix(rest, `\Policies`) {
		return key
	}
	return `SOFTWARE\WOW6432Node` + rest
}

// Get implements settings.Hive.
func (r *hive) Get(key, name string) (uint32, []byte, error) {
	return r.registry.Get(r.native(key), name)
}

// SetText implements settings.Hive.
func (r *hive) SetText(key, name, value string) error {
	return r.registry.Set(r.native(key), name, msrpc.TypeText, msrpc.Text(value))
}

// SetTexts implements settings.Hive.
func (r *hive) SetTexts(key, name string, values []string) error {
	return r.registry.Set(r.native(key), name, msrpc.TypeTexts, msrpc.Texts(values))
}

// SetNumber implements settings.Hive.
func (r *hive) SetNumber(key, name string, value uint32) error {
	return r.registry.Set(r.native(key), name, msrpc.TypeNumber, msrpc.Number(value))
}

// Is64Bit implements settings.Hive.
func (r *hive) Is64Bit() bool { return r.is64 }

var variable = regexp.MustCompile(`%[^%]+%`)

// Expand implements settings.Hive, with the variables of the machine itself:
// those of a user are not the same for everybody.
func (r *hive) Expand(s string) (string, error) {
	root := func() string {
		kind, data, err := r.registry.Get(`SOFTWARE\Microsoft\Windows NT\CurrentVersion`, "SystemRoot")
		if err != nil || kind != msrpc.TypeText {
			return ""
		}
		return msrpc.ParseText(data)
	}
	return variable.ReplaceAllStringFunc(s, func(v string) string {
		switch strings.ToLower(strings.Trim(v, "%")) {
		case "systemroot", "windir":
			if dir := root(); dir != "" {
				return dir
			}
		case "systemdrive":
			if dir := root(); len(dir) > 2 {
				return dir[:2]
			}
		}
		return v
	}), nil
}

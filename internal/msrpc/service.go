package msrpc

import "fmt"

// svcctl is 367abb81-9844-35f1-ad32-98f038001003, version 2.0 (MS-SCMR 1.9).
var svcctl = uuid{0x81, 0xbb, 0x7a, 0x36, 0x44, 0x98, 0xf1, 0x35, 0xad, 0x32, 0x98, 0xf0, 0x38, 0x00, 0x10, 0x03}

// ServicesPipe is the name of service control's pipe.
const ServicesPipe = "svcctl"

// Operations of service control (MS-SCMR 3.1.4).
const (
	opCloseHandle  = 0
	opControl      = 1
	opQueryStatus  = 6
	opChangeConfig = 11
	opOpenManager  = 15
	opOpenService  = 16
	opQueryConfig  = 17
	opStartService = 19
	controlStop    = 1
	unchanged      = 0xffffffff
	maxConfig      = 8 << 10 // bytes, the largest that the protocol allows
	managerConnect = 0x1
	serviceAccess  = 0x1 | 0x2 | 0x4 | 0x10 | 0x20 // query and change configuration, query status, start, stop
)

// Ways in which a service is started (MS-SCMR 2.2.15).
const (
	StartOnDemand uint32 = 3
	StartDisabled uint32 = 4
)

// States of a service (MS-SCMR 2.2.47).
const (
	StateStopped uint32 = 1
	StateRunning uint32 = 4
)

// Services is the service control manager of another machine.
type Services struct {
	c       *conn
	manager handle
}

// OpenServices opens service control on a machine's pipe ServicesPipe.
func OpenServices(p Pipe) (*Services, error) {
	c, err := bind(p, svcctl, 2)
	if err != nil {
		return nil, fmt.Errorf("service control: %w", err)
	}
	s := &Services{c: c}
	var w writer
	w.null()
	w.null()
	w.uint32(managerConnect)
	if s.manager, err = s.open(opOpenManager, w.b); err != nil {
		c.close()
		return nil, fmt.Errorf("opening service control: %w", err)
	}
	return s, nil
}

// Close closes the pipe.
func (s *Services) Close() error { return s.c.close() }

func (s *Services) open(operation uint16, in []byte) (h handle, err error) {
	r, err := s.c.invoke(operation, in)
	if err != nil {
		return h, err
	}
	h = r.handle()
	return h, r.code()
}

// Service is a service that was opened.
type Service struct {
	c *conn
	h handle
}

// Open opens a service.
func (s *Services) Open(name string) (*Service, error) {
	var w writer
	w.handle(s.manager)
	w.text(name)
	w.uint32(serviceAccess)
	h, err := s.open(opOpenService, w.b)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	return &Service{s.c, h}, nil
}

// Close closes the service.
func (v *Service) Close() error {
	_, err := v.c.invoke(opCloseHandle, v.h[:])
	return err
}

// State returns the service's state.
func (v *Service) State() (uint32, error) {
	r, err := v.c.invoke(opQueryStatus, v.h[:])
	if err != nil {
		return 0, err
	}
	return state(r)
}

// state reads a SERVICE_STATUS.
func state(r *reader) (uint32, error) {
	r.uint32()
	now := r.uint32()
	r.bytes(5 * 4)
	return now, r.code()
}

// StartType returns how the service is started.
func (v *Service) StartType() (uint32, error) {
	var w writer
	w.handle(v.h)
	w.uint32(maxConfig)
	r, err := v.c.invoke(opQueryConfig, w.b)
	if err != nil {
		return 0, err
	}
	r.uint32()
	start := r.uint32()
	if r.err == nil { // texts of no interest lie before the code
		r.at = max(r.at, (len(r.b)-4)&^3)
	}
	return start, r.code()
}

// SetStartType changes how the service is started.
func (v *Service) SetStartType(start uint32) error {
	var w writer
	w.handle(v.h)
	w.uint32(unchanged) // service type
	w.uint32(start)
	w.uint32(unchanged) // error control
	for range 4 {       // path, group, tag, dependencies
		w.null()
	}
	w.uint32(0)
	w.null() // account
	w.null() // password
	w.uint32(0)
	w.null() // display name
	r, err := v.c.invoke(opChangeConfig, w.b)
	if err != nil {
		return err
	}
	if r.uint32() != 0 { // tag
		r.uint32()
	}
	return r.code()
}

// Start starts the service. That it runs already is no error.
func (v *Service) Start() error {
	var w writer
	w.handle(v.h)
	w.uint32(0)
	w.null()
	r, err := v.c.invoke(opStartService, w.b)
	if err != nil {
		return err
	}
	if err = r.code(); err == error(codeAlreadyRunning) {
		return nil
	}
	return err
}

// Stop asks the service to stop. That it does not run is no error.
func (v *Service) Stop() error {
	var w writer
	w.handle(v.h)
	w.uint32(controlStop)
	r, err := v.c.invoke(opControl, w.b)
	if err != nil {
		return err
	}
	if _, err = state(r); err == error(codeServiceNotStarted) {
		return nil
	}
	return err
}

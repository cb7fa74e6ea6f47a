// Package service makes the program a service of the operating system: a unit of
// systemd on Linux, a service of the service control manager on Windows.
package service

import (
	"context"
	"log/slog"
)

// Service is one of the services that the program can be.
type Service struct {
	Name        string // on Windows
	DisplayName string
	UnitName    string // of systemd
	Description string
	Verb        string // of the program, which runs it by hand
	unit        manners
	delayed     bool // Windows starts it when it has started everything else
	yields      bool // to all that people do on the machine
}

// Agent installs the images of a machine. The values stand in Client.MSI, too.
var Agent = Service{
	Name: "Prestage", DisplayName: "MED-V image pre-staging", UnitName: "prestage.service", Verb: "agent run",
	Description: "Installs the virtual machine images of this machine from its pre-stage folder.",
	unit:        agentManners, delayed: true, yields: true, // who logs on and works comes first
}

// Server is the image distribution server.
var Server = Service{
	Name: "PrestageServer", DisplayName: "MED-V image distribution server", UnitName: "prestage-server.service", Verb: "serve",
	Description: "Serves packages of virtual machine images over HTTP.",
	unit:        serverManners,
}

// Config says how the service is to be installed.
type Config struct {
	Command []string // the program, as an absolute path, and its arguments
	Demand  bool     // somebody starts it by hand: it does not start with the machine
	Hold    bool     // it is not started now
}

// Work is what a service does until ctx ends, which is no error. It calls ready
// as soon as it is at work.
type Work func(ctx context.Context, ready func()) error

// Install makes the service exist as c says, whether or not it was there, and
// starts it, anew if it runs.
func (s Service) Install(ctx context.Context, c Config) error { return s.install(ctx, c) }

// Uninstall stops the service and removes it. It reports false when there was
// none, which is no error.
func (s Service) Uninstall(ctx context.Context) (found bool, err error) { return s.uninstall(ctx) }

// RunControlled works until the service control manager of Windows says
// otherwise. It has to have started the program.
func (s Service) RunControlled(work Work) error { return s.runControlled(work) }

// EventLog returns a handler that writes to the event log of Windows.
func (s Service) EventLog() (slog.Handler, error) { return s.eventLog() }

// Run works until ctx ends, and tells systemd of it where that has started the
// program.
func Run(ctx context.Context, work Work) error { return run(ctx, work) }

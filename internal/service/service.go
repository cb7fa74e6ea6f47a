// Package service makes the agent a service of the operating system: a unit of
// systemd on Linux, a service of the service control manager on Windows.
package service

import "context"

// How the service is called: on Windows, and by systemd.
const (
	Name        = "Prestage"
	DisplayName = "MED-V image pre-staging"
	UnitName    = "prestage.service"
)

const description = "Installs the virtual machine images of this machine from its pre-stage folder."

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
func Install(ctx context.Context, c Config) error { return install(ctx, c) }

// Uninstall stops the service and removes it. It reports false when there was
// none, which is no error.
func Uninstall(ctx context.Context) (found bool, err error) { return uninstall(ctx) }

// Run works until ctx ends, and tells systemd of it where that has started the
// program.
func Run(ctx context.Context, work Work) error { return run(ctx, work) }

// RunControlled works until the service control manager of Windows says
// otherwise. It has to have started the program.
func RunControlled(work Work) error { return runControlled(work) }

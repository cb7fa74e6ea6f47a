package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"

	"github.com/spf13/cobra"

	"prestage/internal/service"
)

// serviceLog returns where a program that runs as a service tells what it does.
func (a *app) serviceLog() slog.Handler {
	if a.json {
		return slog.NewJSONHandler(a.out, nil)
	}
	if f, ok := a.err.(*os.File); ok {
		return service.Log(f)
	}
	return service.Lines(a.err)
}

// serviceState is what installing and uninstalling print as JSON.
type serviceState struct {
	Service   string `json:"service"`
	Installed bool   `json:"installed"`
	Start     string `json:"start,omitempty"` // auto or demand
	Running   bool   `json:"running"`
}

// installService is the command that installs a service, which runs the program
// with the arguments that args returns.
func (a *app) installService(s service.Service, short string, args func(ctx context.Context) ([]string, error)) *cobra.Command {
	var start string
	var hold bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: short,
		Long: fmt.Sprintf(`A service that is there already is changed to what is asked for, and started anew.
On Windows it is called %s, on Linux %s. A settings file named
with --config is what the service will use.`, s.Name, s.UnitName),
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if start != "auto" && start != "demand" {
				return usageError{fmt.Errorf("--start %q: use auto or demand", start)}
			}
			words, err := args(cmd.Context())
			if err != nil {
				return err
			}
			command, err := a.serviceCommand(words)
			if err != nil {
				return err
			}
			if err := s.Install(cmd.Context(), service.Config{Command: command, Demand: start == "demand", Hold: hold}); err != nil {
				return notHere(err)
			}
			done := serviceState{s.Name, true, start, !hold}
			return a.report(done, func(w io.Writer) {
				state := "runs"
				if hold {
					state = "is not started"
				}
				fmt.Fprintf(w, "the service %s is installed and %s\n", s.Name, state)
			})
		},
	}
	cmd.Flags().StringVar(&start, "start", "auto", "when the service starts: auto, with the machine, or demand")
	cmd.Flags().BoolVar(&hold, "no-start", false, "do not start it now")
	return cmd
}

// serviceCommand returns the command line that a service is to have.
func (a *app) serviceCommand(args []string) ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return nil, err
	}
	command := append([]string{exe}, args...)
	if runtime.GOOS == "windows" {
		command = append(command, "--service")
	}
	if a.config != "" {
		command = append(command, "--config", absolute(a.config))
	}
	return command, nil
}

func (a *app) uninstallService(s service.Service, short string) *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: short,
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := s.Uninstall(cmd.Context())
			if err != nil {
				return notHere(err)
			}
			return a.report(serviceState{Service: s.Name}, func(w io.Writer) {
				if found {
					fmt.Fprintf(w, "the service %s is removed\n", s.Name)
				} else {
					fmt.Fprintf(w, "there is no service %s\n", s.Name)
				}
			})
		},
	}
}

// notHere keeps a missing systemctl or the like from passing for a thing that
// was not found.
func notHere(err error) error {
	if exitCode(err) == exitNotFound {
		return errors.New(err.Error())
	}
	return err
}

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

	"prestage/internal/agent"
	"prestage/internal/service"
)

func (a *app) agentCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Install the images of this machine without being asked, as a service",
		Long: `The agent makes sure that each image assigned to this machine has a version in
the image store. It installs those that have none from the pre-stage folder, with
no network needed; what is damaged there comes from the configured server, if there
is one. When no images are assigned, it installs all that are pre-staged.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.agentRunCommand(), a.agentInstallCommand(), a.agentUninstallCommand())
	return cmd
}

func (a *app) agentRunCommand() *cobra.Command {
	var controlled bool
	cmd := &cobra.Command{
		Use:   "run",
		Short: "Run the agent until it is interrupted",
		Long: `What it does is told on standard error, or with --json on standard output, a line
each. It can be interrupted at any moment, and goes on from there.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if controlled {
				return a.runControlled()
			}
			return service.Run(cmd.Context(), a.newAgent(a.serviceLog()).Run)
		},
	}
	cmd.Flags().BoolVar(&controlled, "service", false, "run under the service control manager of Windows, which starts it so")
	return cmd
}

func (a *app) newAgent(log slog.Handler) *agent.Agent { return agent.New(a.host(), slog.New(log)) }

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

// runControlled runs the agent as a service of Windows, which has no console.
func (a *app) runControlled() error {
	return service.RunControlled(func(ctx context.Context, ready func()) error {
		log, err := service.EventLog()
		if err != nil {
			return err
		}
		err = a.newAgent(log).Run(ctx, ready)
		if err != nil {
			slog.New(log).Error(fmt.Sprintf("the agent has given up: %v", err), agent.EventKey, agent.Failed)
		}
		return err
	})
}

// serviceState is what installing and uninstalling print as JSON.
type serviceState struct {
	Service   string `json:"service"`
	Installed bool   `json:"installed"`
	Start     string `json:"start,omitempty"` // auto or demand
	Running   bool   `json:"running"`
}

func (a *app) agentInstallCommand() *cobra.Command {
	var start string
	var hold bool
	cmd := &cobra.Command{
		Use:   "install",
		Short: "Make the agent a service of this machine, and start it",
		Long: `A service that is there already is changed to what is asked for, and started anew.
On Windows it is called Prestage, on Linux prestage.service. A settings file named
with --config is what the service will use.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if start != "auto" && start != "demand" {
				return usageError{fmt.Errorf("--start %q: use auto or demand", start)}
			}
			command, err := a.serviceCommand()
			if err != nil {
				return err
			}
			if err := service.Install(cmd.Context(), service.Config{Command: command, Demand: start == "demand", Hold: hold}); err != nil {
				return notHere(err)
			}
			done := serviceState{service.Name, true, start, !hold}
			return a.report(done, func(w io.Writer) {
				state := "runs"
				if hold {
					state = "is not started"
				}
				fmt.Fprintf(w, "the service %s is installed and %s\n", service.Name, state)
			})
		},
	}
	cmd.Flags().StringVar(&start, "start", "auto", "when the service starts: auto, with the machine, or demand")
	cmd.Flags().BoolVar(&hold, "no-start", false, "do not start it now")
	return cmd
}

// serviceCommand returns the command line that the service is to have.
func (a *app) serviceCommand() ([]string, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if exe, err = filepath.EvalSymlinks(exe); err != nil {
		return nil, err
	}
	command := []string{exe, "agent", "run"}
	if runtime.GOOS == "windows" {
		command = append(command, "--service")
	}
	if a.config != "" {
		command = append(command, "--config", absolute(a.config))
	}
	return command, nil
}

func (a *app) agentUninstallCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "uninstall",
		Short: "Stop the service and remove it; images and packages stay",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := service.Uninstall(cmd.Context())
			if err != nil {
				return notHere(err)
			}
			return a.report(serviceState{Service: service.Name}, func(w io.Writer) {
				if found {
					fmt.Fprintf(w, "the service %s is removed\n", service.Name)
				} else {
					fmt.Fprintf(w, "there is no service %s\n", service.Name)
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

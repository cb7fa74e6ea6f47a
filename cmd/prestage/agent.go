package main

import (
	"context"
	"fmt"
	"log/slog"

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
is one. When no images are assigned, it installs all that are pre-staged.

Every quarter of an hour it asks the server for later versions and for its policy
(prestage policy): it suggests updates (prestage updates) or makes them, pre-stages
versions that are to be released, and tells the server what has happened.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.agentRunCommand(), a.agentPollCommand(), a.agentInstallCommand(), a.agentUninstallCommand())
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

func (a *app) newAgent(log slog.Handler) *agent.Agent {
	ag := agent.New(a.host(), slog.New(log))
	ag.Version = version
	return ag
}

// runControlled runs the agent as a service of Windows, which has no console.
func (a *app) runControlled() error {
	return service.Agent.RunControlled(func(ctx context.Context, ready func()) error {
		log, err := service.Agent.EventLog()
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

func (a *app) agentInstallCommand() *cobra.Command {
	return a.installService(service.Agent, "Make the agent a service of this machine, and start it",
		func(context.Context) ([]string, error) { return []string{"agent", "run"}, nil })
}

func (a *app) agentUninstallCommand() *cobra.Command {
	return a.uninstallService(service.Agent, "Stop the service and remove it; images and packages stay")
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"prestage/internal/agent"
	"prestage/internal/repo"
)

// knownUpdates is what updates reports.
type knownUpdates struct {
	Server  string         `json:"server"`
	Asked   time.Time      `json:"asked,omitzero"` // when the server answered
	Updates []agent.Update `json:"updates"`
}

func (a *app) updatesCommand() *cobra.Command {
	var offline bool
	cmd := &cobra.Command{
		Use:   "updates",
		Short: "List the installed images of which the server has a later version",
		Long: `"prestage update IMAGE" brings a version that is suggested. Those that are forced the
agent brings by itself, when the policy allows. When the server cannot be asked, what
it told the agent last is shown.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			u, err := a.updates(cmd.Context(), offline)
			if err != nil {
				return err
			}
			return a.print(u, func(w io.Writer) { showUpdates(w, u) })
		},
	}
	cmd.Flags().BoolVar(&offline, "offline", false, "do not ask the server")
	return cmd
}

func (a *app) updates(ctx context.Context, offline bool) (*knownUpdates, error) {
	s, err := a.settings()
	if err != nil {
		return nil, err
	}
	store, err := a.store("")
	if err != nil {
		return nil, err
	}
	if s.Server == "" {
		return nil, usageError{fmt.Errorf("this machine has no server; set it in %s", a.keeper())}
	}
	trust, err := s.Trust()
	if err != nil {
		return nil, err
	}
	known := agent.LoadKnown(store.String(), s.Server, trust)
	if !offline {
		r, err := repo.Open(s.Server)
		if err != nil {
			return nil, err
		}
		now, refused, err := known.Ask(ctx, r, trust)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case err != nil && known.Asked.IsZero():
			return nil, err
		case err != nil:
			a.meter.Warn("%v; this is what it said on %s", err, known.Asked.Local().Format("2006-01-02 15:04"))
		default:
			known = now
		}
		if refused != nil {
			a.meter.Warn("%v", refused)
		}
	}
	u := &knownUpdates{Server: s.Server, Asked: known.Asked, Updates: known.Updates(store, hostname(), time.Now())}
	if u.Updates == nil {
		u.Updates = []agent.Update{}
	}
	return u, nil
}

func showUpdates(w io.Writer, u *knownUpdates) {
	if len(u.Updates) == 0 {
		fmt.Fprintln(w, "all that is installed is up to date")
		return
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tINSTALLED\tAVAILABLE\tUPDATE\tWAITS")
	for _, i := range u.Updates {
		fmt.Fprintf(t, "%s\t%d\t%d\t%s\t%s\n", i.Image, i.Installed, i.Available, i.Mode, cmp.Or(i.Waits, "-"))
	}
	t.Flush()
}

func (a *app) agentPollCommand() *cobra.Command {
	var wait time.Duration
	cmd := &cobra.Command{
		Use:   "poll",
		Short: "Have the agent ask its server now, and wait until it has",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := a.settings()
			if err != nil {
				return err
			}
			store, err := a.store("")
			if err != nil {
				return err
			}
			if s.Server == "" {
				return usageError{fmt.Errorf("this machine has no server; set it in %s", a.keeper())}
			}
			trust, err := s.Trust()
			if err != nil {
				return err
			}
			begun := time.Now()
			if err := agent.RequestPoll(store.String()); err != nil {
				return err
			}
			for end := begun.Add(wait); time.Now().Before(end); {
				if k := agent.LoadKnown(store.String(), s.Server, trust); k.Asked.After(begun) {
					u := &knownUpdates{s.Server, k.Asked, k.Updates(store, hostname(), time.Now())}
					return a.report(u, func(w io.Writer) { fmt.Fprintf(w, "the agent has asked %s\n", s.Server) })
				}
				select {
				case <-cmd.Context().Done():
					return cmd.Context().Err()
				case <-time.After(200 * time.Millisecond):
				}
			}
			return fmt.Errorf("the agent has had no answer from %s in %v; \"prestage status\" says whether it runs, its log why", s.Server, wait)
		},
	}
	cmd.Flags().DurationVar(&wait, "wait", 30*time.Second, "how long to wait for the server's answer")
	return cmd
}

func hostname() string {
	name, _ := os.Hostname()
	return name
}

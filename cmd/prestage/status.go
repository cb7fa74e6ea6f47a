package main

import (
	"context"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"prestage/internal/client"
	"prestage/internal/prestage"
	"prestage/internal/repo"
)

func (a *app) statusCommand() *cobra.Command {
	var f fleetFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the pre-stage folder, its rights, and what is staged",
		Long:  `The exit code is 3 when anything is not as the procedure leaves it; "prestage setup" mends folders and rights.`,
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if f.given() {
				return a.statusFleet(cmd.Context(), &f)
			}
			st, err := a.status(cmd.Context())
			if err != nil {
				return err
			}
			if err := a.print(st, func(w io.Writer) { showStatus(w, st) }); err != nil {
				return err
			}
			if !st.OK() {
				return silentError{exitDamaged}
			}
			return nil
		},
	}
	f.add(cmd)
	return cmd
}

// machineStatus is what a machine has: staged, and installed.
type machineStatus struct {
	*prestage.Status
	Installed []installedStatus `json:"installed"`
}

// installedStatus tells how an installed image deviates from what it should be.
type installedStatus struct {
	client.InstalledImage
	Deviations []string `json:"deviations"`
}

// OK reports whether nothing deviates.
func (m *machineStatus) OK() bool {
	ok := m.Status.OK()
	for _, i := range m.Installed {
		ok = ok && len(i.Deviations) == 0
	}
	return ok
}

func (a *app) status(ctx context.Context) (*machineStatus, error) {
	st, err := prestage.GetStatus(ctx, a.host())
	if err != nil {
		return nil, err
	}
	m := &machineStatus{Status: st, Installed: []installedStatus{}}
	if st.VMSFolder == "" {
		return m, nil
	}
	trust, err := a.trust()
	if err != nil {
		return nil, err
	}
	store := client.NewStore(st.VMSFolder)
	installed, problems := store.List()
	for _, p := range problems {
		a.meter.Warn("%v", p)
	}
	for _, i := range installed {
		s := installedStatus{i, []string{}}
		if err := store.CheckTrust(trust, i.Name, i.Version); err != nil {
			s.Deviations = append(s.Deviations, err.Error())
		}
		m.Installed = append(m.Installed, s)
	}
	return m, nil
}

func showStatus(w io.Writer, st *machineStatus) {
	fmt.Fprintf(w, "pre-stage folder  %s\nimage store       %s\n", st.Location, st.VMSFolder)
	deviations := 0
	deviate := func(format string, args ...any) {
		if deviations++; deviations == 1 {
			fmt.Fprintln(w, "\nNot as it should be:")
		}
		fmt.Fprintf(w, "  "+format+"\n", args...)
	}
	if len(st.Packages) == 0 {
		fmt.Fprintln(w, "no packages are staged")
	} else {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\nIMAGE NAME\tVERSION\tFILE SIZE\tIMAGE SIZE\tSEALED\tLAST VERIFIED")
		for _, p := range st.Packages {
			sealed, verified := "no", "never"
			if p.Sealed {
				sealed = "yes"
			}
			if p.Verified != nil {
				verified = p.Verified.Local().Format("2006-01-02 15:04:05")
			}
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\t%s\t%s\n", p.Name, p.Version, size(p.FileSize), size(p.ImageSize), sealed, verified)
		}
		t.Flush()
	}
	if len(st.Installed) > 0 {
		t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, "\nINSTALLED\tVERSION\tIMAGE SIZE\tVERIFIED THEN")
		for _, i := range st.Installed {
			fmt.Fprintf(t, "%s\t%d\t%s\t%s\n", i.Name, i.Version, size(i.Size), i.Verified.Local().Format("2006-01-02 15:04:05"))
		}
		t.Flush()
	}
	for _, u := range st.Unfinished {
		fmt.Fprintf(w, "unfinished: %s, %s so far; push goes on with it, remove --staged removes it\n", u.File, size(u.Size))
	}
	for _, f := range st.Folders {
		for _, d := range f.Deviations {
			deviate("%s: %s", f.Path, d)
		}
	}
	for _, p := range st.Packages {
		for _, d := range p.Deviations {
			deviate("%s: %s", repo.ImageName(p.Name, p.Version), d)
		}
	}
	for _, i := range st.Installed {
		for _, d := range i.Deviations {
			deviate("installed %s: %s", repo.ImageName(i.Name, i.Version), d)
		}
	}
	for _, s := range st.Stray {
		deviate("%s does not belong into the pre-stage folder", s)
	}
}

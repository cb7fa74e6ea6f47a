package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"prestage/internal/agent"
	"prestage/internal/prestage"
	"prestage/internal/service"
)

// installerCommand is what Client.MSI runs. It is hidden: its verbs are steps of
// an installation and make no sense to people.
func (a *app) installerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "installer", Hidden: true, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	step := func(use, short string, do func(ctx context.Context) error) *cobra.Command {
		return &cobra.Command{Use: use, Short: short, Args: exactly(0, "no arguments"),
			RunE: func(cmd *cobra.Command, _ []string) error {
				err := do(cmd.Context())
				if err != nil {
					// Windows Installer tells nothing but that it went wrong.
					a.record(slog.LevelError, fmt.Sprintf("prestage installer %s: %v", cmd.Name(), err))
				}
				return err
			}}
	}
	var start string
	apply := step("apply", "Make folders, rights and service what the settings say", func(ctx context.Context) error {
		return a.installerApply(ctx, start)
	})
	apply.Flags().StringVar(&start, "start", "", `how the service starts: "auto" or "demand" (default as it is)`)
	cmd.AddCommand(apply,
		step("undo", "Take back what apply made, as far as it is empty", a.installerUndo),
		step("remove", "Remove folders and settings, if nothing is staged and nothing installed", a.installerRemove))
	return cmd
}

// record writes to the event log, where there is one.
func (a *app) record(level slog.Level, message string) {
	if log, err := service.Agent.EventLog(); err == nil {
		slog.New(log).Log(context.Background(), level, message)
	}
}

func (a *app) installerApply(ctx context.Context, start string) error {
	if !slices.Contains([]string{"", "auto", "demand"}, start) {
		return usageError{fmt.Errorf(`--start %q: use "auto" or "demand"`, start)}
	}
	h := a.host()
	loc, err := prestage.Setup(ctx, h, "", "")
	if err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	if s.VMSFolder != "" && !h.SameName(s.VMSFolder, loc.Images) {
		if filepath.Base(s.VMSFolder) != prestage.ImagesFolder {
			return fmt.Errorf("the image store (VMSFolder) is %q and must be a folder that is called %q", s.VMSFolder, prestage.ImagesFolder)
		}
		if err := h.MakeFolder(ctx, s.VMSFolder, prestage.ImagesRights(s.ACLProfile)); err != nil {
			return err
		}
	}
	if start != "" {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		// The installation starts it, if it was told to.
		if err := service.Agent.Install(ctx, service.Config{Command: []string{program, "agent", "run", "--service"},
			Demand: start == "demand", Hold: true}); err != nil {
			return err
		}
	}
	return a.showLocation(loc)
}

// installerUndo removes what apply makes beside the folders of the
// installation, which removes those itself where they are its own.
func (a *app) installerUndo(ctx context.Context) error {
	staged, err := prestage.StagedFolder(ctx, a.host())
	if err != nil {
		return err
	}
	return removeEmpty(filepath.Join(staged, prestage.AsideFolder))
}

// installerRemove removes the folders of this machine, and its settings, when
// there is no package and no image in them. Otherwise all stays, so that the
// next installation finds it.
func (a *app) installerRemove(ctx context.Context) error {
	staged, err := prestage.StagedFolder(ctx, a.host())
	if errors.Is(err, prestage.ErrNotSetUp) || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	s, err := a.settings()
	if err != nil {
		return err
	}
	stores := []string{filepath.Dir(staged)}
	if s.VMSFolder != "" && !a.host().SameName(s.VMSFolder, stores[0]) {
		stores = append(stores, s.VMSFolder)
	}
	left, err := contents(staged, prestage.AsideFolder)
	if err != nil {
		return err
	}
	for _, store := range stores {
		own := []string{prestage.PrestagedFolder}
		for _, path := range agent.OwnFiles(store) {
			own = append(own, filepath.Base(path))
		}
		more, err := contents(store, own...)
		if err != nil {
			return err
		}
		left = append(left, more...)
	}
	if len(left) > 0 {
		message := fmt.Sprintf("prestage was removed; packages, images and settings stay: %s", strings.Join(left, ", "))
		a.record(slog.LevelInfo, message)
		fmt.Fprintln(a.out, message)
		return nil
	}
	aside := filepath.Join(staged, prestage.AsideFolder)
	own, err := contents(aside)
	if err != nil {
		return err
	}
	for _, store := range stores {
		own = append(own, agent.OwnFiles(store)...)
	}
	for _, path := range append(own, aside, staged) {
		if err := removeEmpty(path); err != nil {
			return err
		}
	}
	for _, store := range stores {
		if err := removeEmpty(store); err != nil {
			return err
		}
	}
	fmt.Fprintln(a.out, "nothing was staged or installed; the folders are removed")
	return forgetSettings()
}

// contents returns the paths in a folder but for those of the given names. A
// folder that does not exist holds nothing.
func contents(folder string, but ...string) (paths []string, err error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		if !slices.Contains(but, e.Name()) {
			paths = append(paths, filepath.Join(folder, e.Name()))
		}
	}
	return paths, nil
}

// removeEmpty removes a file, or a folder with nothing in it. What is not there,
// and a folder with something in it, is no error.
func removeEmpty(path string) error {
	if left, err := contents(path); err == nil && len(left) > 0 {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

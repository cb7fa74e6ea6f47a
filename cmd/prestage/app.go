package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/time/rate"

	"prestage/ckm"
	"prestage/internal/assemble"
	"prestage/internal/client"
	"prestage/internal/localhost"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/settings"
	"prestage/internal/sign"
)

// Exit codes, part of the command line's contract.
const (
	exitDone     = 0
	exitFailed   = 1
	exitUsage    = 2
	exitDamaged  = 3
	exitNotFound = 4
)

// app is one run of the program: the global flags and where output goes.
type app struct {
	out, err io.Writer
	json     bool
	quiet    bool
	progress string
	config   string

	meter *meter
}

// run runs the command line and returns the exit code.
func run(ctx context.Context, args []string, out, errOut io.Writer) int {
	checked := &checkedWriter{w: out}
	out = checked
	a := &app{out: out, err: errOut}
	root := &cobra.Command{
		Use:   "prestage",
		Short: "Get virtual machine images onto computers before anyone needs them",
		Long: `prestage packs a disk image into two files (CKM and INDEX), puts them into the
pre-stage folder of a machine, checks every byte, locks them down, and installs
the image from there: offline, verified, at disk speed.

IMAGE is NAME, for the latest version, or NAME:N.`,
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
		PersistentPreRunE: func(*cobra.Command, []string) (err error) {
			a.meter, err = newMeter(a)
			return err
		},
	}
	f := root.PersistentFlags()
	f.BoolVar(&a.json, "json", false, "print results as JSON")
	f.BoolVarP(&a.quiet, "quiet", "q", false, "print nothing but errors and what was asked for")
	f.StringVar(&a.progress, "progress", progressAuto, "show progress: auto, plain, json or none")
	f.StringVar(&a.config, "config", os.Getenv("PRESTAGE_CONFIG"), "settings file (default "+settings.Default().String()+")")
	root.AddCommand(a.packCommand(), a.listCommand(), a.inspectCommand(), a.verifyCommand(), a.repairCommand(),
		a.setupCommand(), a.relocateCommand(), a.statusCommand(), a.pushCommand(), a.uploadCommand(), a.installCommand(), a.updateCommand(), a.updatesCommand(),
		a.removeCommand(), a.keyCommand(), a.signCommand(), a.catalogCommand(), a.policyCommand(), a.serveCommand(), a.reportCommand(), a.bundleCommand(), a.agentCommand(), a.installerCommand(), a.versionCommand())
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.SetArgs(args)
	root.SetOut(out)
	root.SetErr(errOut)

	cmd, err := root.ExecuteContextC(ctx)
	if a.meter != nil {
		a.meter.finish()
	}
	if err == nil {
		err = checked.err
	}
	if err == nil {
		return exitDone
	}
	if ctx.Err() != nil {
		err = errors.New("interrupted; run the same command again to go on")
	}
	code := exitCode(err)
	a.complain(err)
	if code == exitUsage && !a.json {
		fmt.Fprintf(errOut, "Run \"%s --help\" for how to use it.\n", cmd.CommandPath())
	}
	return code
}

// complain tells the user of an error.
func (a *app) complain(err error) {
	var said silentError
	switch {
	case errors.As(err, &said):
	case a.json:
		json.NewEncoder(a.err).Encode(map[string]any{"error": err.Error(), "exit_code": exitCode(err)})
	default:
		fmt.Fprintf(a.err, "prestage: %v\n", err)
	}
}

// each does something with every item, also after one has failed: the others
// are not the worse for it. Errors are told at once; the one returned has the
// exit code that matters most.
func each[T any](ctx context.Context, a *app, items []T, do func(T) error) error {
	var failed []int
	for _, item := range items {
		err := do(item)
		if err == nil {
			continue
		}
		if ctx.Err() != nil || len(items) == 1 {
			return err
		}
		a.meter.finish()
		a.complain(err)
		failed = append(failed, exitCode(err))
	}
	for _, code := range []int{exitDamaged, exitFailed, exitUsage, exitNotFound} {
		if slices.Contains(failed, code) {
			return silentError{code}
		}
	}
	return nil
}

// checkedWriter remembers that writing failed: half a list must not pass for
// the whole.
type checkedWriter struct {
	w   io.Writer
	err error
}

func (c *checkedWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	if err != nil && c.err == nil {
		c.err = fmt.Errorf("writing the output: %w", err)
	}
	return n, err
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// silentError ends the program with its code; all has been said.
type silentError struct{ code int }

func (e silentError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

func exitCode(err error) int {
	var usage usageError
	var silent silentError
	switch {
	case errors.As(err, &silent):
		return silent.code
	case errors.As(err, &usage), strings.HasPrefix(err.Error(), "unknown command"):
		return exitUsage
	case errors.Is(err, sign.ErrUntrusted), errors.Is(err, client.ErrOlder), errors.Is(err, client.ErrDamaged), errors.Is(err, prestage.ErrDamaged), errors.Is(err, ckm.ErrFormat),
		errors.Is(err, ckm.ErrMismatch), errors.Is(err, assemble.ErrIncomplete):
		return exitDamaged
	case errors.Is(err, repo.ErrNotFound), errors.Is(err, fs.ErrNotExist), errors.Is(err, prestage.ErrNotSetUp):
		return exitNotFound
	}
	return exitFailed
}

// exactly and atLeast check the number of arguments; what says what they are.
func exactly(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != n {
			return usageError{fmt.Errorf("it takes %s, and %d arguments were given", what, len(args))}
		}
		return nil
	}
}

func atLeast(n int, what string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) < n {
			return usageError{fmt.Errorf("it takes %s", what)}
		}
		return nil
	}
}

// image reads an IMAGE argument.
func image(arg string) (name string, version uint32, err error) {
	name, version, err = repo.ParseImage(arg)
	if err != nil {
		return "", 0, usageError{err}
	}
	return name, version, nil
}

// imageIn reads an IMAGE argument, and finds the latest version in r where it
// names none.
func imageIn(ctx context.Context, r repo.Repository, arg string) (name string, version uint32, err error) {
	name, version, err = image(arg)
	if err != nil || version != 0 {
		return name, version, err
	}
	e, err := repo.Find(ctx, r, name, 0)
	return name, e.Version, err
}

// print writes v as JSON, or calls text otherwise.
func (a *app) print(v any, text func(w io.Writer)) error {
	a.meter.finish()
	if !a.json {
		text(a.out)
		return nil
	}
	e := json.NewEncoder(a.out)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// report is print for what --quiet leaves out.
func (a *app) report(v any, text func(w io.Writer)) error {
	return a.print(v, func(w io.Writer) {
		if !a.quiet {
			text(w)
		}
	})
}

func size[T int64 | uint64 | int](n T) string { return units.BytesSize(float64(n)) }

// keeper returns where this machine's settings are.
func (a *app) keeper() settings.Keeper {
	if a.config != "" {
		return settings.File(a.config)
	}
	return settings.Default()
}

func (a *app) settings() (settings.Settings, error) { return a.keeper().Load() }

// trust returns whose signatures count on this machine.
func (a *app) trust() (sign.Trust, error) {
	s, err := a.settings()
	if err != nil {
		return sign.Trust{}, err
	}
	return s.Trust()
}

// host returns this machine.
func (a *app) host() *localhost.Host { return localhost.New(a.keeper()) }

// images adds the flag --images, and imagesPlace finds what it stands for.
func imagesFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "images", "", "folder or URL of packages (default $PRESTAGE_IMAGES, then the configured server, then ./MEDVImages)")
}

func (a *app) imagesPlace(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	if env := os.Getenv("PRESTAGE_IMAGES"); env != "" {
		return env, nil
	}
	s, err := a.settings()
	if err != nil {
		return "", err
	}
	if s.Server != "" {
		return s.Server, nil
	}
	return "MEDVImages", nil
}

func (a *app) repository(flag string) (repo.Repository, error) {
	place, err := a.imagesPlace(flag)
	if err != nil {
		return nil, err
	}
	return repo.Open(place)
}

// folder is repository where only a folder will do.
func (a *app) folder(flag string) (*repo.Folder, error) {
	r, err := a.repository(flag)
	if err != nil {
		return nil, err
	}
	f, ok := r.(*repo.Folder)
	if !ok {
		return nil, usageError{fmt.Errorf("%s is a server; name a folder with --images", r)}
	}
	return f, nil
}

// limitFlag adds the flag --limit, and limiter reads it.
func limitFlag(cmd *cobra.Command, into *string) {
	cmd.Flags().StringVar(into, "limit", "", "most bytes a second, for instance 20MiB")
}

func limiter(s string) (*rate.Limiter, error) {
	n, err := byteRate("--limit", s)
	return client.Limiter(n), err
}

// byteSize reads a number of bytes.
func byteSize(flag, s string) (int64, error) {
	n, err := units.RAMInBytes(s)
	if err != nil || n <= 0 {
		return 0, usageError{fmt.Errorf("%s %q: use a number of bytes, for instance 500GiB", flag, s)}
	}
	return n, nil
}

// byteRate reads a number of bytes a second; 0, for none, if s is empty.
func byteRate(flag, s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	n, err := units.RAMInBytes(strings.TrimSuffix(s, "/s"))
	if err != nil || n <= 0 {
		return 0, usageError{fmt.Errorf("%s %q: use a number of bytes a second, for instance 20MiB", flag, s)}
	}
	return n, nil
}

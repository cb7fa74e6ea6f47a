package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"prestage/internal/daytime"
	"prestage/internal/policy"
	"prestage/internal/repo"
)

func (a *app) policyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "Say which machines have which images, and how they take new versions",
		Long: `The policy lies beside the packages, in policy.json. Agents ask for it every quarter
of an hour. A machine that has trusted keys acts on a policy that one of them has
signed; others on what comes from a folder or over https://.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.policySetCommand(), a.policyUnsetCommand(), a.policyGroupCommand(), a.policyShowCommand(), a.policySignCommand())
	return cmd
}

// policyFlags are what a rule is changed by.
type policyFlags struct {
	images, key                string
	machines, seedFolders      []string
	update, version, notBefore string
	window, limit, keep, wave  string
	trimTransfer, fromStaged   string
	ahead                      string
}

func (a *app) policySetCommand() *cobra.Command {
	var f policyFlags
	cmd := &cobra.Command{
		Use:   "set IMAGE",
		Short: "Change the policy of an image: what is not named stays as it is",
		Example: `  prestage policy set win11 --machines 'PC-*,@lab' --update suggest
  prestage policy set win11 --version 7 --ahead 8           machines fetch 8 and use 7
  prestage policy set win11 --version 8 --update force --wave 10 --window 22:00-06:00`,
		Args: exactly(1, "one IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changePolicy(cmd.Context(), f.images, f.key, "policy of "+args[0]+" set", func(p *policy.Policy) error {
				r := p.Images[args[0]]
				if err := f.change(cmd, &r); err != nil {
					return err
				}
				p.Images[args[0]] = r
				return nil
			})
		},
	}
	s := cmd.Flags()
	s.StringSliceVar(&f.machines, "machines", nil, "machines that have the image: names, patterns with * and ?, @GROUP")
	s.StringVar(&f.update, "update", "", "what they do about a new version: suggest, force or off")
	s.StringVar(&f.version, "version", "", "the version that is released, or latest")
	s.StringVar(&f.ahead, "ahead", "", "a version that machines pre-stage before it is released, or none")
	s.StringVar(&f.keep, "keep", "", "versions before the new one that stay installed")
	s.StringVar(&f.wave, "wave", "", "per cent of the machines that update, always the same ones for an image; 100 is all")
	s.StringVar(&f.notBefore, "not-before", "", "no machine updates before: 2026-12-01T22:00:00Z, or now")
	s.StringVar(&f.window, "window", "", "machines update in this time of their day: 22:00-06:00, or always")
	s.StringVar(&f.limit, "limit", "", "most bytes a second for each machine, for instance 2MiB, or none")
	s.StringVar(&f.trimTransfer, "trim-transfer", "", "on or off, or image: as the image says")
	s.StringSliceVar(&f.seedFolders, "seed-folders", nil, "folders of the machines whose files may have parts of the image")
	s.StringVar(&f.fromStaged, "update-from-prestaged", "", "on or off, or machine: as the machine's settings say")
	policyPlaceFlags(cmd, &f.images, &f.key)
	return cmd
}

func policyPlaceFlags(cmd *cobra.Command, images, key *string) {
	imagesFlag(cmd, images)
	cmd.Flags().StringVar(key, "key", "", "sign the policy with this secret key")
}

// change changes a rule by the flags that were given.
func (f *policyFlags) change(cmd *cobra.Command, r *policy.Rule) (err error) {
	number := func(s, none string, into *uint32) error {
		if s == none {
			*into = 0
			return nil
		}
		n, err := strconv.ParseUint(s, 10, 31)
		if err != nil || n == 0 {
			return fmt.Errorf("%q is no version; use its number or %s", s, none)
		}
		*into = uint32(n)
		return nil
	}
	three := func(s, none string, into **bool) error {
		on := s == "on"
		switch s {
		case none:
			*into = nil
		case "on", "off":
			*into = &on
		default:
			return fmt.Errorf("%q: use on, off or %s", s, none)
		}
		return nil
	}
	given := false
	for flag, set := range map[string]func() error{
		"machines":     func() error { r.Machines = f.machines; return nil },
		"seed-folders": func() error { r.SeedFolders = f.seedFolders; return nil },
		"update":       func() error { r.Update = policy.Mode(f.update); return nil },
		"version":      func() error { return number(f.version, "latest", &r.Version) },
		"ahead":        func() error { return number(f.ahead, "none", &r.Ahead) },
		"keep": func() error {
			n, err := strconv.Atoi(f.keep)
			r.Keep = &n
			return err
		},
		"wave": func() error {
			if r.Wave, err = strconv.Atoi(strings.TrimSuffix(f.wave, "%")); err == nil && (r.Wave < 1 || r.Wave > 100) {
				err = fmt.Errorf("%q: use a number from 1 to 100", f.wave)
			}
			r.Wave %= 100
			return err
		},
		"not-before": func() error {
			r.NotBefore = nil
			if f.notBefore == "now" {
				return nil
			}
			t, err := time.Parse(time.RFC3339, f.notBefore)
			r.NotBefore = &t
			return err
		},
		"window": func() (err error) {
			r.Window, err = daytime.Parse(strings.TrimPrefix(f.window, "always"))
			return err
		},
		"limit": func() (err error) {
			r.Limit, err = byteRate("--limit", strings.TrimPrefix(f.limit, "none"))
			return err
		},
		"trim-transfer":         func() error { return three(f.trimTransfer, "image", &r.TrimTransfer) },
		"update-from-prestaged": func() error { return three(f.fromStaged, "machine", &r.UpdateFromPrestaged) },
	} {
		if !cmd.Flags().Changed(flag) {
			continue
		}
		given = true
		if err := set(); err != nil {
			return usageError{fmt.Errorf("--%s: %w", flag, err)}
		}
	}
	if !given {
		return usageError{errors.New("say what is to change; \"prestage policy show\" says what there is")}
	}
	// What has come is not ahead any more.
	if r.Ahead <= r.Version {
		r.Ahead = 0
	}
	return nil
}

func (a *app) policyUnsetCommand() *cobra.Command {
	var images, key string
	cmd := &cobra.Command{
		Use:   "unset IMAGE",
		Short: "Take an image out of the policy; machines keep what they have",
		Args:  exactly(1, "one IMAGE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.changePolicy(cmd.Context(), images, key, "policy of "+args[0]+" taken out", func(p *policy.Policy) error {
				if _, ok := p.Images[args[0]]; !ok {
					return fmt.Errorf("%w: the policy says nothing of %s", repo.ErrNotFound, args[0])
				}
				delete(p.Images, args[0])
				return nil
			})
		},
	}
	policyPlaceFlags(cmd, &images, &key)
	return cmd
}

func (a *app) policyGroupCommand() *cobra.Command {
	var images, key string
	cmd := &cobra.Command{
		Use:   "group NAME [MACHINE...]",
		Short: "Say which machines a group has; none takes it out",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{errors.New("name the group")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name := strings.TrimPrefix(args[0], "@")
			return a.changePolicy(cmd.Context(), images, key, "group "+name+" set", func(p *policy.Policy) error {
				if len(args) > 1 {
					p.Groups[name] = args[1:]
				} else {
					delete(p.Groups, name)
				}
				return nil
			})
		},
	}
	policyPlaceFlags(cmd, &images, &key)
	return cmd
}

func (a *app) policySignCommand() *cobra.Command {
	var images, key string
	cmd := &cobra.Command{
		Use:   "sign --key KEY",
		Short: "Sign the policy as it is",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if key == "" {
				return usageError{errors.New("name the secret key with --key")}
			}
			return a.changePolicy(cmd.Context(), images, key, "policy signed", nil)
		},
	}
	policyPlaceFlags(cmd, &images, &key)
	return cmd
}

// changePolicy changes the policy of a folder, or only signs it if change is nil.
func (a *app) changePolicy(ctx context.Context, images, key, done string, change func(*policy.Policy) error) error {
	r, err := a.folder(images)
	if err != nil {
		return err
	}
	when, err := creationTime()
	if err != nil {
		return err
	}
	var p *policy.Policy
	err = r.EditPolicy(ctx, func(before []byte) ([]byte, error) {
		signed := &policy.Signed{}
		p = policy.New()
		if before != nil {
			var err error
			if p, signed, err = policy.Parse(before); err != nil {
				return nil, fmt.Errorf("%s: %w", r.Path(repo.PolicyName), err)
			}
		} else if change == nil {
			return nil, fmt.Errorf("%w: %s has no policy", repo.ErrNotFound, r)
		}
		if change != nil {
			if p.Groups == nil {
				p.Groups = map[string][]string{}
			}
			if p.Images == nil {
				p.Images = map[string]policy.Rule{}
			}
			if err := change(p); err != nil {
				return nil, err
			}
			p.Serial++
			p.Changed = time.Unix(when, 0).UTC()
			encoded, err := p.Encode()
			if err != nil {
				return nil, usageError{err}
			}
			if signed.Signatures != nil && key == "" {
				a.meter.Warn("the policy was signed and is not any more; sign it: prestage policy sign --images %s --key KEY", r)
			}
			if p, signed, err = policy.Parse(encoded); err != nil {
				return nil, err
			}
		}
		if key != "" {
			k, err := openKey(ctx, key)
			if err != nil {
				return nil, err
			}
			if err := signed.Sign(k, p.Serial, when); err != nil {
				return nil, err
			}
		}
		return signed.Encode()
	})
	if err != nil {
		return err
	}
	return a.report(p, func(w io.Writer) { fmt.Fprintf(w, "%s in %s (number %d)\n", done, r, p.Serial) })
}

func (a *app) policyShowCommand() *cobra.Command {
	var images, machine string
	cmd := &cobra.Command{
		Use:   "show",
		Short: "Show the policy, or what it means for a machine",
		Args:  exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			r, err := a.repository(images)
			if err != nil {
				return err
			}
			b, err := repo.Policy(cmd.Context(), r)
			if err != nil {
				return err
			}
			if b == nil {
				return fmt.Errorf("%w: %s has no policy; \"prestage policy set\" makes one", repo.ErrNotFound, r)
			}
			p, _, err := policy.Parse(b)
			if err != nil {
				return fmt.Errorf("%s: %w", r, err)
			}
			if machine != "" {
				p.Images = p.For(machine)
			}
			return a.print(p, func(w io.Writer) { showPolicy(w, p, machine) })
		},
	}
	imagesFlag(cmd, &images)
	cmd.Flags().StringVar(&machine, "machine", "", "show what it means for the machine of this name")
	return cmd
}

func showPolicy(w io.Writer, p *policy.Policy, machine string) {
	fmt.Fprintf(w, "policy %d of %s\n\n", p.Serial, p.Changed.Local().Format("2006-01-02 15:04"))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "IMAGE\tMACHINES\tUPDATE\tVERSION\tAHEAD\tWHEN\tOTHER")
	for _, name := range slices.Sorted(maps.Keys(p.Images)) {
		r := p.Images[name]
		var when, other []string
		if r.Wave > 0 {
			when = append(when, fmt.Sprintf("%d %%", r.Wave))
		}
		if r.NotBefore != nil {
			when = append(when, "from "+r.NotBefore.Local().Format("2006-01-02 15:04"))
		}
		if s := r.Window.String(); s != "" {
			when = append(when, s)
		}
		if machine != "" {
			if why, _ := r.Waits(name, machine, time.Now()); why != "" {
				when = []string{"waits: " + why}
			}
		}
		other = append(other, fmt.Sprintf("keep %d", r.KeepOld()))
		if r.Limit > 0 {
			other = append(other, size(r.Limit)+"/s")
		}
		if r.TrimTransfer != nil && !*r.TrimTransfer {
			other = append(other, "no Trim Transfer")
		}
		if r.UpdateFromPrestaged != nil && *r.UpdateFromPrestaged {
			other = append(other, "updates from pre-stage")
		}
		version := "latest"
		if r.Version > 0 {
			version = strconv.Itoa(int(r.Version))
		}
		ahead := "-"
		if r.Ahead > 0 {
			ahead = strconv.Itoa(int(r.Ahead))
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", name, cmp.Or(strings.Join(r.Machines, " "), "-"), cmp.Or(r.Update, policy.Suggest), version, ahead,
			cmp.Or(strings.Join(when, ", "), "always"), strings.Join(other, ", "))
	}
	t.Flush()
	if machine != "" || len(p.Groups) == 0 {
		return
	}
	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "GROUP\tMACHINES")
	for _, name := range slices.Sorted(maps.Keys(p.Groups)) {
		fmt.Fprintf(t, "@%s\t%s\n", name, strings.Join(p.Groups[name], " "))
	}
	t.Flush()
}

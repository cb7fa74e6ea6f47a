// Package installer builds what administrators install prestage from: Client.MSI
// for Windows, and the resources and signature of the program in it; .deb and
// .rpm packages for Linux. It builds on Linux, with wixl, msitools and the tools
// of tools/go.mod.
package installer

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// MSI describes a Client.MSI to be built.
type MSI struct {
	Version    string    // of prestage
	Arch       string    // "x64" or "x86"
	Program    string    // the prestage.exe for Arch, signed already if it is to be signed
	License    string    // the file LICENSE
	Notices    string    // the file THIRD_PARTY_NOTICES.md
	Completion string    // the PowerShell completion script
	Modified   time.Time // the time to give to all that has one
}

//go:embed client.wxs
var clientWXS []byte

// upgradeCode tells Windows Installer which products are versions of this one:
// it must never change.
const upgradeCode = "52E1A3B0-9C1B-4E0C-8B5E-6D1D3E4F0A71"

// serviceDescription is what the list of services says.
const serviceDescription = "Installs virtual machine images from the pre-stage folder of this machine as soon as they are there."

// Build writes the MSI to the file out. The same inputs give the same bytes.
func (m MSI) Build(ctx context.Context, out string) error {
	product, err := ProductVersion(m.Version)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "prestage-msi-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	all := sha256.New()
	fmt.Fprintln(all, m.Version, m.Arch, m.Modified.Unix())
	put := func(name string, b []byte) error {
		fmt.Fprintf(all, "%s %d\n%s", name, len(b), b)
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o644); err != nil {
			return err
		}
		return os.Chtimes(path, m.Modified, m.Modified)
	}
	for _, f := range [][2]string{{"prestage.exe", m.Program}, {"LICENSE.txt", m.License},
		{"THIRD_PARTY_NOTICES.txt", m.Notices}, {"prestage-completion.ps1", m.Completion}} {
		b, err := os.ReadFile(f[1])
		if err != nil {
			return err
		}
		if err := put(f[0], b); err != nil {
			return err
		}
	}
	if err := put("client.wxs", clientWXS); err != nil {
		return err
	}
	tables := tables(m.Arch, product)
	for _, t := range tables {
		if err := put(t.name+".idt", []byte(t.idt())); err != nil {
			return err
		}
	}
	queries := queries(m.Arch, product)
	fmt.Fprintln(all, queries)
	// Two files that differ in anything are two products to Windows Installer;
	// an upgrade leads from each to each of the same or a later version.
	digest := fmt.Sprintf("%x", all.Sum(nil))

	args, err := m.wixlArgs(product, guid("product "+digest))
	if err != nil {
		return err
	}
	if err := run(ctx, dir, "wixl", args...); err != nil {
		return err
	}
	for _, q := range queries {
		if err := run(ctx, dir, "msibuild", "client.msi", "-q", q); err != nil {
			return fmt.Errorf("%w, in %s", err, q)
		}
	}
	for _, t := range tables {
		if err := run(ctx, dir, "msibuild", "client.msi", "-i", t.name+".idt"); err != nil {
			return err
		}
	}
	if err := run(ctx, dir, "msibuild", "client.msi", "-s", "prestage "+m.Version+", MED-V image pre-staging", "The prestage project",
		template(m.Arch), "{"+guid("package "+digest)+"}"); err != nil {
		return err
	}
	b, err := os.ReadFile(filepath.Join(dir, "client.msi"))
	if err != nil {
		return err
	}
	if err := setTimes(b, m.Modified); err != nil {
		return err
	}
	return os.WriteFile(out, b, 0o644)
}

func template(arch string) string {
	if arch == "x64" {
		return "x64;1033"
	}
	return "Intel;1033"
}

// wixlArgs returns the command line for wixl.
func (m MSI) wixlArgs(productVersion, productCode string) ([]string, error) {
	vars := map[string]string{
		"PRODUCTCODE": productCode, "UPGRADECODE": upgradeCode, "PRODUCTVERSION": productVersion,
		"SERVICEDESCRIPTION": serviceDescription,
	}
	switch m.Arch {
	case "x64":
		vars["WIN64"], vars["PROGRAMFILES"], vars["SYSTEMFOLDER"] = "yes", "ProgramFiles64Folder", "System64Folder"
	case "x86":
		vars["WIN64"], vars["PROGRAMFILES"], vars["SYSTEMFOLDER"] = "no", "ProgramFilesFolder", "SystemFolder"
	default:
		return nil, fmt.Errorf("an MSI for %q: only x64 and x86 are built", m.Arch)
	}
	for _, c := range components {
		// A component is one thing on one kind of Windows, in all versions.
		vars["GUID_"+c.name] = guid("component " + m.Arch + " " + c.name)
	}
	args := []string{"--arch", m.Arch, "--output", "client.msi"}
	names := make([]string, 0, len(vars))
	for name := range vars {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		args = append(args, "-D", name+"="+vars[name])
	}
	return append(args, "client.wxs"), nil
}

// run runs a program that must have nothing to say on its standard error: wixl
// complains there of what it leaves out, and succeeds.
func run(ctx context.Context, dir, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = dir
	var complaints strings.Builder
	cmd.Stdout, cmd.Stderr = &complaints, &complaints
	err := cmd.Run()
	switch {
	case errors.Is(err, exec.ErrNotFound):
		return fmt.Errorf("%w; install the Debian packages wixl and msitools", err)
	case err != nil:
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(complaints.String()))
	case complaints.Len() > 0:
		return fmt.Errorf("%s left something out: %s", program, strings.TrimSpace(complaints.String()))
	}
	return nil
}

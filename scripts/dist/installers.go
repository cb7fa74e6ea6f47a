package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"prestage/installer"
)

// msiArch is how Windows Installer calls the platforms that it has packages for.
var msiArch = map[string]string{"amd64": "x64", "386": "x86"}

// completions writes the completion scripts, by the program itself, to a folder.
func completions() (dir string, err error) {
	if dir, err = os.MkdirTemp("", "prestage-completions-*"); err != nil {
		return "", err
	}
	for _, shell := range []string{"bash", "fish", "powershell", "zsh"} {
		cmd := exec.Command("go", "run", "-buildvcs=false", "./cmd/prestage", "completion", shell)
		cmd.Stderr = os.Stderr
		script, err := cmd.Output()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, shell), script, 0o644)
		}
		if err != nil {
			os.RemoveAll(dir)
			return "", fmt.Errorf("completion for %s: %w", shell, err)
		}
	}
	return dir, nil
}

// finishWindows gives a Windows program its resources and its signature.
func finishWindows(exe, version string) error {
	if err := installer.SetResources(context.Background(), exe, version); err != nil {
		return err
	}
	return installer.Sign(context.Background(), os.Getenv(installer.SignVariable), exe)
}

// msi builds Client.MSI, and a copy whose name says what it is.
func (b builder) msi(exe, arch string) error {
	dir := filepath.Join(b.out, arch)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	out := filepath.Join(dir, "Client.MSI")
	m := installer.MSI{Version: b.version, Arch: arch, Program: exe, License: "LICENSE", Notices: "THIRD_PARTY_NOTICES.md",
		Completion: filepath.Join(b.completions, "powershell"), Modified: b.modified}
	if err := m.Build(context.Background(), out); err != nil {
		return fmt.Errorf("building %s: %w", out, err)
	}
	if err := installer.Sign(context.Background(), os.Getenv(installer.SignVariable), out); err != nil {
		return err
	}
	// "prestage bundle" looks for the program beside the installer.
	program, err := os.ReadFile(exe)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "prestage.exe"), program, 0o755)
	}
	if err != nil {
		return err
	}
	msi, err := os.ReadFile(out)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.out, fmt.Sprintf("Client-%s-%s.msi", b.version, arch)), msi, 0o644)
}

// linux builds the packages for one platform.
func (b builder) linux(binary, goarch, out string) error {
	scripts := map[string]string{}
	for _, shell := range []string{"bash", "fish", "zsh"} {
		scripts[shell] = filepath.Join(b.completions, shell)
	}
	return installer.Linux{Version: b.version, Arch: goarch, Program: binary, License: "LICENSE",
		Documents:   []string{"README.md", "CHANGELOG.md", "THIRD_PARTY_NOTICES.md"},
		Completions: scripts, Modified: b.modified}.Build(context.Background(), out)
}

package installer

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

//go:embed prestage.manifest
var manifest []byte

// SetResources gives a Windows program its manifest, and the version that
// Explorer shows and Windows Installer compares.
func SetResources(ctx context.Context, exe, version string) error {
	product, err := ProductVersion(version)
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "prestage-resources-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "prestage.manifest"), manifest, 0o644); err != nil {
		return err
	}
	type object = map[string]any
	description, err := json.Marshal(object{
		"RT_MANIFEST": object{"#1": object{"0409": "prestage.manifest"}},
		"RT_VERSION": object{"#1": object{"0000": object{
			"fixed": object{"file_version": product + ".0", "product_version": product + ".0"},
			"info": object{"0409": object{
				"CompanyName": "The prestage project", "FileDescription": "MED-V image pre-staging", "FileVersion": product,
				"InternalName": "prestage", "LegalCopyright": "Apache License 2.0", "OriginalFilename": "prestage.exe",
				"ProductName": "prestage", "ProductVersion": version,
			}},
		}}},
	})
	if err != nil {
		return err
	}
	winres := filepath.Join(dir, "winres.json")
	if err := os.WriteFile(winres, description, 0o644); err != nil {
		return err
	}
	if exe, err = filepath.Abs(exe); err != nil {
		return err
	}
	return runTool(ctx, "go-winres", "patch", "--no-backup", "--in", winres, exe)
}

// runTool runs one of the tools that tools/go.mod pins.
func runTool(ctx context.Context, name string, args ...string) error {
	mod, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return fmt.Errorf("finding tools/go.mod: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(mod)))
	cmd := exec.CommandContext(ctx, "go", append([]string{"tool", "-modfile=tools/go.mod", name}, args...)...)
	cmd.Dir = root
	// Whatever is being built, the tool is for this machine.
	cmd.Env = append(os.Environ(), "GOOS=", "GOARCH=")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(string(out)))
	}
	return nil
}

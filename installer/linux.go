package installer

import (
	"context"
	"embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"prestage/internal/service"
)

// Linux describes the packages of a Linux distribution that are to be built.
type Linux struct {
	Version     string // of prestage
	Arch        string // as Go calls it: "amd64" or "arm64"
	Program     string // the prestage for Arch
	License     string // the file LICENSE
	Documents   []string
	Completions map[string]string // by shell, the files with their completion scripts
	Modified    time.Time         // the time to give to all that has one
}

// programPath is where packages have the program.
const programPath = "/usr/bin/prestage"

//go:embed linux
var linuxFiles embed.FS

// completionPaths are where shells look for completion scripts.
var completionPaths = map[string]string{
	"bash": "/usr/share/bash-completion/completions/prestage",
	"zsh":  "/usr/share/zsh/site-functions/_prestage",
	"fish": "/usr/share/fish/vendor_completions.d/prestage.fish",
}

var plainVersion = regexp.MustCompile(`^v?\d+(\.\d+)*`)

// Build writes the packages "deb" and "rpm" as files out.deb and out.rpm. The
// same inputs give the same bytes.
func (l Linux) Build(ctx context.Context, out string) error {
	dir, err := os.MkdirTemp("", "prestage-linux-*")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	for _, name := range []string{"prestage.toml", "postinst.sh", "prerm.sh", "postrm.sh"} {
		b, err := linuxFiles.ReadFile("linux/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			return err
		}
	}
	unit, err := service.Agent.Unit([]string{programPath, "agent", "run"})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "prestage.service"), []byte(unit), 0o644); err != nil {
		return err
	}

	type object = map[string]any
	var contents []object
	var failed error
	add := func(from, to, typ string, mode os.FileMode) {
		from, err := filepath.Abs(from)
		if err != nil {
			failed = err
		}
		contents = append(contents, object{"src": from, "dst": to, "type": typ,
			"file_info": object{"mode": mode, "mtime": l.Modified.UTC().Format(time.RFC3339), "owner": "root", "group": "root"}})
	}
	add(l.Program, programPath, "", 0o755)
	add(filepath.Join(dir, "prestage.service"), "/usr/lib/systemd/system/"+service.Agent.UnitName, "", 0o644)
	// What the administrator has changed in it stays as it is.
	add(filepath.Join(dir, "prestage.toml"), "/etc/prestage/prestage.toml", "config|noreplace", 0o644)
	add(l.License, "/usr/share/doc/prestage/copyright", "", 0o644)
	for _, d := range l.Documents {
		add(d, "/usr/share/doc/prestage/"+filepath.Base(d), "", 0o644)
	}
	for shell, file := range l.Completions {
		to, known := completionPaths[shell]
		if !known {
			return fmt.Errorf("where the completion for %s goes is not known", shell)
		}
		add(file, to, "", 0o644)
	}
	if failed != nil {
		return failed
	}
	version := l.Version
	if !plainVersion.MatchString(version) {
		version = "0.0.0+" + version // a tree without a tag
	}
	script := func(name string) string { return filepath.Join(dir, name) }
	config, err := json.Marshal(object{ // which is YAML, too
		"name": "prestage", "arch": l.Arch, "platform": "linux", "version": strings.TrimPrefix(version, "v"), "section": "admin",
		"maintainer": "The prestage project <prestage@localhost>", "license": "Apache-2.0", "mtime": l.Modified.UTC().Format(time.RFC3339),
		"description": "Gets virtual machine images onto computers before anyone needs them\n" +
			"Packs disk images into two files, puts them into the pre-stage folder of a\n" +
			"machine, checks every byte, and installs them from there.",
		"contents": contents,
		"scripts":  object{"postinstall": script("postinst.sh"), "preremove": script("prerm.sh"), "postremove": script("postrm.sh")},
		"rpm":      object{"buildhost": "prestage"},
	})
	if err != nil {
		return err
	}
	configFile := filepath.Join(dir, "nfpm.yaml")
	if err := os.WriteFile(configFile, config, 0o644); err != nil {
		return err
	}
	if out, err = filepath.Abs(out); err != nil {
		return err
	}
	for _, kind := range []string{"deb", "rpm"} {
		if err := runTool(ctx, "nfpm", "package", "--config", configFile, "--packager", kind, "--target", out+"."+kind); err != nil {
			return err
		}
	}
	return nil
}

//go:build linux

package installer

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/service"
	"prestage/internal/testenv"
)

// packages builds the two packages and returns their names without the ends.
func packages(t *testing.T, version string) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"prestage", "completion"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\necho "+version+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	completion := filepath.Join(dir, "completion")
	l := Linux{Version: version, Arch: "amd64", Program: filepath.Join(dir, "prestage"), License: "../LICENSE",
		Documents:   []string{"../README.md", "../THIRD_PARTY_NOTICES.md"},
		Completions: map[string]string{"bash": completion, "zsh": completion, "fish": completion}, Modified: modified}
	out := filepath.Join(dir, "out")
	if err := l.Build(t.Context(), out); err != nil {
		t.Fatal(err)
	}
	again := filepath.Join(dir, "again")
	if err := l.Build(t.Context(), again); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{".deb", ".rpm"} {
		a, err := os.ReadFile(out + kind)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.ReadFile(again + kind); err != nil || string(a) != string(b) {
			t.Errorf("two builds of the %s differ (%v)", kind, err)
		}
	}
	return out
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	testenv.Need(t, program)
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
	return string(out)
}

var packaged = []string{"/usr/bin/prestage", "/usr/lib/systemd/system/prestage.service", "/etc/prestage/prestage.toml",
	"/usr/share/doc/prestage/copyright", "/usr/share/doc/prestage/THIRD_PARTY_NOTICES.md",
	"/usr/share/bash-completion/completions/prestage"}

// A real dpkg installs, upgrades and removes it, in a root of its own.
func TestDeb(t *testing.T) {
	testenv.NeedRoot(t)
	first, second := packages(t, "1.0.0")+".deb", packages(t, "1.1.0-3-gabcdef0")+".deb"
	info := output(t, "dpkg-deb", "-I", first)
	for _, want := range []string{"Package: prestage", "Version: 1.0.0\n", "Architecture: amd64", "Section: admin"} {
		if !strings.Contains(info, want) {
			t.Errorf("%q is not in\n%s", want, info)
		}
	}
	list := output(t, "dpkg-deb", "-c", first)
	for _, path := range packaged {
		if !strings.Contains(list, " ."+path+"\n") {
			t.Errorf("%s is not in\n%s", path, list)
		}
	}
	root := t.TempDir()
	for _, dir := range []string{"var/lib/dpkg/info", "var/lib/dpkg/updates"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg := func(args ...string) {
		t.Helper()
		// The scripts run where there is no systemd: outside of the root, which has no shell.
		output(t, "dpkg", append([]string{"--root=" + root, "--force-script-chrootless", "--force-confold"}, args...)...)
	}
	dpkg("-i", first)
	unit, err := os.ReadFile(filepath.Join(root, "usr/lib/systemd/system/prestage.service"))
	if err != nil {
		t.Fatal(err)
	}
	if want, err := service.Agent.Unit([]string{"/usr/bin/prestage", "agent", "run"}); err != nil || string(unit) != want {
		t.Errorf("the unit is\n%s (%v)", unit, err)
	}
	if st, err := os.Stat(filepath.Join(root, "usr/bin/prestage")); err != nil || st.Mode().Perm() != 0o755 {
		t.Errorf("the program: %v, %v", st, err)
	}
	config := filepath.Join(root, "etc/prestage/prestage.toml")
	if err := os.WriteFile(config, []byte("server = \"http://mine/\"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	dpkg("-i", second)
	if b, err := os.ReadFile(filepath.Join(root, "usr/bin/prestage")); err != nil || !strings.Contains(string(b), "1.1.0-3") {
		t.Errorf("after the upgrade the program is %q, %v", b, err)
	}
	dpkg("-r", "prestage")
	if b, err := os.ReadFile(config); err != nil || string(b) != "server = \"http://mine/\"\n" {
		t.Errorf("after removal, the settings are %q, %v", b, err)
	}
	if _, err := os.Stat(filepath.Join(root, "usr/bin/prestage")); err == nil {
		t.Error("the program is still there")
	}
}

func TestRPM(t *testing.T) {
	rpm := packages(t, "1.0.0") + ".rpm"
	list := output(t, "rpm", "-qlp", rpm)
	for _, path := range packaged {
		if !strings.Contains(list, path+"\n") {
			t.Errorf("%s is not in\n%s", path, list)
		}
	}
	if got := output(t, "rpm", "-qcp", rpm); strings.TrimSpace(got) != "/etc/prestage/prestage.toml" {
		t.Errorf("configuration files: %s", got)
	}
	if got := output(t, "rpm", "-qp", "--qf", "%{NAME} %{VERSION} %{ARCH} %{LICENSE}", rpm); got != "prestage 1.0.0 x86_64 Apache-2.0" {
		t.Errorf("rpm says %s", got)
	}
}

//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/testenv"
	"prestage/internal/winetest"
)

// medium makes a bundle with the image win11, as it is written on Linux, around
// the real program for Windows, in a folder whose name is as bad as names get.
// Its Client.MSI is none that Windows Installer would take.
func medium(t *testing.T) (dir string) {
	t.Helper()
	work := t.TempDir()
	at := func(name string) string { return filepath.Join(work, name) }
	for name, content := range map[string][]byte{
		"Client.MSI": []byte("\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1 and no more"),
		"disk.img":   testenv.Text(1, 600<<10),
	} {
		if err := os.WriteFile(at(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(at("My Stick"), 0o755); err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(at("My Stick"), "R&D (100 ^ off)")
	for _, args := range [][]string{
		{"pack", at("disk.img"), "--name", "win11", "--images", at("images")},
		{"bundle", "--out", dir, "--image", "win11", "--images", at("images"), "--client", at("Client.MSI"),
			"--program", winetest.Build(t, "winedacl"), "--server", "http://images.example:8080", "--vmsfolder", `C:\data\MED-V Images`},
	} {
		var out bytes.Buffer
		if code := run(t.Context(), args, &out, &out); code != exitDone {
			t.Fatalf("prestage %s: exit code %d\n%s", args[0], code, &out)
		}
	}
	return dir
}

// TestStartOnWindows runs start.cmd of a deployment package in Windows' command
// interpreter: nothing changes unless every file is right, and an administrator
// runs it.
func TestStartOnWindows(t *testing.T) {
	p := winetest.New(t)
	dir := medium(t)
	data := p.Unix(`C:\data`)
	start := func(env ...string) winetest.Result {
		t.Helper()
		return p.Run(t, winetest.Command{Args: []string{"cmd"}, Line: `/s /c ""` + p.Windows(filepath.Join(dir, "start.cmd")) + `""`, Env: env})
	}
	reg := func(args ...string) winetest.Result {
		t.Helper()
		return p.Run(t, winetest.Command{Args: append([]string{"reg"}, args...)})
	}
	// The tests of this package share one Windows: what this one makes goes.
	const kidaro = `HKLM\SOFTWARE\WOW6432Node\Kidaro`
	clear := func() {
		reg("delete", kidaro, "/f")
		reg("delete", `HKU\S-1-5-19`, "/f")
		if err := os.RemoveAll(data); err != nil {
			t.Error(err)
		}
	}
	clear()
	t.Cleanup(clear)
	refused := func(what string, r winetest.Result, code int, says ...string) {
		t.Helper()
		if r.Code != code {
			t.Errorf("%s: exit code %d expected: %v", what, code, r)
		}
		for _, s := range append(says, "STOPPED: ") {
			if !strings.Contains(r.Stdout, s) {
				t.Errorf("%s: it does not say %q: %v", what, s, r)
			}
		}
		if exists(data) || reg("query", kidaro).Code == 0 {
			t.Errorf("%s: something was changed all the same: %v", what, r)
		}
		if strings.Contains(r.Stdout, "Installing") {
			t.Errorf("%s: the client was to be installed: %v", what, r)
		}
	}

	// Wine has no such key, as if nobody could read it. An administrator can.
	refused("without rights", start(), 740, "must be run as an administrator")
	if r := reg("add", `HKU\S-1-5-19`, "/f"); r.Code != 0 {
		t.Fatal(r)
	}

	ckm := filepath.Join(dir, "MEDVImages", "win11_1.ckm")
	good, err := os.ReadFile(ckm)
	if err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	bad := bytes.Clone(good)
	bad[len(bad)/2] ^= 1
	put("MEDVImages/win11_1.ckm", bad)
	refused("a damaged package", start(), exitDamaged, "MEDVImages/win11_1.ckm: ", "its bytes are not those of the manifest", "Install nothing from it")
	put("MEDVImages/win11_1.ckm", good)

	put("helper.dll", []byte("MZ"))
	refused("a file that does not belong", start(), exitDamaged, "helper.dll: ", "it does not belong to the bundle")
	if err := os.Remove(filepath.Join(dir, "helper.dll")); err != nil {
		t.Fatal(err)
	}

	installer, err := os.ReadFile(filepath.Join(dir, "Client.MSI"))
	if err != nil {
		t.Fatal(err)
	}
	put("Client.MSI", append(bytes.Clone(installer), 0))
	refused("another installer", start(), exitDamaged, "Client.MSI: ", "bytes and should have")
	put("Client.MSI", installer)

	manifest, err := os.ReadFile(filepath.Join(dir, "bundle.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "bundle.json")); err != nil {
		t.Fatal(err)
	}
	refused("no manifest", start(), exitNotFound)
	put("bundle.json", manifest)

	// A program that does not run cannot have checked anything.
	program := filepath.Join(dir, "prestage.exe")
	if err := os.Rename(program, program+".away"); err != nil {
		t.Fatal(err)
	}
	if r := start(); r.Code == 0 || r.Code == 3010 || strings.Contains(r.Stdout, "Installing") || exists(data) {
		t.Errorf("without a program, start.cmd went on: %v", r)
	}
	if err := os.Rename(program+".away", program); err != nil {
		t.Fatal(err)
	}

	refused("no place for the log", start(`TEMP=C:\no\such\folder`), 1)

	// All is right: the package is staged. Windows Installer then refuses what
	// is no package of its own, and start.cmd returns what it says.
	r := start()
	if r.Code == 0 || r.Code == 3010 || r.Code == 740 || !strings.Contains(r.Stdout, "Installing the client") ||
		!strings.Contains(r.Stdout, fmt.Sprintf("STOPPED: msiexec failed with code %d.", r.Code)) || !strings.Contains(r.Stdout, "prestage-client.log") {
		t.Errorf("with an installer that is none: %v", r)
	}
	staged, err := os.ReadFile(filepath.Join(data, "MED-V Images", "PrestagedImages", "win11_1.ckm"))
	if err != nil || !bytes.Equal(staged, good) {
		t.Errorf("the package is not staged: %v, %v", err, r)
	}
	if q := reg("query", kidaro, "/v", "PrestagedImagesPath"); !strings.Contains(q.Stdout, `C:\data\MED-V Images\PrestagedImages`) {
		t.Errorf("the location is not recorded: %v", q)
	}
}

// TestBundleOnWindows writes a deployment package on Windows, around the program
// itself, and checks it on both systems.
func TestBundleOnWindows(t *testing.T) {
	p := winetest.New(t)
	from := medium(t)
	exe, out := winetest.Build(t, "winedacl"), filepath.Join(t.TempDir(), "my stick")
	if err := os.Mkdir(out, 0o755); err != nil {
		t.Fatal(err)
	}
	prestage := func(args ...string) winetest.Result {
		t.Helper()
		return p.Run(t, winetest.Command{Args: append([]string{exe}, args...)})
	}
	write := []string{"bundle", "--image", "win11", "--images", p.Windows(filepath.Join(from, "MEDVImages")),
		"--client", p.Windows(filepath.Join(from, "Client.MSI")), "--out"}
	if r := prestage(append(write, p.Windows(filepath.Join(out, "medv")))...); r.Code != exitDone {
		t.Fatal(r)
	}
	if r := prestage("verify", p.Windows(filepath.Join(out, "medv"))); r.Code != exitDone || !strings.Contains(r.Stdout, "ok ") {
		t.Error(r)
	}
	var said bytes.Buffer
	if code := run(t.Context(), []string{"verify", filepath.Join(out, "medv")}, &said, &said); code != exitDone {
		t.Errorf("checked on Linux: exit code %d\n%s", code, &said)
	}
	self, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if copied, err := os.ReadFile(filepath.Join(out, "medv", "prestage.exe")); err != nil || !bytes.Equal(copied, self) {
		t.Errorf("prestage.exe is not the program that wrote the bundle: %v", err)
	}

	// Neither what is there, nor a drive itself, nor a damaged package.
	if r := prestage(append(write, p.Windows(filepath.Join(out, "medv")))...); r.Code != exitFailed || !strings.Contains(r.Stderr, "not empty") {
		t.Error(r)
	}
	if r := prestage(append(write, `C:\`)...); r.Code != exitFailed || !strings.Contains(r.Stderr, "root of a file system") {
		t.Error(r)
	}
	if r := prestage(append(write, p.Windows(filepath.Join(out, "small")), "--medium", "1MB")...); r.Code != exitFailed || !strings.Contains(r.Stderr, "three quarters") {
		t.Error(r)
	}
	ckm := filepath.Join(from, "MEDVImages", "win11_1.ckm")
	b, err := os.ReadFile(ckm)
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(ckm, b, 0o644); err != nil {
		t.Fatal(err)
	}
	if r := prestage(append(write, p.Windows(filepath.Join(out, "bad")))...); r.Code != exitDamaged {
		t.Error(r)
	}
	entries, err := os.ReadDir(out)
	if err != nil || len(entries) != 1 {
		t.Errorf("left beside the bundle: %v, %v", entries, err)
	}
}

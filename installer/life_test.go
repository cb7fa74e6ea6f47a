//go:build linux

package installer

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"prestage/internal/sign"
	"prestage/internal/testenv"
	"prestage/internal/winetest"
)

func TestInstallWithEveryProperty(t *testing.T) {
	m := newMachine(t)
	if err := os.Mkdir(m.Unix(`C:\data`), 0o755); err != nil {
		t.Fatal(err)
	}
	msi := build(t, "1.0.0", "x64")
	k, err := sign.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	key := k.PublicLine()
	m.must("/i", msi, `INSTALLDIR="C:\data\The Program" VMSFOLDER="C:\data\MED-V Images\" SERVER_ADDRESS=medv01 SERVER_PORT=8080 SERVER_SSL=1 TRUSTED_KEY=`+key+` `+
		`START_AUTOMATICALLY=1 START_MEDV=0 DESKTOP_SHORTCUT=0 MINIMAL_RAM_REQUIRED=1 SKIP_OS_CHECK=1 INSTALL_ADMIN_TOOLS=1`)
	m.is("PrestagedImagesPath", `REG_SZ C:\data\MED-V Images\PrestagedImages`, "VMSFolder", `REG_SZ C:\data\MED-V Images\`,
		"ServerAddress", "REG_SZ medv01", "ServerPort", "REG_DWORD 0x1f90", "ServerSsl", "REG_DWORD 0x1", "TrustedKeys", "REG_SZ "+key, "InstallDir", `REG_SZ C:\data\The Program\`)
	m.there(`C:\data\The Program\prestage.exe`, `C:\data\The Program\prestage-completion.ps1`, `C:\data\MED-V Images\PrestagedImages\.prestage`)
	m.gone(store, exe)
	if len(m.shortcuts()) != 0 {
		t.Errorf("shortcuts: %v", m.shortcuts())
	}
	if got := m.service(); got != "stopped auto" {
		t.Errorf("the service is %s", got)
	}
	const environment = `SYSTEM\CurrentControlSet\Control\Session Manager\Environment`
	if got := m.value(environment, "PATH", "64"); !strings.Contains(got, `C:\data\The Program`) {
		t.Errorf("PATH is %s", got)
	}
	m.must("/x", msi, "")
	if got := m.value(environment, "PATH", "64"); strings.Contains(got, "The Program") {
		t.Errorf("PATH is still %s", got)
	}
	m.gone(`C:\data\The Program`, `C:\data\MED-V Images`)
	m.is("PrestagedImagesPath", "", "VMSFolder", "", "ServerAddress", "", "ServerPort", "", "ServerSsl", "", "TrustedKeys", "")
}

// Row S9 and the order of things: what was configured before is kept.
func TestS9SettingsThatAreThereAreKept(t *testing.T) {
	const elsewhere = `C:\data\MED-V Images\PrestagedImages`
	msi := build(t, "1.0.0", "x64")
	for name, key := range map[string]string{"canonical": `SOFTWARE\Kidaro`, "literal": `SOFTWARE`} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			if err := os.Mkdir(m.Unix(`C:\data`), 0o755); err != nil {
				t.Fatal(err)
			}
			m.setValue(key, "PrestagedImagesPath", "REG_SZ", elsewhere)
			m.setValue(`SOFTWARE\Kidaro`, "ServerPort", "REG_DWORD", "81")
			m.setValue(`SOFTWARE\Kidaro`, "AclProfile", "REG_SZ", "strict")
			m.must("/i", msi, `VMSFOLDER="C:\MED-V Images" SERVER_SSL=1`)
			m.is("PrestagedImagesPath", "REG_SZ "+elsewhere, "VMSFolder", "REG_SZ "+store+`\`, "ServerPort", "REG_DWORD 0x51",
				"ServerSsl", "REG_DWORD 0x1", "AclProfile", "REG_SZ strict")
			if got := m.value(key, "PrestagedImagesPath", "32"); got != "REG_SZ "+elsewhere {
				t.Errorf("%s holds %q", key, got)
			}
			m.there(elsewhere, store)
			m.gone(staged)
		})
	}
}

func TestUpgradeRepairAndDowngrade(t *testing.T) {
	m := newMachine(t)
	if err := os.Mkdir(m.Unix(`C:\data`), 0o755); err != nil {
		t.Fatal(err)
	}
	older, newer := build(t, "1.0.0", "x64"), build(t, "1.1.0", "x64")
	m.must("/i", older, `VMSFOLDER="C:\data\MED-V Images" SERVER_ADDRESS=medv01 SERVER_PORT=8080 START_AUTOMATICALLY=1 DESKTOP_SHORTCUT=0 INSTALL_ADMIN_TOOLS=1`)
	m.setValue(`SOFTWARE\Kidaro`, "Images", "REG_MULTI_SZ", "win11")
	kept := m.Unix(`C:\data\MED-V Images\PrestagedImages\win11_1.ckm`)
	if err := os.WriteFile(kept, []byte("not whole yet"), 0o644); err != nil {
		t.Fatal(err)
	}
	check := func(when string) {
		t.Helper()
		m.is("PrestagedImagesPath", `REG_SZ C:\data\MED-V Images\PrestagedImages`, "VMSFolder", `REG_SZ C:\data\MED-V Images\`,
			"ServerAddress", "REG_SZ medv01", "ServerPort", "REG_DWORD 0x1f90", "Images", "REG_MULTI_SZ win11")
		if got := m.service(); got != "running auto" {
			t.Errorf("%s, the service is %s", when, got)
		}
		if len(m.shortcuts()) != 0 {
			t.Errorf("%s, there are shortcuts: %v", when, m.shortcuts())
		}
		m.there(exe, `C:\Program Files\Prestage\prestage-completion.ps1`, `C:\data\MED-V Images\PrestagedImages\.prestage`)
		m.gone(store)
		if b, err := os.ReadFile(kept); err != nil || string(b) != "not whole yet" {
			t.Errorf("%s: %q, %v", when, b, err)
		}
		if p := m.products(); len(p) != 1 {
			t.Errorf("%s, these are installed: %v", when, p)
		}
	}
	check("after the installation")
	m.must("/i", newer, "")
	check("after the upgrade")

	before := m.products()
	m.refused(older, "", "A newer version of prestage is installed")
	check("after the refused downgrade")
	if after := m.products(); len(before) != 1 || len(after) != 1 || before[0] != after[0] {
		t.Errorf("%v became %v", before, after)
	}

	// Repair mends what somebody has broken.
	m.run("net", "stop", "Prestage")
	whole, err := os.ReadFile(m.Unix(exe))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{exe, `C:\data\MED-V Images\PrestagedImages\.prestage`} {
		if err := os.RemoveAll(m.Unix(path)); err != nil {
			t.Fatal(err)
		}
	}
	m.run("reg", "delete", `HKLM\SOFTWARE\Kidaro`, "/v", "InstallDir", "/f", "/reg:32")
	m.must("/i", newer, "REINSTALL=ALL REINSTALLMODE=amus") // what /fa stands for; Wine's msiexec does not know that
	check("after the repair")
	m.is("InstallDir", `REG_SZ C:\Program Files\Prestage\`)
	if b, err := os.ReadFile(m.Unix(exe)); err != nil || string(b) != string(whole) {
		t.Errorf("the program was not mended: %d bytes, %v", len(b), err)
	}
}

// A new version that cannot be installed goes again, and leaves the settings.
// (That the old version is back then, only Windows can show: the removal of the
// old version is part of the transaction, which Wine does not undo.)
func TestFailedUpgradeLeavesSettings(t *testing.T) {
	m := newMachine(t)
	m.must("/i", build(t, "1.0.0", "x64"), `SERVER_PORT=8080`)
	m.setValue(`SOFTWARE\Kidaro`, "AclProfile", "REG_SZ", "lax") // which the program refuses
	if code, _ := m.msiexec("/i", build(t, "1.1.0", "x64"), ""); code == 0 {
		t.Error("the upgrade succeeded")
	}
	m.is("PrestagedImagesPath", "REG_SZ "+staged, "VMSFolder", "REG_SZ "+store+`\`, "ServerPort", "REG_DWORD 0x1f90")
	m.there(staged)
}

func TestUninstallLeavesPackagesAndImages(t *testing.T) {
	for name, file := range map[string]string{"package": staged + `\win11_1.ckm`, "image": store + `\win11\1\win11.vhdx`} {
		t.Run(name, func(t *testing.T) {
			m := newMachine(t)
			msi := build(t, "1.0.0", "x64")
			m.must("/i", msi, `SERVER_ADDRESS=medv01`)
			if err := os.MkdirAll(filepath.Dir(m.Unix(file)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(m.Unix(file), []byte("x"), 0o444); err != nil {
				t.Fatal(err)
			}
			code, log := m.msiexec("/x", msi, "")
			if code != 0 || !strings.Contains(log, "packages, images and settings are left in place") {
				t.Errorf("exit code %d\n%s", code, log)
			}
			m.there(file, aside)
			m.gone(exe)
			// The next installation finds them.
			m.is("PrestagedImagesPath", "REG_SZ "+staged, "ServerAddress", "REG_SZ medv01", "InstallDir", "")
		})
	}
}

// A file in the way of the folder is a failure that nothing foresees.
func TestRollbackLeavesNothing(t *testing.T) {
	m := newMachine(t)
	if err := os.Mkdir(m.Unix(store), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.Unix(staged), []byte("in the way"), 0o644); err != nil {
		t.Fatal(err)
	}
	if code, _ := m.msiexec("/i", build(t, "1.0.0", "x64"), `SERVER_ADDRESS=medv01`); code == 0 {
		t.Error("the installation succeeded")
	}
	m.gone(exe, `C:\Program Files\Prestage`)
	m.is("PrestagedImagesPath", "", "VMSFolder", "", "ServerAddress", "", "InstallDir", "")
	if got := m.service(); got != "none" {
		t.Errorf("the service is %s", got)
	}
	if p := m.products(); len(p) != 0 {
		t.Errorf("%v is installed", p)
	}
	if len(m.shortcuts()) != 0 {
		t.Errorf("shortcuts: %v", m.shortcuts())
	}
	if b, err := os.ReadFile(m.Unix(staged)); err != nil || string(b) != "in the way" {
		t.Errorf("%q, %v", b, err)
	}
}

// The same where the folders could be made before it fails: they go again.
func TestRollbackRemovesFolders(t *testing.T) {
	m := newMachine(t)
	m.setValue(`SOFTWARE\Kidaro`, "AclProfile", "REG_SZ", "lax") // which the program refuses
	if code, _ := m.msiexec("/i", build(t, "1.0.0", "x64"), ""); code == 0 {
		t.Error("the installation succeeded")
	}
	m.gone(exe, store)
	m.is("PrestagedImagesPath", "", "VMSFolder", "", "AclProfile", "REG_SZ lax")
	if got := m.service(); got != "none" {
		t.Errorf("the service is %s", got)
	}
}

func TestRefused(t *testing.T) {
	m := newMachine(t)
	msi := build(t, "1.0.0", "x64")
	for properties, want := range map[string]string{
		`SERVER_SSL=2`:                            "SERVER_SSL is",
		`SERVER_PORT=abc`:                         "SERVER_PORT is",
		`SERVER_PORT=0`:                           "SERVER_PORT is",
		`SERVER_PORT=65536`:                       "SERVER_PORT is",
		`SERVER_ADDRESS="medv 01"`:                "SERVER_ADDRESS is",
		`SERVER_ADDRESS=medv01/x`:                 "SERVER_ADDRESS is",
		`TRUSTED_KEY=company.pub`:                 "TRUSTED_KEY is",
		`START_AUTOMATICALLY=yes`:                 "START_AUTOMATICALLY is",
		`START_MEDV=2`:                            "START_MEDV is",
		`DESKTOP_SHORTCUT=2`:                      "DESKTOP_SHORTCUT is",
		`SKIP_OS_CHECK=2`:                         "SKIP_OS_CHECK is",
		`INSTALL_ADMIN_TOOLS=x`:                   "INSTALL_ADMIN_TOOLS is",
		`VMSFOLDER="MED-V Images"`:                "called exactly MED-V Images",
		`VMSFOLDER="C:\MEDV Images"`:              "called exactly MED-V Images",
		`VMSFOLDER="C:\med-v images"`:             "called exactly MED-V Images",
		`VMSFOLDER="C:\MED-V Images\x"`:           "called exactly MED-V Images",
		`VMSFOLDER="\\server\share\MED-V Images"`: "called exactly MED-V Images",
		`VMSFOLDER="C:\data\..\MED-V Images"`:     "called exactly MED-V Images",
		`MINIMAL_RAM_REQUIRED=99999999`:           "asks for",
		`MINIMAL_RAM_REQUIRED=much`:               "must be a number of megabytes",
	} {
		m.refused(msi, properties, want)
	}
	m.refused(build(t, "1.0.0", "x86"), "SKIP_OS_CHECK=1", "This is the client for 32-bit Windows")

	// Wine is let in whatever version it plays. Without its mark, that counts.
	const mark, name = `HKLM\SOFTWARE\Wine\LicenseInformation`, "Kernel-MUI-Number-Allowed"
	m.run("reg", "delete", mark, "/v", name, "/f")
	defer m.run("reg", "add", mark, "/v", name, "/t", "REG_DWORD", "/d", "1000", "/f")
	m.refused(msi, "", "needs Windows 10")
	m.must("/i", msi, "SKIP_OS_CHECK=1 START_MEDV=0")
	m.clean()
	m.windows("win10")
	m.must("/i", msi, "START_MEDV=0")
	m.windows("win7")
	for _, view := range []string{"/reg:64", "/reg:32"} { // which Windows 7 does not have
		m.run("reg", "delete", `HKLM\SOFTWARE\Microsoft\Windows NT\CurrentVersion`, "/v", "CurrentMajorVersionNumber", "/f", view)
	}
}

// Rows S3 and S4: what an installation asks of the system for the two folders.
func TestS3S4RightsAsked(t *testing.T) {
	m := newMachine(t)
	r := m.Run(t, winetest.Command{Args: []string{"msiexec"}, Debug: "+server",
		Line: fmt.Sprintf(`/i "%s" /qn START_MEDV=0`, m.Windows(build(t, "1.0.0", "x64")))})
	if r.Code != 0 {
		t.Fatal(r)
	}
	for path, mask := range map[string]uint32{store: 0x12008d, staged: 0x120089, aside: 0x120089} {
		want := []winetest.Entry{{Type: "ACCESS_ALLOWED", Flags: 3, Mask: mask, SID: "S-1-5-11"},
			{Type: "ACCESS_ALLOWED", Flags: 3, Mask: 0x1f01ff, SID: "S-1-5-18"},
			{Type: "ACCESS_ALLOWED", Flags: 3, Mask: 0x1f01ff, SID: "S-1-5-32-544"}}
		var asked []winetest.SecurityRequest
		for _, s := range winetest.SecurityRequests(r.Trace) {
			if strings.EqualFold(s.Path, path) && len(s.Entries) > 0 {
				asked = append(asked, s)
			}
		}
		if len(asked) == 0 {
			t.Errorf("nothing was asked for %s", path)
			continue
		}
		// Wine adds inherited entries of its own to what SetNamedSecurityInfo is given.
		last := asked[len(asked)-1]
		if len(last.Entries) < 3 || !slices.Equal(last.Entries[:3], want) || last.Control&0x1000 == 0 {
			t.Errorf("for %s was asked %+v", path, last)
		}
	}
}

// Row S8, and the whole of it: a package lies in PrestagedImages, the client is
// installed, and the image is in the store, with no network anywhere.
func TestS8PrestagedImageIsInstalled(t *testing.T) {
	m := newMachine(t)
	work := t.TempDir()
	if err := os.WriteFile(filepath.Join(work, "win11.img"), testenv.Text(1, 3<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	// Wine keeps no DACLs, so the program that is asked for the status is one
	// that remembers what it has set.
	const tag = "winedacl"
	prestage := func(program string, args ...string) winetest.Result {
		t.Helper()
		return m.Run(t, winetest.Command{Dir: work, Args: append([]string{program}, args...)})
	}
	if err := os.MkdirAll(m.Unix(staged), 0o755); err != nil {
		t.Fatal(err)
	}
	if r := prestage(winetest.Build(t, tag), "pack", "win11.img", "--name", "win11", "--images", "packages"); r.Code != 0 {
		t.Fatal(r)
	}
	for _, name := range []string{"win11_1.ckm", "win11_1.index"} {
		if err := os.Rename(filepath.Join(work, "packages", name), filepath.Join(m.Unix(staged), name)); err != nil {
			t.Fatal(err)
		}
	}
	m.must("/i", build(t, "1.0.0", "x64", tag), `VMSFOLDER="C:\MED-V Images"`)
	for end := time.Now().Add(time.Minute); !m.exists(store + `\win11\1`); time.Sleep(200 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the service did not install the image")
		}
	}
	installed := m.Unix(exe)
	if r := prestage(installed, "verify", store+`\win11\1`); r.Code != 0 {
		t.Errorf("verify: %v", r)
	}
	if r := prestage(installed, "verify", "win11", "--images", staged); r.Code != 0 {
		t.Errorf("verify the package: %v", r)
	}
	r := prestage(installed, "status", "--json")
	if r.Code != 0 || !regexp.MustCompile(`(?s)"installed": \[.*"name": "win11",\s+"version": 1,`).MatchString(r.Stdout) {
		t.Errorf("status: %v", r)
	}
	a, err := os.ReadFile(filepath.Join(work, "win11.img"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(m.Unix(store + `\win11\1\win11.img`)); err != nil || string(a) != string(b) {
		t.Errorf("the image differs (%v)", err)
	}
}

//go:build linux

package installer

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"prestage/internal/acl"
	"prestage/internal/service"
	"prestage/internal/testenv"
	"prestage/internal/winetest"
)

func TestMain(m *testing.M) { winetest.Main(m) }

var modified = time.Unix(1_700_000_000, 0)

// program returns a prestage.exe as it is released: with its resources.
func program(t *testing.T, version string, tags ...string) string {
	t.Helper()
	b, err := os.ReadFile(winetest.Build(t, tags...))
	if err != nil {
		t.Fatal(err)
	}
	exe := filepath.Join(t.TempDir(), "prestage.exe")
	if err := os.WriteFile(exe, b, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := SetResources(t.Context(), exe, version); err != nil {
		t.Fatal(err)
	}
	return exe
}

func newMSI(t *testing.T, version, arch string, tags ...string) MSI {
	t.Helper()
	testenv.Need(t, "wixl", "msibuild")
	completion := filepath.Join(t.TempDir(), "completion.ps1")
	if err := os.WriteFile(completion, []byte("# completion\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return MSI{Version: version, Arch: arch, Program: program(t, version, tags...), License: "../LICENSE",
		Notices: "../THIRD_PARTY_NOTICES.md", Completion: completion, Modified: modified}
}

// built holds the MSIs that the tests share.
var built struct {
	sync.Mutex
	files map[string][]byte
}

// build returns an MSI of a version, in a file of the test's own.
func build(t *testing.T, version, arch string, tags ...string) string {
	t.Helper()
	built.Lock()
	defer built.Unlock()
	out := filepath.Join(t.TempDir(), "Client.MSI")
	key := version + arch + strings.Join(tags, ",")
	b := built.files[key]
	if b == nil {
		if err := newMSI(t, version, arch, tags...).Build(t.Context(), out); err != nil {
			t.Fatal(err)
		}
		var err error
		if b, err = os.ReadFile(out); err != nil {
			t.Fatal(err)
		}
		if built.files == nil {
			built.files = map[string][]byte{}
		}
		built.files[key] = b
		return out
	}
	if err := os.WriteFile(out, b, 0o644); err != nil {
		t.Fatal(err)
	}
	return out
}

// rows returns a table's rows as somebody else's program reads them, by column.
func rows(t *testing.T, msi, name string) (list []map[string]string) {
	t.Helper()
	testenv.Need(t, "msiinfo")
	out, err := exec.Command("msiinfo", "export", msi, name).CombinedOutput()
	if err != nil {
		t.Fatalf("msiinfo: %v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\r\n"), "\n")
	columns := strings.Split(strings.TrimRight(lines[0], "\r"), "\t")
	for _, l := range lines[3:] {
		row := map[string]string{}
		for i, v := range strings.Split(strings.TrimRight(l, "\r"), "\t") {
			row[columns[i]] = v
		}
		list = append(list, row)
	}
	return list
}

// row returns the one row that has these values, given as column, value.
func row(t *testing.T, msi, table string, where ...string) map[string]string {
	t.Helper()
	var found []map[string]string
	for _, r := range rows(t, msi, table) {
		fits := true
		for i := 0; i < len(where); i += 2 {
			fits = fits && r[where[i]] == where[i+1]
		}
		if fits {
			found = append(found, r)
		}
	}
	if len(found) != 1 {
		t.Fatalf("table %s has %d rows with %v, not one", table, len(found), where)
	}
	return found[0]
}

func TestTables(t *testing.T) {
	for arch, want := range map[string]struct{ template, programFiles, component, folder string }{
		"x64": {"x64;1033", "ProgramFiles64Folder", "256", "256"},
		"x86": {"Intel;1033", "ProgramFilesFolder", "0", "0"},
	} {
		t.Run(arch, func(t *testing.T) {
			msi := build(t, "1.2.3-rc1", arch)
			out, err := exec.Command("msiinfo", "suminfo", msi).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "Template: "+want.template+"\n") || !strings.Contains(string(out), "prestage 1.2.3-rc1") {
				t.Errorf("summary: %v\n%s", err, out)
			}
			if got := row(t, msi, "Property", "Property", "ProductVersion")["Value"]; got != "1.2.3" {
				t.Errorf("ProductVersion %s", got)
			}
			if got := row(t, msi, "Property", "Property", "START_MEDV")["Value"]; got != "1" {
				t.Errorf("START_MEDV is %s", got)
			}
			secure := strings.Split(row(t, msi, "Property", "Property", "SecureCustomProperties")["Value"], ";")
			for _, p := range []string{"INSTALLDIR", "VMSFOLDER", "SERVER_ADDRESS", "SERVER_PORT", "SERVER_SSL", "TRUSTED_KEY", "START_AUTOMATICALLY",
				"START_MEDV", "DESKTOP_SHORTCUT", "MINIMAL_RAM_REQUIRED", "SKIP_OS_CHECK", "INSTALL_ADMIN_TOOLS"} {
				if !slices.Contains(secure, p) {
					t.Errorf("%s is not among the secure properties", p)
				}
			}
			// What the table AppSearch finds must reach the part that runs as the system, too.
			for _, r := range rows(t, msi, "AppSearch") {
				if !slices.Contains(secure, r["Property"]) {
					t.Errorf("%s is not among the secure properties", r["Property"])
				}
			}
			if got := row(t, msi, "Component", "Component", "Program")["Attributes"]; got != want.component {
				t.Errorf("attributes of the program: %s", got)
			}
			if got := row(t, msi, "Directory", "Directory", "INSTALLDIR")["Directory_Parent"]; got != want.programFiles {
				t.Errorf("INSTALLDIR is in %s", got)
			}
			s := row(t, msi, "ServiceInstall")
			if s["Name"] != service.Agent.Name || s["DisplayName"] != service.Agent.DisplayName || s["StartType"] != "3" || s["Arguments"] != "agent run --service" {
				t.Errorf("service %v", s)
			}
			// The settings are those that a 32-bit program sees, and stay for an upgrade.
			for _, r := range rows(t, msi, "Registry") {
				c := row(t, msi, "Component", "Component", r["Component_"])
				if strings.HasPrefix(r["Key"], `SOFTWARE\Kidaro`) && r["Component_"] != "Remembered" && c["Attributes"] != "20" {
					t.Errorf("%s: attributes %s", r["Name"], c["Attributes"])
				}
			}
			for _, table := range []string{"InstallExecuteSequence", "InstallUISequence"} {
				for _, r := range rows(t, msi, table) {
					if n, err := strconv.Atoi(r["Sequence"]); strings.HasPrefix(r["Action"], "Default") && (err != nil || n >= 1000) {
						t.Errorf("%s: %s comes after costing", table, r["Action"])
					}
				}
			}
		})
	}
}

// Rows S3 and S4: the MSI asks for the rights that the program sets.
func TestS3S4RightsInTables(t *testing.T) {
	msi := build(t, "1.2.3-rc1", "x64")
	for key, want := range map[string][2]string{
		"ImageStore":       {"VMSFOLDER", acl.Images.SDDL()},
		"ImageStoreStrict": {"VMSFOLDER", acl.StrictImages.SDDL()},
		"PrestageFolder":   {"PRESTAGEDFOLDER", acl.Prestaged.SDDL()},
	} {
		r := row(t, msi, "MsiLockPermissionsEx", "MsiLockPermissionsEx", key)
		if r["LockObject"] != want[0] || r["Table"] != "CreateFolder" || r["SDDLText"] != want[1] {
			t.Errorf("%s: %v", key, r)
		}
	}
	if got := acl.Images.SDDL(); got != "D:P(A;OICI;0x12008d;;;AU)(A;OICI;FA;;;SY)(A;OICI;FA;;;BA)" {
		t.Errorf("S3: %s", got)
	}
}

// The same inputs give the same file; another program is another product.
func TestMSIIsReproducible(t *testing.T) {
	m := newMSI(t, "1.0.0", "x64")
	first, second := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	if err := m.Build(t.Context(), first); err != nil {
		t.Fatal(err)
	}
	time.Sleep(1100 * time.Millisecond) // the times in it are in seconds
	if err := m.Build(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	a, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(second)
	if err != nil || string(a) != string(b) {
		t.Errorf("two builds differ (%v)", err)
	}
	if err := os.WriteFile(m.Completion, []byte("# other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := m.Build(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	code := func(msi string) string { return row(t, msi, "Property", "Property", "ProductCode")["Value"] }
	if code(first) == code(second) {
		t.Error("two programs have the same product code")
	}
}

func TestProductVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3": "1.2.3", "v1.2.3": "1.2.3", "1.2": "1.2.0", "1.2.3-rc1": "1.2.3", "1.2.3-14-gd0ce07f-dirty": "1.2.3",
		"0.1.0+x": "0.1.0", "255.255.65535": "255.255.65535", "d0ce07f-dirty": "0.0.0", "devel": "0.0.0", "1234567": "0.0.0",
	} {
		if got, err := ProductVersion(version); err != nil || got != want {
			t.Errorf("%s became %s, %v; want %s", version, got, err, want)
		}
	}
	for _, version := range []string{"256.0.0", "1.256.0", "1.0.65536", "99999999999.0.0"} {
		if got, err := ProductVersion(version); err == nil {
			t.Errorf("%s became %s", version, got)
		}
	}
}

// What wixl complains of it leaves out, and exits with 0 all the same.
func TestComplaintsAreErrors(t *testing.T) {
	if err := run(context.Background(), t.TempDir(), "sh", "-c", "echo no property named x >&2"); err == nil || !strings.Contains(err.Error(), "no property named x") {
		t.Errorf("error %v", err)
	}
}

//go:build linux

package installer

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"prestage/internal/winetest"
)

// machine is a Windows that things are installed on.
type machine struct {
	*winetest.Prefix
	t *testing.T
}

// newMachine returns the Windows of this test binary, with nothing installed
// now nor afterwards.
func newMachine(t *testing.T) machine {
	t.Helper()
	m := machine{winetest.New(t), t}
	m.clean()
	t.Cleanup(m.clean)
	return m
}

// windows makes the machine another version of Windows.
func (m machine) windows(version string) {
	m.t.Helper()
	if r := m.Run(m.t, winetest.Command{Args: []string{"winecfg", "-v", version}}); r.Code != 0 {
		m.t.Fatal(r)
	}
}

// clean removes whatever a test has left: the product by its own means, and
// then the rest by force.
func (m machine) clean() {
	for _, code := range m.products() {
		m.Run(m.t, winetest.Command{Args: []string{"msiexec"}, Line: "/x " + code + " /qn"})
	}
	m.run("sc", "stop", "Prestage")
	m.run("sc", "delete", "Prestage")
	for _, key := range []string{`HKLM\SOFTWARE\Kidaro`, `HKLM\SOFTWARE\Policies\Kidaro`} {
		m.run("reg", "delete", key, "/f", "/reg:32")
	}
	m.run("reg", "delete", `HKLM\SOFTWARE`, "/v", "PrestagedImagesPath", "/f", "/reg:32")
	for _, folder := range []string{`C:\MED-V Images`, `C:\data`, `C:\Program Files\Prestage`} {
		if err := os.RemoveAll(m.Unix(folder)); err != nil {
			m.t.Error(err)
		}
	}
}

var productCode = regexp.MustCompile(`(?i)Uninstall\\(\{[0-9A-F-]{36}\})`)

// products are the codes of our products that are installed.
func (m machine) products() (codes []string) {
	for _, view := range []string{"/reg:64", "/reg:32"} {
		r := m.run("reg", "query", `HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall`, view)
		for _, c := range productCode.FindAllStringSubmatch(r.Stdout, -1) {
			key := `HKLM\SOFTWARE\Microsoft\Windows\CurrentVersion\Uninstall\` + c[1]
			if strings.Contains(m.run("reg", "query", key, "/v", "DisplayName", view).Stdout, "prestage") {
				codes = append(codes, c[1])
			}
		}
	}
	return codes
}

// run runs a command of Windows.
func (m machine) run(args ...string) winetest.Result {
	m.t.Helper()
	return m.Run(m.t, winetest.Command{Args: args})
}

// msiexec returns the exit code of Windows Installer and its log. The package is
// the path of an MSI or the code of a product.
func (m machine) msiexec(verb, pack, properties string) (code int, log string) {
	m.t.Helper()
	if !strings.HasPrefix(pack, "{") {
		pack = `"` + m.Windows(pack) + `"`
	}
	file := filepath.Join(m.t.TempDir(), "log")
	r := m.Run(m.t, winetest.Command{Args: []string{"msiexec"},
		Line: fmt.Sprintf(`%s %s /qn /l*v "%s" %s`, verb, pack, m.Windows(file), properties)})
	b, err := os.ReadFile(file)
	if err != nil {
		m.t.Fatalf("msiexec wrote no log: %v", err)
	}
	return r.Code, strings.ReplaceAll(string(b), "\x00", "")
}

var evaluated = regexp.MustCompile(`MSI_EvaluateConditionW (\d) <- L"((?:[^"\\]|\\.)*)"`)

// refused runs msiexec /i, which a launch condition must stop; the text that it
// has for the administrator must hold want. Windows puts the text into the log;
// Wine shows it in a window alone, so the condition that failed is looked up.
func (m machine) refused(msi, properties, want string) {
	m.t.Helper()
	before := fmt.Sprint(m.products(), m.exists(exe), m.service())
	r := m.Run(m.t, winetest.Command{Args: []string{"msiexec"}, Debug: "+msi",
		Line: fmt.Sprintf(`/i "%s" /qn %s`, m.Windows(msi), properties)})
	all := evaluated.FindAllStringSubmatch(r.Stderr, -1)
	if r.Code != 1603 || len(all) == 0 || all[len(all)-1][1] != "0" {
		m.t.Errorf("%s: exit code %d, and the last of %d conditions is %v", properties, r.Code, len(all), all[max(0, len(all)-1):])
		return
	}
	failed := strings.NewReplacer(`\\`, `\`, `\"`, `"`).Replace(all[len(all)-1][2])
	if got := row(m.t, msi, "LaunchCondition", "Condition", failed)["Description"]; !strings.Contains(got, want) {
		m.t.Errorf("%s is refused with %q, want %q", properties, got, want)
	}
	if after := fmt.Sprint(m.products(), m.exists(exe), m.service()); after != before {
		m.t.Errorf("%s changed %s to %s", properties, before, after)
	}
}

// must runs msiexec, which must succeed.
func (m machine) must(verb, msi, properties string) {
	m.t.Helper()
	if code, log := m.msiexec(verb, msi, properties); code != 0 {
		m.t.Fatalf("msiexec %s %s: exit code %d\n%s", verb, properties, code, log)
	}
}

// value returns a registry value as "REG_SZ text", or "" if there is none.
func (m machine) value(key, name, view string) string {
	m.t.Helper()
	r := m.run("reg", "query", `HKLM\`+key, "/v", name, "/reg:"+view)
	for _, l := range strings.Split(r.Stdout, "\n") {
		if f := strings.Fields(l); len(f) > 1 && strings.EqualFold(f[0], name) {
			return strings.Join(f[1:], " ")
		}
	}
	return ""
}

func (m machine) setValue(key, name, kind, value string) {
	m.t.Helper()
	if r := m.run("reg", "add", `HKLM\`+key, "/v", name, "/t", kind, "/d", value, "/f", "/reg:32"); r.Code != 0 {
		m.t.Fatal(r)
	}
}

// is checks settings, given as name, value.
func (m machine) is(want ...string) {
	m.t.Helper()
	for i := 0; i < len(want); i += 2 {
		if got := m.value(`SOFTWARE\Kidaro`, want[i], "32"); got != want[i+1] {
			m.t.Errorf("%s is %q, want %q", want[i], got, want[i+1])
		}
	}
}

// exists reports whether there is a file or a folder.
func (m machine) exists(path string) bool {
	_, err := os.Lstat(m.Unix(path))
	return err == nil
}

// there checks that files or folders exist, gone that they do not.
func (m machine) there(paths ...string) {
	m.t.Helper()
	for _, p := range paths {
		if !m.exists(p) {
			m.t.Errorf("%s is not there", p)
		}
	}
}

func (m machine) gone(paths ...string) {
	m.t.Helper()
	for _, p := range paths {
		if m.exists(p) {
			m.t.Errorf("%s is still there", p)
		}
	}
}

// service returns the state and start type of the service, or "none".
func (m machine) service() string {
	m.t.Helper()
	state := regexp.MustCompile(`STATE\s*:\s*\d+\s*(\w+)`).FindStringSubmatch(m.run("sc", "query", "Prestage").Stdout)
	if state == nil {
		return "none"
	}
	start := map[string]string{"REG_DWORD 0x2": "auto", "REG_DWORD 0x3": "demand"}[m.value(`SYSTEM\CurrentControlSet\Services\Prestage`, "Start", "64")]
	return strings.ToLower(state[1]) + " " + start
}

// shortcuts are those on the desktop. Wine has the one of the user, where Windows
// has that of all users.
func (m machine) shortcuts() []string {
	found, err := filepath.Glob(m.Unix(`C:\users`) + "/*/Desktop/MED-V*.lnk")
	if err != nil {
		m.t.Fatal(err)
	}
	return found
}

const (
	exe    = `C:\Program Files\Prestage\prestage.exe`
	store  = `C:\MED-V Images`
	staged = store + `\PrestagedImages`
	aside  = staged + `\.prestage`
)

func TestInstallWithDefaults(t *testing.T) {
	m := newMachine(t)
	m.must("/i", build(t, "1.0.0", "x64"), "")
	m.is("PrestagedImagesPath", "REG_SZ "+staged, "VMSFolder", "REG_SZ "+store+`\`, "InstallDir", `REG_SZ C:\Program Files\Prestage\`,
		"ServerAddress", "", "ServerPort", "", "ServerSsl", "")
	// Row S9: nothing where 64-bit programs look, and nothing in the literal place.
	if got := m.value(`SOFTWARE\Kidaro`, "PrestagedImagesPath", "64"); got != "" {
		t.Errorf("the 64-bit view holds %q", got)
	}
	if got := m.value(`SOFTWARE`, "PrestagedImagesPath", "32"); got != "" {
		t.Errorf("the literal place holds %q", got)
	}
	m.there(exe, staged, aside)
	if len(m.shortcuts()) != 1 {
		t.Errorf("shortcuts: %v", m.shortcuts())
	}
	m.gone(`C:\Program Files\Prestage\prestage-completion.ps1`)
	if got := m.service(); got != "running demand" {
		t.Errorf("the service is %s", got)
	}
	m.must("/x", build(t, "1.0.0", "x64"), "")
	m.gone(exe, `C:\Program Files\Prestage`, store)
	if len(m.shortcuts()) != 0 {
		t.Errorf("shortcuts: %v", m.shortcuts())
	}
	m.is("PrestagedImagesPath", "", "VMSFolder", "", "InstallDir", "")
	if got := m.service(); got != "none" {
		t.Errorf("the service is %s", got)
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// runFleet runs prestage with Samba's password in its environment.
func runFleet(t *testing.T, exe, dir string, wantCode int, args ...string) (out string) {
	t.Helper()
	cmd := exec.Command(exe, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PRESTAGE_USER=root", "PRESTAGE_PASSWORD="+sambatest.Password, "PRESTAGE_CONFIG="+filepath.Join(dir, "none.toml"))
	b, err := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Fatalf("prestage %s: exit code %d, want %d (%v)\n%s", strings.Join(args, " "), code, wantCode, err, b)
	}
	if strings.Contains(string(b), sambatest.Password) {
		t.Errorf("the password is in the output of prestage %s", strings.Join(args, " "))
	}
	return string(b)
}

func buildProgram(t *testing.T, dir string) string {
	t.Helper()
	exe := filepath.Join(dir, "prestage")
	if out, err := exec.Command("go", "build", "-o", exe, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return exe
}

// One command brings several Windows machines from nothing to receipts; one that
// is off and one with a wrong password are reported, with what to do, and the
// others are done.
func TestFleetOld(t *testing.T) {
	testenv.NeedTime(t)
	dir := t.TempDir()
	exe := buildProgram(t, dir)
	const machines = 20
	hosts := "# the PCs of this test\n[pcs] folder=\"C:\\\\\"\n"
	var servers []*sambatest.Server
	for i := range machines {
		s := sambatest.Start(t)
		servers = append(servers, s)
		hosts += fmt.Sprintf("pc-%03d address=127.0.0.1 port=%s\n", i+1, s.Port)
	}
	good := filepath.Join(dir, "good.txt")
	all := filepath.Join(dir, "all.txt")
	bad := fmt.Sprintf("pc-off address=127.0.0.1 port=1\npc-wrong address=127.0.0.1 port=%s user=nobodyelse\n", sambatest.Start(t).Port)
	for path, text := range map[string]string{good: hosts, all: hosts + bad} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "a.img"), append(testenv.Text(1, 3<<20), testenv.Random(1, 2<<20)...), 0o644); err != nil {
		t.Fatal(err)
	}
	runFleet(t, exe, dir, 0, "pack", "a.img", "--name", "win11", "--images", "repo")

	runFleet(t, exe, dir, 0, "push", "win11", "--images", "repo", "--hosts", good, "--report", "out.json")
	check := func(file string) *fleet.Report {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		var r fleet.Report
		if err := json.Unmarshal(b, &r); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(b), sambatest.Password) {
			t.Error("the password is in the report")
		}
		return &r
	}
	r := check("out.json")
	if len(r.Machines) != machines || r.Counts[fleet.Done] != machines {
		t.Errorf("%d machines, %v", len(r.Machines), r.Counts)
	}
	for _, m := range r.Machines {
		if len(m.Images) != 1 || m.Images[0].Verified == nil || !m.Checked || len(m.Deviations) > 0 || m.Location != `C:\MED-V Images\PrestagedImages` {
			t.Errorf("%+v", m)
		}
	}
	want, err := os.ReadFile(filepath.Join(dir, "repo", "win11_1.ckm"))
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range servers {
		got, err := os.ReadFile(s.Path("c", "MED-V Images", "PrestagedImages", "win11_1.ckm"))
		if err != nil || string(got) != string(want) {
			t.Errorf("a machine has another CKM: %v", err)
		}
	}
	// Again: nothing is moved. Then with two machines that cannot be reached.
	runFleet(t, exe, dir, 0, "push", "win11", "--images", "repo", "--hosts", good, "--limit", "100MiB/s", "--report", "again.json")
	if r := check("again.json"); r.Counts[fleet.Already] != machines || r.Moved != 0 {
		t.Errorf("again: %v, %d bytes", r.Counts, r.Moved)
	}
	out := runFleet(t, exe, dir, 5, "push", "win11", "--images", "repo", "--hosts", all, "--report", "all.json")
	for _, want := range []string{"pc-off: unreachable", "pc-wrong: failed", "Switch the machine on", "Check the user and the password", fmt.Sprintf("2 of %d machines need attention", machines+2)} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	r = check("all.json")
	if r.Counts[fleet.Already] != machines || r.Counts[fleet.Unreachable] != 1 || r.Counts[fleet.Failed] != 1 {
		t.Errorf("with two bad ones: %v", r.Counts)
	}
	for _, m := range r.Machines[machines:] {
		if m.Advice == "" || m.Error == "" || m.Step != "connect" {
			t.Errorf("%+v", m)
		}
	}
	runFleet(t, exe, dir, 0, "status", "--hosts", good, "--report", "status.html")
	if err := os.Chmod(servers[0].Path("c", "MED-V Images", "PrestagedImages", "win11_1.ckm"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(servers[0].Path("c", "MED-V Images", "PrestagedImages", "win11_1.ckm"), want[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	if out = runFleet(t, exe, dir, 5, "status", "--hosts", good); !strings.Contains(out, "win11_1.ckm has 1000 bytes") {
		t.Errorf("damage is not told:\n%s", out)
	}
	runFleet(t, exe, dir, 0, "push", "win11", "--images", "repo", "--hosts", good)
	runFleet(t, exe, dir, 0, "setup", "--strict", "--hosts", "@pcs", "--inventory", good)
	runFleet(t, exe, dir, 2, "push", "win11", "--images", "repo", "--hosts", "pc-[1-")
	runFleet(t, exe, dir, 2, "push", "win11", "--images", "repo", "--hosts", good, "--report", "out.docx")
}

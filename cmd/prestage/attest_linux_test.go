package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/prestage"
	"prestage/internal/sambatest"
	"prestage/internal/smbhost"
	"prestage/internal/testenv"
)

// A Windows machine's own agent checks what was pushed there, and the push waits
// for its receipt. The agent is this system's, on the folder that Samba serves;
// what it holds open there, Windows would tell everybody on the network, and here
// a connection holds it for it.
func TestAgentChecksWhatIsPushed(t *testing.T) {
	testenv.NeedRoot(t)
	d := newDesk(t)
	s := sambatest.Start(t)
	hosts := d.write(t, "hosts.txt", fmt.Sprintf("127.0.0.1 port=%s user=%s\n", s.Port, sambatest.Administrator))
	d.write(t, "a.img", string(testenv.Text(1, 8<<20)))
	env := []string{"PRESTAGE_PASSWORD=" + sambatest.Password}
	d.run(t, 0, env, "pack", "a.img", "--name", "win11", "--images", "repo")
	d.run(t, 0, env, "setup", `C:\`, "--hosts", hosts)

	store := s.Path("c", "MED-V Images")
	config := d.write(t, "agent.toml", fmt.Sprintf("prestaged_images_path = %q\nvms_folder = %q\n", filepath.Join(store, "PrestagedImages"), store))
	h, err := smbhost.Dial(t.Context(), smbhost.Options{Name: "127.0.0.1", Port: s.Port, User: sambatest.Administrator, Password: sambatest.Password})
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	held, err := h.OpenWrite(t.Context(), `C:\MED-V Images\`+prestage.AgentLock)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()

	pushed := make(chan string)
	go func() {
		out, err := d.command(env, "push", "win11", "--images", "repo", "--hosts", hosts, "--verify", "host", "--report", "report.json").CombinedOutput()
		pushed <- fmt.Sprintf("%v\n%s", err, out)
	}()
	// An agent that has run for long looks only every minute; this one looks now.
	until(t, "the package being there", func() bool {
		_, err := os.Stat(filepath.Join(store, "PrestagedImages", "win11_1.index"))
		return err == nil
	})
	agent := d.command([]string{"PRESTAGE_CONFIG=" + config}, "agent", "run")
	var log bytes.Buffer
	agent.Stdout, agent.Stderr = &log, &log
	if err := agent.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		agent.Process.Signal(os.Interrupt)
		agent.Wait()
		if t.Failed() {
			t.Logf("the agent: %s", log.Bytes())
		}
	}()
	if out := <-pushed; !strings.HasPrefix(out, "<nil>") {
		t.Error(out)
	}
	b, err := os.ReadFile(filepath.Join(d.dir, "report.json"))
	if err != nil {
		t.Fatal(err)
	}
	var r fleet.Report
	if err := json.Unmarshal(b, &r); err != nil || len(r.Machines) != 1 || len(r.Machines[0].Images) != 1 {
		t.Fatalf("%v\n%s", err, b)
	}
	if i := r.Machines[0].Images[0]; i.State != fleet.Done || i.How != prestage.HowHost || i.Verified == nil {
		t.Errorf("it was checked by %q: %s", i.How, b)
	}
	out := d.run(t, 0, env, "status", "--hosts", hosts, "--report", "status.json")
	if b, err = os.ReadFile(filepath.Join(d.dir, "status.json")); err != nil || !strings.Contains(string(b), `"how": "host"`) {
		t.Errorf("%v\n%s\n%s", err, out, b)
	}
}

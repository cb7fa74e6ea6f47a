package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/ptytest"
	"prestage/internal/sambatest"
)

// shown is an office whose machines take their time, and one more that does not
// answer.
type shown struct {
	*office
	list string
}

func newShown(t *testing.T, machines int) *shown {
	t.Helper()
	o := newOffice(t)
	o.pack(t, "win11", 1, 4<<20)
	text := ""
	for i := range machines {
		name := fmt.Sprintf("pc-%03d", i+1)
		text += fmt.Sprintf("%s address=%s\n", name, o.windows(t, name)[0].Address)
	}
	text += fmt.Sprintf("pc-off address=%s\n", o.Add(t, "pc-off").Address)
	return &shown{o, o.hosts(t, "hosts.txt", text)}
}

// push is a push to the machines; each gets a MiB a second.
func (o *shown) push(args ...string) *exec.Cmd {
	cmd := o.command(append([]string{"push", "win11", "--images", o.repo, "--hosts", o.list, "--limit-each", "1MiB"}, args...)...)
	cmd.Env = append(cmd.Env, "TERM=xterm")
	return cmd
}

// ends waits for the end and checks exit code and manners: all that the program
// left on the terminal is text.
func ends(t *testing.T, cmd *exec.Cmd, term *ptytest.Terminal, wantCode int) string {
	t.Helper()
	err := cmd.Wait()
	term.Drained()
	text := term.Text()
	if code := cmd.ProcessState.ExitCode(); code != wantCode {
		t.Errorf("exit code %d, want %d (%v)\n%s", code, wantCode, err, text)
	}
	if strange := term.Unknown(); len(strange) > 0 {
		t.Errorf("the terminal was sent %q", strange)
	}
	if !term.Echo(t) {
		t.Error("the terminal does not show any more what is typed")
	}
	row, col := term.Cursor()
	if lines := strings.Count(text, "\n"); row != lines || col != 0 {
		t.Errorf("the cursor is at line %d, column %d, after %d lines", row, col, lines)
	}
	for _, part := range []string{" working", "copying   ", "reading back  ", "[=", "[ "} {
		if strings.Contains(text, part) {
			t.Errorf("%q of the table is left:\n%s", part, text)
		}
	}
	return text
}

// On a terminal a table shows the run, and only what needs attention stays.
func TestFleetTable(t *testing.T) {
	o := newShown(t, 3)
	cmd := o.push()
	term := ptytest.Start(t, cmd, 100, 12)
	term.AwaitText(t, "4 machines: 0 waiting, 3 working, 0 done, 1 unreachable\n")
	line := regexp.MustCompile(`(?m)^  pc-002  copying +win11:1 +\[[=> ]{10}\] +\d+ % +[0-9.]+[KM]iB/s +\d+ s$`)
	term.Await(t, "a line like "+line.String(), line.MatchString)
	sum := regexp.MustCompile(`(?m)^\[[=> ]{20}\] +\d+ %, [0-9.]+MiB of ~2\d\.\dMiB, [0-9.]+[KM]iB/s, \d+ s left$`)
	term.Await(t, "a line like "+sum.String(), sum.MatchString)
	term.SetSize(t, 40, 12)
	line = regexp.MustCompile(`(?m)^4 machines: 0 waiting, 3 working, 0.*…\n +\d+ %, .*…\n  pc-001  copying +\d+ %$`)
	term.Await(t, "a table like "+line.String(), line.MatchString)
	term.SetSize(t, 100, 12)
	term.AwaitText(t, "reading back")
	text := ends(t, cmd, term, 5)
	if !strings.HasPrefix(text, "[1/4] pc-off: unreachable\n") || !strings.HasSuffix(text, "\n1 of 4 machines needs attention.\n") || strings.Contains(text, "pc-00") {
		t.Errorf("what is left is\n%s", text)
	}

	// Again, all is there. A terminal that can draw nothing gets lines.
	cmd = o.push()
	cmd.Env = append(cmd.Env, "TERM=dumb")
	term = ptytest.Start(t, cmd, 100, 12)
	text = ends(t, cmd, term, 5)
	if strings.Contains(term.Raw(), "\x1b") || !strings.Contains(text, "pc-001: already\n") {
		t.Errorf("a dumb terminal was sent %q", term.Raw())
	}
}

// Ctrl-C takes the table away and leaves a line for each machine that it cut.
func TestFleetTableInterrupted(t *testing.T) {
	o := newShown(t, 2)
	cmd := o.push("--parallel", "1")
	term := ptytest.Start(t, cmd, 100, 12)
	term.AwaitText(t, "copying")
	if _, err := term.Keyboard.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	text := ends(t, cmd, term, 1)
	for _, want := range []string{"pc-001: interrupted\n", "2 machines not begun: the run was interrupted\n", "3 of 3 machines need attention.\n", "prestage: interrupted; run the same command again to go on\n"} {
		if !strings.Contains(text, want) {
			t.Errorf("nothing of %q in\n%s", want, text)
		}
	}
}

// A password is asked for without a table in the way, and Ctrl-C at the question
// leaves a terminal that can be used.
func TestFleetTableAsksAside(t *testing.T) {
	o := newShown(t, 1)
	cmd := o.push()
	cmd.Env = append(cmd.Env, "PRESTAGE_PASSWORD=")
	term := ptytest.Start(t, cmd, 100, 12)
	term.Await(t, "the question", func(text string) bool {
		return strings.HasSuffix(text, "Password of root:\n") && !term.Echo(t)
	})
	if _, err := term.Keyboard.Write([]byte(sambatest.Password + "\n")); err != nil {
		t.Fatal(err)
	}
	term.AwaitText(t, "copying")
	if text := ends(t, cmd, term, 5); !strings.HasPrefix(text, "Password of root:\n[1/2] pc-off: unreachable") {
		t.Errorf("what is left is\n%s", text)
	}

	cmd = o.push()
	cmd.Env = append(cmd.Env, "PRESTAGE_PASSWORD=")
	term = ptytest.Start(t, cmd, 100, 12)
	term.Await(t, "the question", func(string) bool { return !term.Echo(t) })
	if _, err := term.Keyboard.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	ends(t, cmd, term, 1)
}

// Where there is no terminal, each event is a line of JSON.
func TestFleetJSONLines(t *testing.T) {
	o := newShown(t, 3)
	var lines, out bytes.Buffer
	cmd := o.push("--json", "--retry", "1s")
	cmd.Stdout, cmd.Stderr = &out, &lines
	cmd.Run()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Fatalf("exit code %d\n%s", code, lines.Bytes())
	}
	var report fleet.Report
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{
		"begun":     "attempt event machine time",
		"progress":  "done event image machine step time total",
		"postponed": "error event machine time until",
		"ended":     "event machine report time",
	}
	events := map[string][]string{} // of a machine, steps for progress
	for _, line := range strings.Split(strings.TrimSpace(lines.String()), "\n") {
		var e struct {
			Event, Machine, Step string
			Done, Total          int64
			Report               *fleet.MachineReport
		}
		var all map[string]any
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		json.Unmarshal([]byte(line), &all)
		var names []string
		for name := range all {
			names = append(names, name)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != fields[e.Event] {
			t.Errorf("the fields are %s:\n%s", got, line)
		}
		what := e.Event
		if e.Event == "progress" {
			what = e.Step
		}
		if list := events[e.Machine]; len(list) == 0 || list[len(list)-1] != what {
			events[e.Machine] = append(list, what)
		}
		if e.Event == "ended" {
			at := slices.IndexFunc(report.Machines, func(m fleet.MachineReport) bool { return m.Machine == e.Machine })
			if at < 0 || e.Report.State != report.Machines[at].State || len(e.Report.Images) != 1 {
				t.Errorf("the report has something else than\n%s", line)
			}
		}
		if e.Done < 0 || e.Done > e.Total {
			t.Errorf("progress that cannot be:\n%s", line)
		}
	}
	if len(events) != 4 {
		t.Errorf("events of %d machines", len(events))
	}
	for machine, list := range events {
		got := strings.Join(list, ", ")
		if machine == "pc-off" {
			// Steps that are over at once are not all told.
			got = strings.ReplaceAll(got, "connect, ", "")
			if got != "begun, postponed, begun, ended" {
				t.Errorf("%s: %s", machine, got)
			}
			continue
		}
		for _, short := range []string{"connect, ", "set up, ", "push, ", "check, "} {
			got = strings.ReplaceAll(got, short, "")
		}
		if got != "begun, copying, reading back, ended" {
			t.Errorf("%s: %s", machine, got)
		}
	}

	// Quiet, only those that need attention are told of.
	lines.Reset()
	cmd = o.push("--quiet")
	cmd.Stderr = &lines
	cmd.Run()
	if text := lines.String(); !strings.HasPrefix(text, "[4/4] pc-off: unreachable\n") && !strings.HasPrefix(text, "[1/4] pc-off: unreachable\n") || strings.Contains(text, "pc-00") {
		t.Errorf("quiet:\n%s", text)
	}
}

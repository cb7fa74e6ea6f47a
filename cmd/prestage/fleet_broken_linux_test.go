package main

import (
	"fmt"
	"strings"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/sambatest"
)

// trouble is what a report must say of a machine.
type trouble struct {
	state               fleet.State
	step, error, advice string // parts of
}

// check compares a report with what it must say of each machine; who is not named
// must have a receipt.
func checkTroubles(t *testing.T, r *fleet.Report, troubles map[string]trouble) {
	t.Helper()
	for _, m := range r.Machines {
		want, broken := troubles[m.Machine]
		if !broken {
			if m.State != fleet.Done || len(m.Images) != 1 || m.Images[0].Verified == nil || m.Attention() {
				t.Errorf("%s has no receipt: %+v", m.Machine, m)
			}
			continue
		}
		step, text, advice := m.Step, m.Error, m.Advice
		for _, i := range m.Images {
			if i.Verified != nil {
				t.Errorf("%s has a receipt: %+v", m.Machine, i)
			}
			if i.Error != "" {
				step, text, advice = i.Step, i.Error, i.Advice
			}
		}
		if m.State != want.state || step != want.step || !strings.Contains(text, want.error) || !strings.Contains(advice, want.advice) {
			t.Errorf("%s: %s at step %q\n  %s\n  -> %s\nwant %+v", m.Machine, m.State, step, text, advice, want)
		}
	}
}

// Five machines are broken, each in its way: the others get their receipts, and
// the report says of each broken one what is wrong and what to do.
func TestFleetBroken(t *testing.T) {
	o := newOffice(t)
	o.pack(t, "win11", 1, 4<<20)
	var names []string
	for i := range 15 {
		names = append(names, fmt.Sprintf("pc-%03d", i+1))
	}
	text := "[pcs]\n"
	settings := map[string]string{"wrong": "user=somebody", "guest": "user=" + sambatest.Ordinary, "policy": "user=" + sambatest.FilesOnly}
	pcs := o.windows(t, append(names, "wrong", "guest", "policy")...)
	off, full := sambatest.Add(t, o.Net, "off"), sambatest.Add(t, o.Net, "full")
	off.Unplug(t)
	full.SmallDisk(t, full.Path("c"), 2<<20)
	full.Run(t)
	for _, c := range append(pcs, off, full) {
		text += fmt.Sprintf("%s address=%s %s\n", c.Name, c.Address, settings[c.Name])
	}
	r, out := o.report(t, 5, "push", "win11", "--images", o.repo, "--hosts", o.hosts(t, "hosts.txt", text))
	if r.Counts[fleet.Done] != 15 || r.Counts[fleet.Unreachable] != 1 || r.Counts[fleet.Failed] != 4 {
		t.Errorf("%v", r.Counts)
	}
	for _, want := range []string{"off: unreachable", "wrong: failed", "Switch the machine on", "Check the user and the password", "5 of 20 machines need attention"} {
		if !strings.Contains(out, want) {
			t.Errorf("nothing of %q in\n%s", want, out)
		}
	}
	checkTroubles(t, r, map[string]trouble{
		"off":    {fleet.Unreachable, "connect", "10.77.0.", "Switch the machine on"},
		"wrong":  {fleet.Failed, "connect", "user somebody", "Check the user and the password"},
		"full":   {fleet.Failed, "push", "bytes are needed", "Make room on the machine's disk"},
		"guest":  {fleet.Failed, "set up", "it takes an administrator of guest", "Use a user who is an administrator"},
		"policy": {fleet.Failed, "set up", "access is denied", "Use a user who is an administrator"},
	})
}

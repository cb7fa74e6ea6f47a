package main

import (
	"fmt"
	"maps"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/nettest"
)

// What may happen to Linux machines, with the same demands.
func TestFaultsOnLinux(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.pack(t, "win11", 1, 16<<20)
	o.pack(t, "office", 2, 4<<20)
	faults := commonFaults(o)
	maps.Copy(faults, map[string]fault{
		"session": {
			during: func(t *testing.T, m *victim) { m.middle(t); m.Kill(t, m.Connections(t)) },
			want:   &trouble{fleet.Unreachable, "copying", "does not answer", "Switch the machine on"},
		},
		"stranger": {
			prepare: func(t *testing.T, m *victim) { m.Distrust(t) },
			want:    &trouble{fleet.Failed, "connect", "known_hosts", ""},
			mend:    func(t *testing.T, m *victim) { m.Trust(t) },
		},
		"impostor": {
			prepare: func(t *testing.T, m *victim) {
				m.Distrust(t)
				m.NewHostKey(t)
				m.Trust(t)
				m.NewHostKey(t)
				m.Halt(t)
				m.start(t)
			},
			want: &trouble{fleet.Failed, "connect", "key", ""},
			mend: func(t *testing.T, m *victim) { m.Distrust(t); m.Trust(t) },
		},
		"ordinary": {
			settings: "user=" + nettest.Ordinary, mended: "user=root",
			want: &trouble{fleet.Failed, "connect", "sudo", ""},
		},
	})
	runFaults(t, o, "[servers] kind=ssh", faults, o.linuxVictim)
}

// linuxVictim adds a Linux machine that something is going to happen to.
func (o *office) linuxVictim(t *testing.T, name string, _ ...string) *victim {
	t.Helper()
	m := o.Add(t, name)
	m.SetUpSSH(t)
	m.Trust(t)
	if name == "full" {
		m.SmallDisk(t, m.Path("data"), 40<<20)
	}
	m.ServeSSH(t)
	return &victim{Machine: m, o: o, drive: m.Seen(m.Path("data")), settings: fmt.Sprintf("folder=%q", m.Path("data")),
		start: func(t testing.TB, _ ...string) { m.ServeSSH(t) }}
}

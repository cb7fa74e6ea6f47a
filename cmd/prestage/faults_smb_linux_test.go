package main

import (
	"maps"
	"path/filepath"
	"testing"
	"time"

	smb2 "github.com/cloudsoda/go-smb2"

	"prestage/internal/fleet"
	"prestage/internal/sambatest"
	"prestage/internal/testenv"
)

// Whatever happens to Windows machines, the others get their packages, the report
// is true, the same command completes the rest, and no client ever sees half a
// package.
func TestFaultsOnWindows(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.pack(t, "win11", 1, 16<<20)
	o.pack(t, "office", 2, 4<<20)
	older := filepath.Join(o.work, "older")
	o.packInto(t, older, "win11", 3, 4<<20)
	testenv.Need(t, "faketime")
	libs, err := filepath.Glob("/usr/lib/*/faketime/libfaketime.so.1")
	if err != nil || len(libs) == 0 {
		t.Fatalf("the package faketime has no library: %v", err)
	}

	// stage gives a machine another package of the same name.
	stage := func(t *testing.T, m *victim) {
		o.run(t, 0, "push", "win11", "--images", older, "--hosts", o.hosts(t, m.Name+"-older.txt", m.Name+" address="+m.Address+"\n"))
	}
	faults := commonFaults(o)
	maps.Copy(faults, map[string]fault{
		"wrong": {
			settings: "user=somebody", mended: "user=" + sambatest.Administrator,
			want: &trouble{fleet.Failed, "connect", "user somebody", "Check the user and the password"},
		},
		"guest": {
			settings: "user=" + sambatest.Ordinary, mended: "user=" + sambatest.Administrator,
			want: &trouble{fleet.Failed, "set up", "it takes an administrator of guest", "Use a user who is an administrator"},
		},
		"registry": {
			settings: "user=" + sambatest.FilesOnly, mended: "user=" + sambatest.Administrator,
			want: &trouble{fleet.Failed, "set up", "access is denied", "Use a user who is an administrator"},
		},
		"replaced": {prepare: stage},
		"held": {
			prepare: func(t *testing.T, m *victim) {
				stage(t, m)
				// Samba, unlike Windows, lets a file be replaced that another
				// connection has open, but not be renamed, as the INDEX is first.
				m.held = hold(t, m, staged+`\win11_1.index`)
			},
			want: &trouble{fleet.Failed, "reading back", "another program has the file open on held", "Close what uses the file on the machine"},
			mend: func(t *testing.T, m *victim) {
				sameFile(t, filepath.Join(older, "win11_1.ckm"), m.staged("win11_1.ckm"))
				sameFile(t, filepath.Join(older, "win11_1.index"), m.staged("win11_1.index"))
				m.held()
			},
		},
		"clock": { // it is off by a year
			start: []string{"LD_PRELOAD=" + libs[0], "FAKETIME=-365d"},
		},
	})
	runFaults(t, o, "[pcs]", faults, o.windowsVictim, older)
}

// windowsVictim adds a Windows machine that something is going to happen to.
func (o *office) windowsVictim(t *testing.T, name string, env ...string) *victim {
	t.Helper()
	c := sambatest.Add(t, o.Net, name)
	if name == "full" {
		c.SmallDisk(t, c.Path("c"), 40<<20)
	}
	c.Run(t, env...)
	return &victim{Machine: c.Machine, o: o, drive: c.Seen(c.Path("c")), start: c.Run}
}

// hold opens a file of a machine as most programs do: nobody may remove or replace
// it until they let go.
func hold(t *testing.T, m *victim, path string) (letGo func()) {
	t.Helper()
	c, err := m.Dial(m.Address+":445", 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	d := &smb2.Dialer{Initiator: &smb2.NTLMInitiator{User: sambatest.Administrator, Password: sambatest.Password}}
	session, err := d.DialConn(t.Context(), c, m.Address)
	if err != nil {
		t.Fatal(err)
	}
	share, err := session.Mount(`\\` + m.Address + `\c$`)
	if err != nil {
		t.Fatal(err)
	}
	f, err := share.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return func() {
		f.Close()
		session.Logoff()
	}
}

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fleet"
	"prestage/internal/nettest"
)

const (
	kidaro   = `HKLM\SOFTWARE\Kidaro`
	kidaro64 = `HKLM\SOFTWARE\WOW6432Node\Kidaro`
)

// One command brings twenty Windows machines and three Linux machines from
// nothing to receipts. What came of it is asked of Samba's own tools.
func TestFleet(t *testing.T) {
	o := newOffice(t)
	o.pack(t, "win11", 1, 4<<20)
	var names []string
	text := "# the PCs of this test\n[pcs]\n"
	for i := range 20 {
		names = append(names, fmt.Sprintf("pc-%03d", i+1))
	}
	pcs := o.windows(t, names...)
	for _, c := range pcs {
		text += fmt.Sprintf("%s address=%s\n", c.Name, c.Address)
	}
	pcs[1].Registry(t, "createkey", `HKLM\SOFTWARE\WOW6432Node\Microsoft\Windows NT\CurrentVersion`)
	pcs[1].Registry(t, "setvalue", `HKLM\SOFTWARE\WOW6432Node\Microsoft\Windows NT\CurrentVersion`, "SystemRoot", "sz", `C:\Windows`)
	text += "[servers] kind=ssh user=root\n"
	var servers []*nettest.Machine
	for i := range 3 {
		m := o.linux(t, fmt.Sprintf("srv%d", i+1))
		servers = append(servers, m)
		text += fmt.Sprintf("%s address=%s folder=%q\n", m.Name, m.Address, m.Path("data"))
	}
	hosts := o.hosts(t, "hosts.txt", text)
	all := len(pcs) + len(servers)

	r, _ := o.report(t, 0, "push", "win11", "--images", o.repo, "--hosts", hosts)
	if len(r.Machines) != all || r.Counts[fleet.Done] != all {
		t.Errorf("%d machines, %v", len(r.Machines), r.Counts)
	}
	for _, m := range r.Machines {
		if len(m.Images) != 1 || m.Images[0].Verified == nil || !m.Checked || len(m.Deviations) > 0 {
			t.Errorf("%+v", m)
		}
	}
	for i, key := range map[int]string{0: kidaro, 1: kidaro64, len(pcs) - 1: kidaro} {
		o.checkClient(t, pcs[i], "win11", key)
	}
	o.checkRefused(t, pcs[0], "win11")
	o.checkClient(t, pcs[0], "win11", kidaro)
	for _, m := range servers {
		for _, file := range []string{"win11_1.ckm", "win11_1.index"} {
			path := m.Path("data", "MED-V Images", "PrestagedImages", file)
			sameFile(t, filepath.Join(o.repo, file), path)
			if st, err := os.Stat(path); err != nil || st.Mode() != 0o444 {
				t.Errorf("%s on %s: %v, %v", file, m.Name, st, err)
			}
		}
	}
	r, _ = o.report(t, 0, "push", "win11", "--images", o.repo, "--hosts", hosts, "--limit", "100MiB/s")
	if r.Counts[fleet.Already] != all || r.Moved != 0 {
		t.Errorf("again: %v, %d bytes", r.Counts, r.Moved)
	}
	o.run(t, 0, "status", "--hosts", hosts, "--report", filepath.Join(o.work, "status.html"))

	// What is damaged is told, and mended by the same command.
	damaged := pcs[2].Path("c", "MED-V Images", "PrestagedImages", "win11_1.ckm")
	if err := os.Truncate(damaged, 1000); err != nil {
		t.Fatal(err)
	}
	if out := o.run(t, 5, "status", "--hosts", hosts); !strings.Contains(out, "win11_1.ckm has 1000 bytes") {
		t.Errorf("damage is not told:\n%s", out)
	}
	o.run(t, 0, "push", "win11", "--images", o.repo, "--hosts", hosts)
	sameFile(t, filepath.Join(o.repo, "win11_1.ckm"), damaged)
	o.run(t, 0, "setup", "--strict", "--hosts", "@pcs", "--inventory", hosts)
	o.run(t, 2, "push", "win11", "--images", o.repo, "--hosts", "pc-[1-")
	o.run(t, 2, "push", "win11", "--images", o.repo, "--hosts", hosts, "--report", filepath.Join(o.work, "out.docx"))
}

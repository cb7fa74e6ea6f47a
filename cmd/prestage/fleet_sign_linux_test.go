package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/fleet"
)

// Machines are told over the network whose signatures count; from then on nothing
// else is brought to them, whatever the administrator's own settings say.
func TestFleetTrust(t *testing.T) {
	o := newOffice(t)
	o.pack(t, "win11", 1, 1<<20)
	pc, srv := o.windows(t, "pc-001")[0], o.linux(t, "srv1")
	hosts := o.hosts(t, "hosts.txt", fmt.Sprintf("pc-001 address=%s\n[servers] kind=ssh user=root\nsrv1 address=%s folder=%q\n",
		pc.Address, srv.Address, srv.Path("data")))
	key := filepath.Join(o.work, "release.key")
	o.run(t, 0, "key", "new", key, "--no-password")

	o.report(t, 0, "setup", "--hosts", hosts, "--trusted-key", strings.TrimSuffix(key, ".key")+".pub")
	r, out := o.report(t, 5, "push", "win11", "--images", o.repo, "--hosts", hosts)
	if len(r.Machines) != 2 || r.Moved != 0 || strings.Count(out, "would refuse it: win11:1 is not signed by a trusted key") != 2 ||
		!strings.Contains(out, "Sign the package (prestage sign)") {
		t.Errorf("an unsigned package: %v, %d bytes were moved\n%s", r.Counts, r.Moved, out)
	}
	o.run(t, 0, "sign", "win11", "--images", o.repo, "--key", key)
	r, _ = o.report(t, 0, "push", "win11", "--images", o.repo, "--hosts", hosts)
	if r.Counts[fleet.Done] != 2 {
		t.Errorf("a signed package: %v", r.Counts)
	}
	// Another key: what is there is named by who looks from elsewhere.
	other := filepath.Join(o.work, "other.key")
	o.run(t, 0, "key", "new", other, "--no-password")
	o.report(t, 0, "setup", "--hosts", hosts, "--trusted-key", strings.TrimSuffix(other, ".key")+".pub")
	if _, out := o.report(t, 5, "status", "--hosts", hosts); strings.Count(out, "win11:1 is not signed by a trusted key: it is signed by") != 2 {
		t.Errorf("after the key was replaced:\n%s", out)
	}
	// Signed anew, only the signature is brought.
	o.run(t, 0, "sign", "win11", "--images", o.repo, "--key", other)
	if r, _ := o.report(t, 0, "push", "win11", "--images", o.repo, "--hosts", hosts); r.Moved != 0 {
		t.Errorf("%d bytes were moved for a signature", r.Moved)
	}
	o.run(t, 0, "status", "--hosts", hosts)
}

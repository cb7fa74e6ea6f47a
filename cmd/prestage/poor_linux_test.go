package main

import (
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"prestage/internal/fleet"
)

// Links that lose a fifth of all packets, or carry little, take their time; that
// is all. (Now and then all of a machine's packets are lost for so long that it
// counts as gone; then it is tried again.)
func TestPoorLinks(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.pack(t, "small", 1, 150<<10)
	o.pack(t, "win11", 2, 2<<20)
	pc, slow, srv := o.windowsVictim(t, "pc"), o.windowsVictim(t, "slow"), o.linuxVictim(t, "srv")
	pc.Lose(t, 0.2)
	srv.Lose(t, 0.2)
	slow.Slow(t, 50_000)
	w := watch(t, map[string]string{"pc": pc.staged(), "slow": slow.staged(), "srv": srv.staged()}, o.repo)
	hosts := o.hosts(t, "hosts.txt", fmt.Sprintf("slow address=%s\n[lossy]\npc address=%s\nsrv address=%s kind=ssh %s\n", slow.Address, pc.Address, srv.Address, srv.settings))
	var both sync.WaitGroup
	for image, machines := range map[string]string{"small": "@lossy", "win11": "slow"} {
		both.Go(func() {
			r, _ := o.report(t, 0, "push", image, "--images", o.repo, "--hosts", machines, "--inventory", hosts, "--retry", "5m")
			for _, m := range r.Machines {
				t.Logf("%s: %s in %.1f s", m.Machine, m.State, m.Seconds)
			}
			checkTroubles(t, r, nil)
		})
	}
	both.Wait()
	w.end("pc", "slow", "srv")
}

// With --retry, one command is enough also where a link is cut and healed, or a
// machine starts anew.
func TestRetry(t *testing.T) {
	t.Parallel()
	o := newOffice(t)
	o.pack(t, "win11", 1, 16<<20)
	text := ""
	folders := map[string]string{}
	healed := []*victim{o.windowsVictim(t, "pc-link"), o.linuxVictim(t, "srv-link")}
	restarted := []*victim{o.windowsVictim(t, "pc-start"), o.linuxVictim(t, "srv-start")}
	for i, m := range append(healed, restarted...) {
		text += fmt.Sprintf("%s address=%s %s kind=%s\n", m.Name, m.Address, m.settings, []string{fleet.KindSMB, fleet.KindSSH}[i%2])
		folders[m.Name] = m.staged()
	}
	w := watch(t, folders, o.repo)
	for _, m := range healed {
		go func() {
			m.middle(t)
			m.Cut(t)
			until(t, m.Name+" is given up", func() bool { return !m.Connected(t) })
			m.Heal(t)
		}()
	}
	for _, m := range restarted {
		go func() {
			m.middle(t)
			m.Halt(t)
			m.start(t)
		}()
	}
	began := time.Now()
	r, _ := o.report(t, 0, "push", "win11", "--images", o.repo, "--hosts", o.hosts(t, "hosts.txt", text), "--limit-each", "4MiB/s", "--retry", "5m")
	checkTroubles(t, r, nil)
	for _, m := range r.Machines {
		if m.Attempts != 2 {
			t.Errorf("%s: %d attempts", m.Machine, m.Attempts)
		}
		if size := m.Images[0].Size; m.Images[0].Moved > size*9/10 {
			t.Errorf("%s: %d of %d bytes were moved again", m.Machine, m.Images[0].Moved, size)
		}
		for _, file := range []string{"win11_1.ckm", "win11_1.index"} {
			sameFile(t, filepath.Join(o.repo, file), filepath.Join(folders[m.Machine], file))
		}
	}
	if took := time.Since(began); took > 4*time.Minute { // it would go on for five
		t.Errorf("it took %v", took)
	}
	w.end("pc-link", "srv-link", "pc-start", "srv-start")
}

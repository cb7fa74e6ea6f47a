//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// pushMany measures many Windows machines behind one link.
func (b *bench) pushMany(string) ([]row, error) {
	n := b.scale.hosts
	images, err := b.random(b.scale.each)
	if err != nil {
		return nil, err
	}
	b.say("starting %d servers", n)
	l, err := b.newLab("many", b.scale.rate)
	if err != nil {
		return nil, err
	}
	defer l.close()
	var addresses, places, plain []string
	for range n {
		s, err := l.samba("c")
		if err != nil {
			return nil, err
		}
		addresses, places, plain = append(addresses, s.address), append(places, s.path("c")), append(plain, s.path("c", "plain"))
	}
	login, err := l.smbSettings()
	if err != nil {
		return nil, err
	}
	hosts, err := l.hostsFile("", addresses...)
	if err != nil {
		return nil, err
	}
	modes := b.modes("readback", "none")
	sides := l.ours(modes, images, hosts, places, "--parallel", fmt.Sprint(n))
	put := smbCommands(images)
	const loop = `put=$1 n=$2 list=$3; shift 3
printf '%s\n' $list | xargs -P "$n" -I {} "$@" //{}/c\$ -c "$put"`
	sides = append(sides, side{
		name: smbPuts, fresh: plain, wire: l.wire,
		argv: l.run(slices.Concat([]string{"sh", "-ec", loop, "sh", put, fmt.Sprint(n), strings.Join(addresses, " "), b.tools["smbclient"]}, login)...),
		after: func(round int) error {
			var errs []error
			for _, p := range plain {
				errs = append(errs, b.arrived(round, images, p))
			}
			return errors.Join(errs...)
		},
	})
	all, err := b.race(fmt.Sprintf("push to %d", n), sides)
	if err != nil {
		return nil, err
	}
	size, err := packageSize(images)
	if err != nil {
		return nil, err
	}
	// What the bare bytes of the packages take; frames and headers of the network
	// are ours to pay.
	floor := samples{{wall: time.Duration(float64(n) * float64(size) * 8 / float64(b.scale.rate) * float64(time.Second))}}
	var rows []row
	for i, m := range modes {
		work := fmt.Sprintf("%s, %d hosts at %.0f Mbit/s", m.name, n, float64(b.scale.rate)/1e6)
		rows = append(rows, constRow(work, there, pushBudget, all[i], floor[0].wall))
		if m.back {
			rows = append(rows, constRow(work, thereBack, 0, all[i], 2*floor[0].wall))
		}
		rows = append(rows, timeRow(work, smbPuts, 0, all[i], all[len(modes)]))
	}
	return append(rows, constRow(fmt.Sprintf("(%s, %d hosts)", smbPuts, n), there, 0, all[len(modes)], floor[0].wall)), nil
}

// perServer is how many machines one server plays at most: what calls it at once
// waits in a queue of 50 places.
const perServer = 25

// pushMemory measures what one of ours takes with many machines. They are
// simulated: a Samba server is reached under many addresses, each of which has
// its own drive.
func (b *bench) pushMemory(string) ([]row, error) {
	images, err := b.random(b.scale.small)
	if err != nil {
		return nil, err
	}
	l, err := b.newLab("memory", 0)
	if err != nil {
		return nil, err
	}
	defer l.close()
	var addresses, places []string
	var s *server
	for i := range b.scale.many {
		if i%perServer == 0 {
			if s, err = l.samba("c/%i"); err != nil { // the address that was called
				return nil, err
			}
		}
		a := fmt.Sprintf("%s.%d.%d", labNet, 2+i/perServer, 1+i%perServer)
		addresses, places = append(addresses, a), append(places, s.path("c", a))
		if err := os.Mkdir(places[i], 0o755); err != nil {
			return nil, err
		}
		if err := l.ips(s.cmd, "addr add "+a+netmask+" dev eth0"); err != nil {
			return nil, err
		}
	}
	var rows []row
	limit, against := b.memoryLimit()
	few := min(20, b.scale.many) // so many at once is the default
	for _, c := range [][2]int{{1, 1}, {few, few}, {b.scale.many, few}, {b.scale.many, b.scale.many}} {
		hosts, err := l.hostsFile("", addresses[:c[0]]...)
		if err != nil {
			return nil, err
		}
		side := l.ours(b.modes("readback"), images, hosts, places[:c[0]], "--parallel", fmt.Sprint(c[1]))[0]
		b.say("push to %d hosts, %d at once", c[0], c[1])
		x, err := b.once(side)
		if err == nil {
			err = side.after(0)
		}
		if err == nil {
			err = removeAll(side.fresh)
		}
		if err != nil {
			return nil, err
		}
		rows = append(rows, byteRow(fmt.Sprintf("peak memory, simulated hosts: %d, %d at once", c[0], c[1]), against, 1, x.rss, limit))
	}
	return rows, nil
}

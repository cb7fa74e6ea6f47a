//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// scale is how big the measurements of pushing and serving are.
type scale struct {
	hosts int   // machines behind one link
	rate  int64 // of that link, bits a second
	each  int64 // size of the package that each of them gets, bytes
	many  int   // machines of the measurement of memory
	small int64 // size of their package, bytes
	// away is the time from a far machine's question to the answer.
	away time.Duration

	served int64 // size of the package that is served, bytes
	load   int64 // bytes that are asked for by ranges of each size
	slow   int   // clients that take their time
}

// fullScale leaves the network the bound of the many machines on two cores.
var fullScale = scale{hosts: 20, rate: 400e6, each: 32 * mib, many: 200, small: 20 * mib, away: 20 * time.Millisecond,
	served: 256 * mib, load: 1500 * mib, slow: 5000}

const (
	// At least 0.9 of what the other side reaches.
	pushBudget = 1 / 0.9

	smbPut      = "smbclient put"
	smbPutCMAC  = "smbclient put, AES-CMAC"
	smbPutSync  = "smbclient put, then sync"
	smbPutCheck = "smbclient put, sync, get, sha256sum"
	sftpPut     = "sftp put"
	sftpCheck   = "sftp put, sync, get, sha256sum"
	smbPuts     = "smbclient put, all at once by xargs"
	there       = "the link, one way"
	thereBack   = "the link, there and back"
)

// pushTools are the programs that the measurements of pushing need besides ours.
var pushTools = []string{"ip", "tc", "nsenter", "smbd", "smbpasswd", "net", "smbclient", "sshd", "ssh-keygen", "sftp"}

// A mode is a way to push, and how its rows are called.
type mode struct {
	name  string
	flags []string
	back  bool // it reads all of it back
}

// modes are those of the named ways to check that this prestage knows. The first
// is its default.
func (b *bench) modes(ways ...string) []mode {
	help, _ := b.output(b.prestage, "push", "--help")
	_, help, known := bytes.Cut(help, []byte("--verify string"))
	if !known {
		return []mode{{name: "push", back: true}}
	}
	line, _, _ := bytes.Cut(help, []byte("\n"))
	var all []mode
	for _, way := range ways {
		if bytes.Contains(line, []byte(way)) {
			all = append(all, mode{"push --verify " + way, []string{"--verify", way}, way == "readback"})
		}
	}
	return all
}

// push measures pushing to machines and returns the rows of its table.
func (b *bench) push() ([]row, error) {
	if why := b.cannotPush(); why != "" {
		return []row{
			{work: "push over SMB", against: smbPut, budget: pushBudget, missing: why},
			{work: "push over SSH", against: sftpPut, budget: pushBudget, missing: why},
			{work: "push to many", against: there, budget: pushBudget, missing: why},
			{work: "peak memory, push to many", against: "192 MiB", budget: 1, missing: why},
		}, nil
	}
	if err := b.packed(); err != nil {
		return nil, err
	}
	home := b.path("home")
	b.env = []string{"HOME=" + home, "PRESTAGE_USER=root", "PRESTAGE_PASSWORD=" + labPassword, "SSH_AUTH_SOCK="}
	defer func() { b.env = nil }()
	var rows []row
	for _, part := range []func(home string) ([]row, error){b.pushSMB, b.pushFar, b.pushSSH, b.pushMany, b.pushMemory} {
		more, err := part(home)
		if err != nil {
			return nil, err
		}
		rows = append(rows, more...)
	}
	return rows, nil
}

// cannotPush says why this machine cannot measure pushing, if so.
func (b *bench) cannotPush() string {
	var missing []string
	for _, tool := range pushTools {
		if b.tools[tool] == "" {
			missing = append(missing, tool)
		}
	}
	switch {
	case len(missing) > 0:
		return "not measured: missing " + strings.Join(missing, ", ")
	case os.Geteuid() != 0:
		return "not measured: it takes root"
	}
	return ""
}

// packed packs the image unless that was measured before.
func (b *bench) packed() error {
	images := b.path("images")
	if _, err := os.Stat(filepath.Join(images, indexFile)); err != nil {
		b.say("pack")
		if err := os.MkdirAll(images, 0o755); err != nil {
			return err
		}
		if _, err := b.output(b.our("pack", b.image, "--name", imageName, "--images", images)...); err != nil {
			return err
		}
	}
	return readAll(filepath.Join(images, ckmFile))
}

// random packs an image of bytes that do not compress, so that a package of that
// size comes out, and returns its folder.
func (b *bench) random(size int64) (string, error) {
	images := b.path(fmt.Sprintf("random%d", size))
	if _, err := os.Stat(images); err == nil {
		return images, nil
	}
	if err := os.Mkdir(images, 0o755); err != nil {
		return "", err
	}
	image := filepath.Join(images, "disk.raw")
	p := make([]byte, size)
	rand.NewChaCha8([32]byte{1}).Read(p)
	if err := os.WriteFile(image, p, 0o644); err != nil {
		return "", err
	}
	defer os.Remove(image)
	_, err := b.output(b.our("pack", image, "--name", imageName, "--images", images)...)
	return images, err
}

// hostsFile writes a hosts file with a line for each machine.
func (l *lab) hostsFile(head string, addresses ...string) (string, error) {
	var text strings.Builder
	text.WriteString(head)
	for i, a := range addresses {
		fmt.Fprintf(&text, "machine-%d address=%s\n", i+1, a)
	}
	file := filepath.Join(l.dir, "hosts.txt")
	return file, os.WriteFile(file, []byte(text.String()), 0o644)
}

// ours makes a side of each mode, all of which push from images to the machines
// of a hosts file. Places are the folders on the servers that a push fills.
func (l *lab) ours(modes []mode, images, hosts string, places []string, flags ...string) (sides []side) {
	var made []string // by a push in a place
	for _, p := range places {
		made = append(made, filepath.Join(p, "MED-V Images"))
	}
	for _, m := range modes {
		args := slices.Concat([]string{"push", imageName, "--images", images, "--hosts", hosts}, m.flags, flags)
		sides = append(sides, side{
			name: m.name, argv: l.run(l.b.our(args...)...), fresh: made, wire: l.wire,
			after: func(round int) error {
				for _, p := range made {
					if err := l.b.arrived(round, images, filepath.Join(p, "PrestagedImages")); err != nil {
						return err
					}
				}
				return nil
			},
		})
	}
	return sides
}

// arrived compares both files of a package with what lies in a folder, once.
func (b *bench) arrived(round int, images, folder string) error {
	if round > 0 {
		return nil
	}
	var errs []error
	for _, file := range []string{ckmFile, indexFile} {
		errs = append(errs, sameContent(filepath.Join(images, file), filepath.Join(folder, file)))
	}
	return errors.Join(errs...)
}

// smbCommands puts both files of a package into a new folder.
func smbCommands(images string) string {
	return fmt.Sprintf(`mkdir plain; cd plain; put "%s" %s; put "%s" %s`,
		filepath.Join(images, ckmFile), ckmFile, filepath.Join(images, indexFile), indexFile)
}

// pushSMB measures one Windows machine, as Samba plays it.
func (b *bench) pushSMB(string) ([]row, error) {
	l, err := b.newLab("smb", 0)
	if err != nil {
		return nil, err
	}
	defer l.close()
	s, err := l.samba("c")
	if err != nil {
		return nil, err
	}
	login, err := l.smbSettings()
	if err != nil {
		return nil, err
	}
	hosts, err := l.hostsFile("", s.address)
	if err != nil {
		return nil, err
	}
	images, plain := b.path("images"), s.path("c", "plain")
	modes := b.modes("readback", "sample", "none")
	sides := l.ours(modes, images, hosts, []string{s.path("c")})
	client := append([]string{b.tools["smbclient"], `//` + s.address + `/c$`}, login...)
	// As with a server that knows no quicker signatures, Windows 10 for one.
	const cmac = `"$@" --option="client smb3 signing algorithms=AES-128-CMAC" -c "$put"`
	const begin = `put=$1 get=$2 there=$3; shift 3; `
	put := smbCommands(images)
	get := fmt.Sprintf("cd plain; get %s -", ckmFile)
	for _, x := range [][2]string{
		{smbPut, `"$@" -c "$put"`},
		{smbPutCMAC, cmac},
		{smbPutSync, `"$@" -c "$put"; sync "$there"`},
		{smbPutCheck, `"$@" -c "$put"; sync "$there"; "$@" -E -c "$get" | sha256sum`},
	} {
		sides = append(sides, side{
			name: x[0], fresh: []string{plain}, wire: l.wire,
			argv:  l.run(append([]string{"sh", "-ec", begin + x[1], "sh", put, get, filepath.Join(plain, ckmFile)}, client...)...),
			after: func(round int) error { return b.arrived(round, images, plain) },
		})
	}
	all, err := b.race("push over SMB", sides)
	if err != nil {
		return nil, err
	}
	return b.pushRows("over SMB", modes, sides, all, []bid{{smbPut, pushBudget, ""}, {smbPutCMAC, 0, ""}, {smbPutSync, 0, ""}, {smbPutCheck, 0, ""}})
}

// pushFar measures one Windows machine at the end of a long line, where what is
// not under way at once is waited for.
func (b *bench) pushFar(string) ([]row, error) {
	images, err := b.random(b.scale.each)
	if err != nil {
		return nil, err
	}
	l, err := b.newLab("far", 0)
	if err != nil {
		return nil, err
	}
	defer l.close()
	s, err := l.samba("c")
	if err != nil {
		return nil, err
	}
	line := &server{}
	if err := l.plug(line, "445", "", self(), relayVerb, ":445", net.JoinHostPort(s.address, "445"), (b.scale.away / 2).String()); err != nil {
		return nil, err
	}
	login, err := l.smbSettings()
	if err != nil {
		return nil, err
	}
	hosts, err := l.hostsFile("", line.address)
	if err != nil {
		return nil, err
	}
	modes, plain := b.modes("readback", "none"), s.path("c", "plain")
	sides := l.ours(modes, images, hosts, []string{s.path("c")})
	put := smbCommands(images)
	sides = append(sides, side{
		name: smbPut, fresh: []string{plain}, wire: l.wire,
		argv:  l.run(append([]string{b.tools["smbclient"], `//` + line.address + `/c$`, "-c", put}, login...)...),
		after: func(round int) error { return b.arrived(round, images, plain) },
	})
	all, err := b.race("push over SMB, far away", sides)
	if err != nil {
		return nil, err
	}
	var rows []row
	for i, m := range modes {
		rows = append(rows, timeRow(fmt.Sprintf("%s, over SMB, %v away", m.name, b.scale.away), smbPut, pushBudget, all[i], all[len(modes)]))
	}
	return rows, nil
}

// pushSSH measures one Linux machine.
func (b *bench) pushSSH(home string) ([]row, error) {
	l, err := b.newLab("ssh", 0)
	if err != nil {
		return nil, err
	}
	defer l.close()
	s, err := l.sshd(home)
	if err != nil {
		return nil, err
	}
	hosts, err := l.hostsFile(fmt.Sprintf("[servers] kind=ssh user=root folder=%q\n", s.path("data")), s.address)
	if err != nil {
		return nil, err
	}
	images, plain := b.path("images"), s.path("plain")
	modes := b.modes("readback", "host", "none") // the machine has sha256sum, but no prestage
	sides := l.ours(modes, images, hosts, []string{s.path("data")})
	client := []string{b.tools["sftp"], "-q", "-b", "-", "-i", filepath.Join(home, ".ssh", "id_ed25519"),
		"-o", "UserKnownHostsFile=" + filepath.Join(home, ".ssh", "known_hosts"), "-o", "StrictHostKeyChecking=yes", "root@" + s.address}
	put := fmt.Sprintf("mkdir \"%[1]s\"\nput \"%[2]s\" \"%[1]s/%[3]s\"\nput \"%[4]s\" \"%[1]s/%[5]s\"\n",
		plain, filepath.Join(images, ckmFile), ckmFile, filepath.Join(images, indexFile), indexFile)
	get := fmt.Sprintf("get \"%s/%s\" /dev/stdout\n", plain, ckmFile)
	const script = `put=$1 get=$2 there=$3; shift 3; printf %s "$put" | "$@" >/dev/null`
	for _, x := range [][2]string{
		{sftpPut, script},
		{sftpCheck, script + `; sync "$there"; printf %s "$get" | "$@" | sha256sum`},
	} {
		sides = append(sides, side{
			name: x[0], fresh: []string{plain}, wire: l.wire,
			argv:  l.run(append([]string{"sh", "-ec", x[1], "sh", put, get, filepath.Join(plain, ckmFile)}, client...)...),
			after: func(round int) error { return b.arrived(round, images, plain) },
		})
	}
	all, err := b.race("push over SSH", sides)
	if err != nil {
		return nil, err
	}
	return b.pushRows("over SSH", modes, sides, all, []bid{{sftpPut, pushBudget, ""}, {sftpCheck, 0, ""}})
}

// pushRows makes the rows of one machine: time, bytes on the wire and memory of
// each mode.
func (b *bench) pushRows(way string, modes []mode, sides []side, all []samples, bids []bid) ([]row, error) {
	size, err := packageSize(b.path("images"))
	if err != nil {
		return nil, err
	}
	var rows []row
	for i, m := range modes {
		work := m.name + ", " + way
		for _, d := range bids {
			peer := slices.IndexFunc(sides, func(s side) bool { return s.name == d.against })
			rows = append(rows, timeRow(work, d.against, d.budget, all[i], all[peer]))
		}
		sent, received := all[i].wire()
		rows = append(rows,
			byteRow(work+", sent", "bytes of the package", 0, sent, size),
			byteRow(work+", received", "bytes of the package", 0, received, size))
	}
	limit, against := b.memoryLimit()
	return append(rows, byteRow("peak memory, "+modes[0].name+", "+way, against, 1, all[0].rss(), limit)), nil
}

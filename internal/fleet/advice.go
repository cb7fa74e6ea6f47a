package fleet

import (
	"context"
	"errors"
	"io/fs"

	"prestage/internal/host"
	"prestage/internal/prestage"
	"prestage/internal/repo"
	"prestage/internal/sign"
)

// again is the end of most advice: what is right on a machine stays.
const again = "run the same command again: it goes on where it was"

// advices say what to do about errors, the more particular ones first.
var advices = []struct {
	is func(error) bool
	do string
}{
	{wraps(host.ErrUnreachable), "Switch the machine on; check its name, its network and its firewall (port 445 for smb, 22 for ssh). Then " + again + "."},
	{wraps(host.ErrLogon), "Check the user and the password, or the Kerberos ticket (klist), before trying other machines, or the account may be locked. Then " + again + "."},
	{wraps(host.ErrDiskFull), "Make room on the machine's disk, or name a folder on another one. Then " + again + "."},
	{wraps(host.ErrHeld), "Close what uses the file on the machine, a virtual machine or a backup for instance, or wait until it has ended. Then " + again + "."},
	{wraps(sign.ErrUntrusted), "Sign the package (prestage sign), or let the machine trust its key (prestage setup --trusted-key with --hosts). Then " + again + "."},
	{wraps(prestage.ErrDamaged), "The error says whether the package in the repository is damaged (prestage verify, prestage repair) or the machine's disk is to be checked. Then " + again + "."},
	{wraps(prestage.ErrNotSetUp), "Set the machine up first: prestage setup FOLDER --hosts with this machine. Then " + again + "."},
	{wraps(repo.ErrNotFound), "Check the name and version of the image and which repository is used (prestage list). Then " + again + "."},
	{wraps(repo.ErrUnavailable), "Check that the repository can be reached from here. Then " + again + "."},
	{wraps(fs.ErrPermission), "Use a user who is an administrator of the machine, and check that its policies let administrators in over the network. Then " + again + "."},
	{wraps(fs.ErrNotExist), "Create the folder that the error names, or name another. Then " + again + "."},
	{wraps(context.DeadlineExceeded), "The machine or the network was too slow; see whether another program holds the files. Then " + again + "."},
}

func wraps(target error) func(error) bool {
	return func(err error) bool { return errors.Is(err, target) }
}

// advice says what to do about a machine or an image, or nothing.
func advice(s State, err error, deviates bool) string {
	switch s {
	case Interrupted:
		return "Run the same command again: it goes on where it was."
	case NotBegun:
		return "See the reason; then run the same command again."
	}
	for _, a := range advices {
		if err != nil && a.is(err) {
			return a.do
		}
	}
	switch {
	case err != nil:
		return "See to what the error says, then " + again + "."
	case deviates:
		return "Run prestage setup on the machine: it mends rights and the read-only mark; prestage verify and push mend the rest."
	}
	return ""
}

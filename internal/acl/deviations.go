package acl

import (
	"fmt"
	"strings"
)

// maxDeviations is how many entries that should not be there are told one by
// one. A DACL may have thousands, on every file of a machine that means harm.
const maxDeviations = 16

// Deviations tells, in words, how got deviates from d: the owner, and the DACL
// entry by entry. The order of entries does not count, since all of d's allow.
// An owner that is not known, and System as owner, are no deviations.
func (d Descriptor) Deviations(got Descriptor) (list []string) {
	deviate := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }
	if d.Owner != "" && got.Owner != "" && got.Owner != d.Owner && got.Owner != System {
		deviate("it belongs to %s and should belong to %s", got.Owner.name(), d.Owner.name())
	}
	if !got.HasDACL {
		deviate("it has no DACL: everybody may do everything")
		return list
	}
	if d.Protected && !got.Protected {
		deviate("its DACL is not protected: it inherits rights from the folder above")
	}
	rest := append([]Entry(nil), got.Entries...)
	for _, want := range d.Entries {
		i := find(rest, want)
		if i < 0 {
			deviate("its DACL has no entry for %s, who should be allowed %s", want.SID.name(), want.Mask)
			continue
		}
		e := rest[i]
		rest = append(rest[:i], rest[i+1:]...)
		if m := e.Mask.specific(); m != want.Mask {
			deviate("its DACL allows %s %s and should allow %s", e.SID.name(), m, want.Mask)
		}
		if e.Flags != want.Flags {
			deviate("its DACL's entry for %s is %s and should be %s", e.SID.name(), flagNames(e.Flags), flagNames(want.Flags))
		}
	}
	for i, e := range rest {
		if i == maxDeviations {
			deviate("its DACL has %d more entries, which should not be there", len(rest)-i)
			break
		}
		switch e.Type {
		case Allow:
			deviate("its DACL allows %s %s and should not name them", e.SID.name(), e.Mask.specific())
		case Deny:
			deviate("its DACL denies %s %s and should not", e.SID.name(), e.Mask.specific())
		default:
			deviate("its DACL has an entry of type %d, which should not be there", e.Type)
		}
	}
	return list
}

// find returns the entry of list that want is to be compared with: the equal one
// or else the first for the same identity; -1 when there is none.
func find(list []Entry, want Entry) int {
	found := -1
	for i, e := range list {
		if e.Type != want.Type || e.SID != want.SID {
			continue
		}
		if e.Flags == want.Flags && e.Mask.specific() == want.Mask {
			return i
		}
		if found < 0 {
			found = i
		}
	}
	return found
}

// specific replaces generic rights by what they mean for files (winnt.h:
// FILE_ALL_ACCESS, FILE_GENERIC_READ, FILE_GENERIC_WRITE, FILE_GENERIC_EXECUTE).
func (m Mask) specific() Mask {
	for generic, rights := range map[Mask]Mask{
		0x10000000: FullControl, 0x80000000: 0x120089, 0x40000000: 0x120116, 0x20000000: 0x1200a0,
	} {
		if m&generic != 0 {
			m = m&^generic | rights
		}
	}
	return m
}

// String gives the rights as a number, with their usual name if they have one.
func (m Mask) String() string {
	name := map[Mask]string{FullControl: "full control", 0x120089: "read", 0x12008d: "read and append",
		0x1200a9: "read and execute", 0x1301bf: "modify", 0x120116: "write", 0x12019f: "read and write"}[m]
	if name == "" {
		return fmt.Sprintf("%#x", uint32(m))
	}
	return fmt.Sprintf("%#x (%s)", uint32(m), name)
}

func (s SID) name() string {
	name := map[SID]string{AuthenticatedUsers: "Authenticated Users", System: "SYSTEM", Administrators: "Administrators",
		"S-1-1-0": "Everyone", "S-1-3-0": "CREATOR OWNER", "S-1-5-32-545": "Users", "S-1-5-4": "INTERACTIVE",
		"S-1-5-7": "ANONYMOUS LOGON", "S-1-5-19": "LOCAL SERVICE", "S-1-5-20": "NETWORK SERVICE"}[s]
	if name == "" {
		return string(s)
	}
	return name
}

func flagNames(f byte) string {
	var names []string
	for _, n := range []struct {
		bit  byte
		name string
	}{{inheritByFiles, "for files below"}, {inheritByFolders, "for folders below"}, {0x04, "for one level alone"},
		{0x08, "not for itself"}, {inherited, "inherited"}} {
		if f&n.bit != 0 {
			names = append(names, n.name)
		}
	}
	if len(names) == 0 {
		return "for itself alone"
	}
	return strings.Join(names, ", ")
}

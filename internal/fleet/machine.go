// Package fleet is the procedure on many machines: which machines, when and how
// many at once, how fast, and the report of it all. It knows nothing of how a
// machine is reached: that is the Job's.
package fleet

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// MaxMachines is how many machines a run may have.
const MaxMachines = 100_000

// The kinds of machines, by how they are reached.
const (
	KindSMB = "smb" // Windows, over its administrative shares
	KindSSH = "ssh" // Linux, over SSH and SFTP
)

// Machine is one machine of a fleet and how to reach it. What is empty was not
// given.
type Machine struct {
	Name    string // by which it is reported
	Group   string
	Kind    string // KindSMB or KindSSH, never empty
	User    string
	Address string // to connect to instead of Name
	Port    string
	Folder  string // where "MED-V Images" is or shall be
}

// Target returns what to connect to.
func (m Machine) Target() string { return cmp.Or(m.Address, m.Name) }

// endpoint is what two machines must not have in common.
func (m Machine) endpoint() string {
	return strings.ToLower(m.Target()) + " port " + cmp.Or(m.Port, map[string]string{KindSMB: "445", KindSSH: "22"}[m.Kind])
}

// keys are the settings of a machine, by their names in a hosts file.
var keys = map[string]func(m *Machine, value string) error{
	"kind": func(m *Machine, v string) error {
		if v != KindSMB && v != KindSSH {
			return fmt.Errorf("kind=%q must be %s or %s", v, KindSMB, KindSSH)
		}
		m.Kind = v
		return nil
	},
	"user": func(m *Machine, v string) error {
		// DOMAIN\user%password and user:password are how other tools take them.
		if strings.ContainsAny(v, ":%") {
			return fmt.Errorf("user= may hold neither : nor %%; %s", secretsBelong)
		}
		m.User = v
		return nil
	},
	"port": func(m *Machine, v string) error {
		if n, err := strconv.ParseUint(v, 10, 16); err != nil || n == 0 {
			return fmt.Errorf("port=%q must be a number from 1 to 65535", v)
		}
		m.Port = v
		return nil
	},
	"folder": func(m *Machine, v string) error {
		m.Folder = v
		return nil
	},
	"address": func(m *Machine, v string) error {
		if err := checkName(v); err != nil {
			return fmt.Errorf("address: %w", err)
		}
		m.Address = v
		return nil
	},
}

// secretsBelong ends the refusal of a password.
const secretsBelong = "passwords do not belong into a hosts file or on a command line: put them into the environment " +
	"(PRESTAGE_USER, PRESTAGE_PASSWORD) or use a key agent"

// secrets are keys that people try.
var secrets = []string{"password", "pass", "passwd", "passwort", "pw", "pwd", "passphrase", "secret", "token", "credentials"}

// set changes one setting. A value that may be a password is not repeated.
func (m *Machine) set(key, value string) error {
	if slices.Contains(secrets, strings.ToLower(key)) {
		return fmt.Errorf("%s: %s", key, secretsBelong)
	}
	apply := keys[key]
	if apply == nil {
		return fmt.Errorf("there is no setting %q; there are kind, user, port, folder and address", key)
	}
	if value == "" || strings.ContainsFunc(value, unicode.IsControl) {
		return fmt.Errorf("%s= needs a value of printable characters", key)
	}
	return apply(m, value)
}

// checkName checks the name or the address of a machine.
func checkName(s string) error {
	_, err := netip.ParseAddr(s)
	switch {
	case err == nil:
		return nil
	case strings.Contains(s, "@"):
		return fmt.Errorf("%q is not the name of a machine; give the user as user=NAME", s)
	case strings.Contains(s, ":"):
		return fmt.Errorf("%q is not the name of a machine; give the port as port=NUMBER", s)
	case len(s) > maxName:
		return errLong(s)
	case s == "" || strings.Trim(s, nameChars) != "" || strings.ContainsRune("-.", rune(s[0])):
		return fmt.Errorf("%q is not the name of a machine: letters, digits, \"-\", \"_\" and \".\"", s)
	}
	return nil
}

func errLong(s string) error {
	return fmt.Errorf("%.20q… is too long for the name of a machine", s)
}

// maxName is how long a name in the DNS may be.
const maxName = 253

const nameChars = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."

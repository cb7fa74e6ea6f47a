package fleet

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Bounds of a hosts file, in bytes.
const (
	maxHostsFile = 16 << 20
	maxHostsLine = 64 << 10
)

// Inventory is what a hosts file names.
type Inventory struct {
	Machines []Machine

	groups map[string]int     // the line of each
	lines  map[string]int     // of each machine, by its name in small letters
	at     map[string]string  // endpoint: the machine that has it
	byName map[string]Machine // by its name in small letters
}

func newInventory() *Inventory {
	return &Inventory{groups: map[string]int{}, lines: map[string]int{}, at: map[string]string{}, byName: map[string]Machine{}}
}

// Group returns the machines of a group; ok is false where there is none.
func (inv *Inventory) Group(name string) (machines []Machine, ok bool) {
	_, ok = inv.groups[name]
	for _, m := range inv.Machines {
		if ok && m.Group == name {
			machines = append(machines, m)
		}
	}
	return machines, ok
}

// ParseHosts reads a hosts file; file is its name for error messages.
//
//	# all the PCs of the second floor
//	[floor2] user=EXAMPLE\admin folder="D:\VM Data"
//	pc-[001-020]
//	pc-021 address=192.0.2.7
//	[servers] kind=ssh
//	srv[1-3,7].example port=2222
func ParseHosts(r io.Reader, file string) (*Inventory, error) {
	text, err := io.ReadAll(io.LimitReader(r, maxHostsFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	switch {
	case len(text) > maxHostsFile:
		return nil, fmt.Errorf("%s has more than %d bytes; is it a hosts file?", file, maxHostsFile)
	case bytes.HasPrefix(text, []byte{0xff, 0xfe}), bytes.HasPrefix(text, []byte{0xfe, 0xff}):
		return nil, fmt.Errorf("%s is in UTF-16; save it as UTF-8", file)
	}
	inv := newInventory()
	group := Machine{Kind: KindSMB}
	scan := bufio.NewScanner(bytes.NewReader(bytes.TrimPrefix(text, []byte("\ufeff"))))
	scan.Buffer(nil, maxHostsLine)
	line := 0
	for scan.Scan() {
		line++
		if err := inv.line(scan.Text(), line, &group); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, line, err)
		}
	}
	if err := scan.Err(); errors.Is(err, bufio.ErrTooLong) {
		return nil, fmt.Errorf("%s:%d: the line has more than %d bytes", file, line+1, maxHostsLine)
	} else if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	return inv, nil
}

// line reads one line. Group holds the settings of the group it is in.
func (inv *Inventory) line(text string, line int, group *Machine) error {
	if !utf8.ValidString(text) {
		return errors.New("there are bytes that are not UTF-8; save the file as UTF-8")
	}
	words, err := split(text)
	if err != nil || len(words) == 0 {
		return err
	}
	if name, ok := strings.CutPrefix(words[0], "["); ok && strings.HasSuffix(name, "]") && strings.Count(name, "]") == 1 {
		name = strings.TrimSuffix(name, "]")
		if name == "" || strings.Trim(name, nameChars) != "" || strings.Trim(name[:1], "0123456789-.") == "" {
			return fmt.Errorf("%q is not the name of a group: letters, digits, \"-\", \"_\" and \".\", a letter first", name)
		}
		if before, ok := inv.groups[name]; ok {
			return fmt.Errorf("group %q is in line %d already; put its machines there", name, before)
		}
		inv.groups[name] = line
		*group = Machine{Kind: KindSMB, Group: name}
		if err := group.settings(words[1:]); err != nil {
			return err
		}
		if group.Address != "" {
			return errors.New("address is a setting of one machine, not of a group")
		}
		return nil
	}
	names, err := expand(words[0], MaxMachines-len(inv.Machines))
	if err != nil {
		return err
	}
	m := *group
	if err := m.settings(words[1:]); err != nil {
		return err
	}
	if m.Address != "" && len(names) > 1 {
		return fmt.Errorf("address is a setting of one machine, and %q are %d", words[0], len(names))
	}
	for _, m.Name = range names {
		if err := inv.add(m, line); err != nil {
			return err
		}
	}
	return nil
}

func (inv *Inventory) add(m Machine, line int) error {
	key := strings.ToLower(m.Name)
	if before, ok := inv.lines[key]; ok {
		return fmt.Errorf("%s is named in line %d already, and again in line %d; remove one", m.Name, before, line)
	}
	if other, ok := inv.at[m.endpoint()]; ok {
		return fmt.Errorf("%s is the same machine as %s in line %d: %s; remove one", m.Name, other, inv.lines[strings.ToLower(other)], m.endpoint())
	}
	inv.lines[key], inv.at[m.endpoint()], inv.byName[key] = line, m.Name, m
	inv.Machines = append(inv.Machines, m)
	return nil
}

// settings reads the words that follow a name. A word that is no setting may be
// a password and is not repeated.
func (m *Machine) settings(words []string) error {
	seen := map[string]bool{}
	for _, w := range words {
		key, value, ok := strings.Cut(w, "=")
		if !ok || key == "" {
			return errors.New("what follows the name must be settings, as in user=NAME; a value with spaces is put in quotes")
		}
		if seen[key] {
			return fmt.Errorf("%s= is given twice in this line", key)
		}
		seen[key] = true
		if err := m.set(key, value); err != nil {
			return err
		}
	}
	return nil
}

// split cuts a line into words. Quotes keep spaces, and "#", inside; a
// backslash is only that, since paths have them.
func split(line string) (words []string, err error) {
	var (
		word   strings.Builder
		inWord bool
		quoted bool
	)
	for _, c := range line {
		switch {
		case c == '"' && (quoted || inWord):
			quoted = !quoted
		case c == '"':
			return nil, errors.New(`only values are put in quotes, as in folder="D:\VM Data"`)
		case quoted:
			word.WriteRune(c)
		case c == '#' && !inWord:
			return words, nil
		case c == ' ' || c == '\t' || c == '\r':
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			inWord = true
			word.WriteRune(c)
		}
	}
	if quoted {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

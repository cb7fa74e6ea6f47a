package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"

	"github.com/zeebo/blake3"
)

// groupMark is before a group's name where machines are named.
const groupMark = "@"

func checkWord(s string) error {
	if s == "" || len(s) > 255 || strings.ContainsFunc(s, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '@' || r == ',' }) {
		return errors.New("a name has 1 to 255 bytes, without spaces, commas and @")
	}
	return nil
}

// checkMachines checks what names machines.
func (p *Policy) checkMachines(list []string, groups bool) error {
	if len(list) > maxMachines {
		return fmt.Errorf("it names more than %d machines", maxMachines)
	}
	for _, s := range list {
		if group, ok := strings.CutPrefix(s, groupMark); ok {
			if _, known := p.Groups[group]; !groups || !known {
				return fmt.Errorf("%q: there is no such group here", s)
			}
			continue
		}
		if err := checkWord(s); err != nil {
			return fmt.Errorf("%q: %w", s, err)
		}
		if _, err := path.Match(s, ""); err != nil || strings.Contains(s, "/") {
			return fmt.Errorf("%q is no pattern: use * and ?", s)
		}
	}
	return nil
}

// For returns the images that a machine is to have by a policy. Names of machines
// are compared without case, as networks do, and both in full and up to the first
// dot.
func (p *Policy) For(machine string) map[string]Rule {
	own := map[string]Rule{}
	for name, r := range p.Images {
		if p.names(r.Machines, machine) {
			own[name] = r
		}
	}
	return own
}

// Rule returns the rule for an image, and whether a machine is to have the image by it.
func (p *Policy) Rule(image, machine string) (r Rule, assigned bool) {
	r = p.Images[image]
	return r, p.names(r.Machines, machine)
}

func (p *Policy) names(list []string, machine string) bool {
	machine = strings.ToLower(machine)
	short, _, _ := strings.Cut(machine, ".")
	for _, s := range list {
		if group, ok := strings.CutPrefix(s, groupMark); ok {
			if p.names(p.Groups[group], machine) {
				return true
			}
			continue
		}
		s = strings.ToLower(s)
		for _, m := range []string{machine, short} {
			if ok, _ := path.Match(s, m); ok {
				return true
			}
		}
	}
	return false
}

// Share is where a machine stands among all that may have an image, from 0 to 99:
// a wave of n per cent has those that stand below n. It is the same at all times,
// and another one for each image, so that not always the same machines are first.
func Share(image, machine string) int {
	short, _, _ := strings.Cut(strings.ToLower(machine), ".")
	sum := blake3.Sum256([]byte(image + "\n" + short))
	return int(binary.LittleEndian.Uint64(sum[:]) % 100)
}

// Waits says why a machine must not update an image by itself now, "" if it may,
// and when that is to be asked again; the zero time if that cannot be told.
func (r *Rule) Waits(image, machine string, now time.Time) (why string, until time.Time) {
	if r.Wave > 0 && Share(image, machine) >= r.Wave {
		return fmt.Sprintf("it is not in the wave of %d %%", r.Wave), time.Time{}
	}
	if r.NotBefore != nil && now.Before(*r.NotBefore) {
		return "it is not before " + r.NotBefore.Local().Format("2006-01-02 15:04"), *r.NotBefore
	}
	if open, change := r.Window.At(now); !open {
		return fmt.Sprintf("the window %s is closed", r.Window), change
	}
	return "", time.Time{}
}

// KeepOld returns how many versions before the new one stay.
func (r *Rule) KeepOld() int {
	if r.Keep == nil {
		return 1
	}
	return *r.Keep
}

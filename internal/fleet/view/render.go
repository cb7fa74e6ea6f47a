package view

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/mattn/go-runewidth"

	"prestage/internal/fleet"
)

// headLines is how many lines stand above those of the machines.
const headLines = 2

// room returns how many machines may have a line in a table of so many lines,
// when so many are worked on.
func room(height, working int) int {
	n := max(height-headLines, 0)
	if working > n && n > 0 {
		n-- // "… and 12 more"
	}
	return n
}

// render draws the table, in at most height lines of at most width columns.
func (t *table) render(width, height int, now time.Time) []string {
	lines := []string{t.counts(now), t.sum(width)}
	working := t.working()
	n := min(room(height, working), working)
	c := t.columns(width)
	for _, i := range t.rows[:n] {
		lines = append(lines, c.line(t, t.machines[i]))
	}
	if working > n {
		lines = append(lines, fmt.Sprintf("  … and %d more", working-n))
	}
	lines = lines[:min(len(lines), max(height, 1))]
	for i, l := range lines {
		lines[i] = strings.TrimRight(runewidth.Truncate(l, width, "…"), " ")
	}
	return lines
}

// counts says how many machines are in which state.
func (t *table) counts(now time.Time) string {
	again, at := t.again()
	s := fmt.Sprintf("%s: %d waiting, %d working, %d done", count(t.total, "machine"), t.waiting(), t.working(), t.ended[fleet.Done])
	for _, state := range []fleet.State{fleet.Already, fleet.Failed, fleet.Unreachable, fleet.Interrupted, fleet.NotBegun} {
		if n := t.ended[state]; n > 0 {
			s += fmt.Sprintf(", %d %s", n, state)
		}
	}
	if again > 0 {
		s += fmt.Sprintf(", %d again at %s", again, clock(at, now, "15:04"))
	}
	return s
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// clock returns a time of day in a layout, with the day if it is another one.
func clock(at, now time.Time, layout string) string {
	at, now = at.Local(), now.Local()
	if at.YearDay() != now.YearDay() || at.Year() != now.Year() {
		return at.Format("2006-01-02 15:04")
	}
	return at.Format(layout)
}

// sum says how far the whole run is.
func (t *table) sum(width int) string {
	rest, known := t.restOfAll()
	part := float64(t.settled) / float64(max(t.total, 1))
	moved := amount(t.work.moved)
	if known && t.work.moved+rest > 0 {
		part = float64(t.work.moved) / float64(t.work.moved+rest)
		if rest > 0 {
			moved += " of ~" + amount(t.work.moved+rest)
		}
	}
	if t.settled < t.total {
		part = min(part, 0.99)
	}
	s := fmt.Sprintf("%3d %%", int(part*100))
	if width >= 60 {
		s = bar(20, part) + " " + s
	}
	if t.work.moved > 0 {
		s += ", " + moved
	}
	switch v, ok := t.work.rate.perSecond(); {
	case t.cut:
		return s + ", interrupted: ending what is under way"
	case !t.opens.IsZero() && t.working() == 0:
		return s + ", goes on at " + t.opens.Local().Format("2006-01-02 15:04")
	case ok && t.working() > 0:
		s += ", " + amount(int64(v)) + "/s"
	}
	if d, ok := t.left(); ok {
		s += ", " + about(d) + " left"
	}
	return s
}

func bar(width int, part float64) string {
	n := min(int(part*float64(width)), width)
	s := strings.Repeat("=", n)
	if n > 0 && n < width {
		s = s[1:] + ">"
	}
	return "[" + s + strings.Repeat(" ", width-n) + "]"
}

// amount keeps the number of digits behind the point, so that columns are calm.
func amount(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%dB", n)
	}
	return units.CustomSize("%.1f%s", float64(n), 1024, []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"})
}

// about says how long something takes, not more exactly than can be known.
func about(d time.Duration) string {
	switch s := int(math.Ceil(d.Seconds())); {
	case s < 60:
		return fmt.Sprintf("%d s", s)
	case s < 600:
		s = (s + 4) / 5 * 5
		return fmt.Sprintf("%d min %02d s", s/60, s%60)
	case s < 3600:
		return fmt.Sprintf("%d min", (s+59)/60)
	default:
		m := (s + 59) / 60
		return fmt.Sprintf("%d h %02d min", m/60, m%60)
	}
}

// columns are the widths of a machine's line; what is 0 is left out.
type columns struct{ name, step, image, bar, percent, rate, left int }

const between = "  "

// columns lays the lines out: what matters less goes first when it is narrow.
func (t *table) columns(width int) columns {
	c := columns{t.name, max(t.step, len(stepBack)), t.image, 12, 5, 11, 12}
	for _, shorten := range []func(){
		func() { c.bar = 0 },
		func() { c.name = min(c.name, 24) },
		func() { c.step = min(c.step, len(stepBack)) },
		func() { c.image = min(c.image, 16) },
		func() { c.image = 0 },
		func() { c.name = min(c.name, 16) },
		func() { c.rate = 0 },
		func() { c.left = 0 },
		func() { c.name = min(c.name, 12) },
		func() { c.step = 0 },
	} {
		if c.width() <= width {
			break
		}
		shorten()
	}
	return c
}

func (c columns) list() []int {
	return []int{c.name, c.step, c.image, c.bar, c.percent, c.rate, c.left}
}

func (c columns) width() (n int) {
	for _, w := range c.list() {
		if w > 0 {
			n += len(between) + w
		}
	}
	return n
}

func (c columns) line(t *table, m *machine) string {
	var percent, done, rate, left string
	if p := m.now; p.Total > 0 {
		part := min(max(float64(p.Done)/float64(p.Total), 0), 1)
		percent, done = fmt.Sprintf("%3d %%", int(part*100)), bar(10, part)
		if v, ok := m.rate.perSecond(); ok {
			rate = fmt.Sprintf("%11s", amount(int64(v))+"/s")
		}
		if rest, ok := t.rest(m); ok {
			if d, ok := m.rate.left(rest); ok {
				left = fmt.Sprintf("%12s", about(d))
			}
		}
	}
	var s strings.Builder
	for i, text := range []string{shortName(m.name, c.name), m.now.Step, m.now.Image, done, percent, rate, left} {
		if w := c.list()[i]; w > 0 {
			s.WriteString(between + runewidth.FillRight(runewidth.Truncate(text, w, "…"), w))
		}
	}
	return s.String()
}

// shortName cuts a machine's name: its domain first, then the middle, since the
// numbers that machines differ in are at the end.
func shortName(name string, width int) string {
	if runewidth.StringWidth(name) <= width {
		return name
	}
	if _, err := netip.ParseAddr(name); err != nil {
		name, _, _ = strings.Cut(name, ".")
	}
	if runewidth.StringWidth(name) <= width {
		return name
	}
	tail := width / 2
	r := []rune(name)
	slices.Reverse(r)
	end := []rune(runewidth.Truncate(string(r), tail, ""))
	slices.Reverse(end)
	return runewidth.Truncate(name, width-tail-1, "") + "…" + string(end)
}

package view

import (
	"slices"
	"time"

	"github.com/mattn/go-runewidth"

	"prestage/internal/fleet"
)

// table is what is known of a run, for those who look at it on a terminal.
type table struct {
	images   []string
	total    int              // machines
	machines map[int]*machine // those that were begun and have not ended
	ended    map[fleet.State]int
	settled  int // all that have ended
	// rows are the machines that are worked on: first those that have a line on
	// the screen, in the order of the lines, then the others, the oldest first.
	// A machine that has ended leaves a gap.
	rows    []int
	visible int // so many of rows may have a line

	work  work
	opens time.Time // when the closed window opens; zero if it is open
	cut   bool      // the run was interrupted

	name, step, image int // widths of columns; they only grow
}

// machine is one that was begun and has not ended.
type machine struct {
	name    string
	now     fleet.Progress
	came    bool      // to the first image, in this attempt
	again   time.Time // when it is tried again; zero while it is worked on
	moved   int64     // bytes written to it and read back, by all attempts
	sampled int64     // of these, what its rate knows of
	rate    rate
}

// gap is a row whose machine has ended. The next machine takes its line, so
// that no other line moves.
const gap = -1

func newTable(machines []fleet.Machine, images []string) *table {
	t := &table{total: len(machines), machines: map[int]*machine{}, ended: map[fleet.State]int{}}
	for _, m := range machines {
		t.name = max(t.name, runewidth.StringWidth(fleet.Clean(m.Name)))
	}
	for _, i := range images {
		i = fleet.Clean(i)
		t.images = append(t.images, i)
		t.image = max(t.image, runewidth.StringWidth(i))
	}
	t.work.plans = make([]plan, len(images))
	return t
}

// event takes note of what has happened.
func (t *table) event(e *fleet.Event) {
	m := t.machines[e.Index]
	switch e.Kind {
	case fleet.EventBegun:
		if m == nil {
			m = &machine{name: fleet.Clean(e.Machine.Name)}
			t.machines[e.Index] = m
		}
		m.now, m.came, m.again, m.rate = fleet.Progress{}, false, time.Time{}, rate{}
		t.opens = time.Time{}
		t.enter(e.Index)
	case fleet.EventProgress:
		if m != nil {
			t.progress(m, e.Progress)
		}
	case fleet.EventPostponed:
		if m != nil {
			m.again = e.At
			t.leave(e.Index)
		}
	case fleet.EventEnded:
		if m != nil {
			t.leave(e.Index)
			delete(t.machines, e.Index)
			t.work.over++
			t.work.overMoved += m.moved
		}
		t.settled++
		t.ended[e.Result.State]++
	case fleet.EventPaused:
		t.opens = e.At
	}
}

func (t *table) progress(m *machine, p fleet.Progress) {
	p.Step, p.Image = fleet.Clean(p.Step), fleet.Clean(p.Image)
	n := t.work.learn(slices.Index(t.images, p.Image), &m.now, &p)
	m.now = p
	m.came = m.came || slices.Contains(t.images, p.Image)
	m.moved += n
	t.work.moved += n
	t.step = max(t.step, runewidth.StringWidth(p.Step))
	t.image = max(t.image, runewidth.StringWidth(p.Image))
}

// enter gives a machine a row: that of one that has ended, unless others wait
// for a line.
func (t *table) enter(index int) {
	if i := slices.Index(t.rows, gap); i >= 0 && len(t.rows) <= t.visible {
		t.rows[i] = index
		return
	}
	t.rows = append(t.rows, index)
}

func (t *table) leave(index int) {
	if i := slices.Index(t.rows, index); i >= 0 {
		t.rows[i] = gap
	}
}

// settle closes the gaps when so many rows may have a line: by the oldest
// machine without a line, or else by the last line.
func (t *table) settle(visible int) {
	t.visible = visible
	shown := min(visible, len(t.rows))
	others := slices.DeleteFunc(slices.Clone(t.rows[shown:]), func(i int) bool { return i == gap })
	rows := t.rows[:shown]
	for i := 0; i < len(rows); i++ {
		if rows[i] != gap {
			continue
		}
		if len(others) > 0 {
			rows[i], others = others[0], others[1:]
			continue
		}
		for rows[len(rows)-1] == gap && len(rows)-1 > i {
			rows = rows[:len(rows)-1]
		}
		rows[i] = rows[len(rows)-1]
		rows = rows[:len(rows)-1]
	}
	t.rows = append(rows, others...)
}

// sample measures the rates.
func (t *table) sample(now time.Time) {
	for _, m := range t.machines {
		if m.again.IsZero() && m.now.Total > 0 || m.moved != m.sampled {
			m.rate.add(m.moved-m.sampled, now)
			m.sampled = m.moved
		}
	}
	if t.work.moved > 0 {
		t.work.rate.add(t.work.moved-t.work.sampled, now)
		t.work.sampled = t.work.moved
	}
}

// working returns how many machines are worked on.
func (t *table) working() (n int) {
	for _, i := range t.rows {
		if i != gap {
			n++
		}
	}
	return n
}

// again returns how many machines are tried again, and when the first is.
func (t *table) again() (n int, at time.Time) {
	for _, m := range t.machines {
		if m.again.IsZero() {
			continue
		}
		if n++; n == 1 || m.again.Before(at) {
			at = m.again
		}
	}
	return n, at
}

// waiting returns how many machines were not begun.
func (t *table) waiting() int { return t.total - t.settled - len(t.machines) }

// Package view shows a run over many machines while it goes on: as a table on a
// terminal, as lines of text, or as lines of JSON.
package view

import (
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/term"

	"prestage/internal/fleet"
)

// Style is how a run is shown.
type Style int

// Styles.
const (
	Text  Style = iota // a line for each machine that has ended, or is to be tried again
	JSON               // a JSON object in a line for each event
	Table              // a table on a terminal; lines of text for what needs attention
)

// Options say what is shown, and where.
type Options struct {
	Out   io.Writer
	Style Style // Table needs a file that Capable says yes of; otherwise it is Text
	// OnlyAttention leaves out all but machines that have ended and need
	// attention. A table is then not drawn.
	OnlyAttention bool
	Machines      []fleet.Machine
	Images        []string // NAME:N, that every machine is to get, in that order
	// Line says in one or more lines what has become of a machine.
	Line func(*fleet.MachineReport) string
}

// redrawEvery is how often a table is drawn.
const redrawEvery = time.Second / 5

// View shows a run. Nothing that tells it something ever waits for Options.Out:
// somebody may have stopped the terminal, and the run must go on.
type View struct {
	out   io.Writer
	lines lines
	term  *terminal // nil if no table is drawn
	wake  chan struct{}
	stop  chan struct{}
	ended chan struct{}

	mu    sync.Mutex
	table *table
	queue []byte // lines that were not written yet
	aside int    // so many others have the terminal
	lost  bool   // nobody reads what we write

	drawing sync.Mutex // held while something is written; taken before mu
	screen  screen
}

// New begins to show a run. Close ends it.
func New(o Options) *View {
	v := &View{out: o.Out, wake: make(chan struct{}, 1), stop: make(chan struct{}), ended: make(chan struct{})}
	if f, ok := o.Out.(*os.File); ok && o.Style == Table && !o.OnlyAttention {
		v.term = openTerminal(f)
	}
	v.lines = lines{total: len(o.Machines), images: o.Images, only: o.OnlyAttention, json: o.Style == JSON, brief: v.term != nil, line: o.Line,
		machines: map[int]*told{}}
	if v.term != nil {
		v.table = newTable(o.Machines, o.Images)
	}
	go v.loop()
	return v
}

// Capable reports whether a table can be drawn on w.
func Capable(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb"
}

// Event takes what has happened. It is for fleet.Run.
func (v *View) Event(e fleet.Event) {
	now := time.Now()
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.table != nil {
		v.table.event(&e)
	}
	v.write(v.lines.event(&e, now))
}

// Interrupted says that the run was interrupted, and ends what is under way.
func (v *View) Interrupted() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.table != nil {
		v.table.cut = true
	}
}

// write queues a text. v.mu is held.
func (v *View) write(text []byte) {
	if len(text) == 0 || v.lost {
		return
	}
	v.queue = append(v.queue, text...)
	if v.term != nil {
		return // it goes with the next table
	}
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// Aside does something that needs the terminal, such as asking for a password.
func (v *View) Aside(do func()) {
	v.drawing.Lock()
	v.mu.Lock()
	v.aside++
	v.mu.Unlock()
	if v.term != nil {
		v.put(v.screen.frame(nil, nil, v.term.size))
	}
	v.drawing.Unlock()
	defer func() {
		v.mu.Lock()
		v.aside--
		v.mu.Unlock()
	}()
	do()
}

// Close writes what is left to write, and takes the table away.
func (v *View) Close() {
	close(v.stop)
	<-v.ended
}

func (v *View) loop() {
	defer close(v.ended)
	var tick <-chan time.Time
	var resumed <-chan os.Signal
	if v.term != nil {
		t := time.NewTicker(redrawEvery)
		defer t.Stop()
		tick, resumed = t.C, v.term.resumed
	}
	for {
		select {
		case <-v.stop:
			v.flush(true)
			if v.term != nil {
				v.mu.Lock()
				asked := v.aside > 0
				v.mu.Unlock()
				v.term.close(asked)
			}
			return
		case <-v.wake:
		case <-tick:
		}
		select {
		case <-resumed: // others have written below the table since
			v.drawing.Lock()
			v.screen.drawn = nil
			v.drawing.Unlock()
		default:
		}
		v.flush(false)
	}
}

// flush writes what waits, and draws the table unless it is the last time.
func (v *View) flush(last bool) {
	v.drawing.Lock()
	defer v.drawing.Unlock()
	v.mu.Lock()
	if v.aside > 0 && !last {
		v.mu.Unlock()
		return
	}
	text := v.queue
	v.queue = nil
	if last {
		text = append(text, v.lines.end()...)
	}
	if v.term == nil {
		v.mu.Unlock()
		v.put(text)
		return
	}
	now := time.Now()
	v.table.sample(now)
	var table []string
	if !last && v.aside == 0 && v.term.ours() {
		width, height := v.term.size()
		v.table.settle(room(height-1, v.table.working()))
		table = v.table.render(width-1, height-1, now) // the cursor needs a line, and a full line would wrap on some
	}
	v.mu.Unlock()
	v.put(v.screen.frame(text, table, v.term.size))
}

// put writes, and gives up when nobody reads it. v.drawing is held.
func (v *View) put(text []byte) {
	if len(text) == 0 {
		return
	}
	if _, err := v.out.Write(text); err != nil {
		v.mu.Lock()
		v.lost = true
		v.mu.Unlock()
	}
}

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/term"
)

// meter shows progress and warnings on standard error: a bar on a terminal,
// lines elsewhere. Work of less than a second shows nothing.
type meter struct {
	w     io.Writer
	style string // styleBar, or as --progress names it
	quiet bool

	mu   sync.Mutex
	task string
	stop chan struct{} // ends the display of the current task
	done chan struct{} // closed when it has ended

	total, at atomic.Int64
}

const (
	styleBar   = "bar"
	barAfter   = time.Second     // work is shown once it takes that long
	barEvery   = time.Second / 5 // a bar moves
	plainEvery = 2 * time.Second // a line is printed
)

func newMeter(a *app) (*meter, error) {
	m := &meter{w: a.err, style: a.progress, quiet: a.quiet}
	switch a.progress {
	case progressAuto:
		m.style = progressNone
		if isTerminal(a.err) && !a.json {
			m.style = styleBar
		}
	case progressPlain, progressJSON, progressNone:
	default:
		return nil, usageError{fmt.Errorf("--progress %q: use auto, plain, json or none", a.progress)}
	}
	if m.quiet {
		m.style = progressNone
	}
	return m, nil
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// Begin implements progress.Meter.
func (m *meter) Begin(task string, total int64) {
	m.finish()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.task = task
	m.total.Store(total)
	m.at.Store(0)
	if m.style == progressNone {
		return
	}
	m.stop, m.done = make(chan struct{}), make(chan struct{})
	if m.style == styleBar {
		go m.bar(task, total, m.stop, m.done)
	} else {
		go m.lines(task, m.stop, m.done)
	}
}

// Add implements progress.Meter.
func (m *meter) Add(n int64) { m.at.Add(n) }

// Warn implements progress.Meter.
func (m *meter) Warn(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintf(m.w, "prestage: warning: "+format+"\n", args...)
}

// finish ends what is shown of the current task.
func (m *meter) finish() {
	m.mu.Lock()
	stop, done := m.stop, m.done
	m.stop = nil
	m.mu.Unlock()
	if stop != nil {
		close(stop)
		<-done
	}
}

func (m *meter) bar(task string, total int64, stop, done chan struct{}) {
	defer close(done)
	start := time.Now()
	select {
	case <-stop:
		return
	case <-time.After(barAfter):
	}
	p := mpb.New(mpb.WithOutput(m.w), mpb.WithWidth(80), mpb.WithAutoRefresh())
	b := p.AddBar(total, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(task+" ")),
		mpb.AppendDecorators(decor.CountersKibiByte("% .1f / % .1f"), decor.NewAverageSpeed(decor.SizeB1024(0), " % .1f", start),
			decor.Any(func(decor.Statistics) string { return " " + m.left(start) })))
	tick := time.NewTicker(barEvery)
	defer tick.Stop()
	for {
		select {
		case <-stop:
			b.Abort(true)
			p.Wait()
			return
		case <-tick.C:
			b.SetCurrent(min(m.at.Load(), total-1)) // it is over when the task is, not before
		}
	}
}

// left says how long the task will take at the rate it had so far.
func (m *meter) left(start time.Time) string {
	at, total := m.at.Load(), m.total.Load()
	if at <= 0 || at >= total {
		return ""
	}
	d := time.Duration(float64(time.Since(start)) * float64(total-at) / float64(at))
	return d.Round(time.Second).String() + " left"
}

func (m *meter) lines(task string, stop, done chan struct{}) {
	defer close(done)
	start := time.Now()
	show := func() {
		at, total := m.at.Load(), m.total.Load()
		percent := int64(100)
		if total > 0 {
			percent = at * 100 / total
		}
		rate := float64(at) / time.Since(start).Seconds()
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.style == progressJSON { // as of a machine in a run over many
			json.NewEncoder(m.w).Encode(map[string]any{
				"time": time.Now().UTC().Truncate(time.Millisecond), "event": "progress", "machine": "", "step": task, "image": "", "done": at, "total": total})
			return
		}
		fmt.Fprintf(m.w, "%s: %d %% of %s, %s/s %s\n", task, percent, size(total), size(int64(rate)), m.left(start))
	}
	wait := barAfter
	for {
		select {
		case <-stop:
			if time.Since(start) > barAfter {
				show()
			}
			return
		case <-time.After(wait):
			show()
			wait = plainEvery
		}
	}
}

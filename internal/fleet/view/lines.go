package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"

	"prestage/internal/fleet"
)

// progressEvery is how often JSON lines tell how far a step of a machine is.
const progressEvery = 5 * time.Second

// lines tells of a run in lines of text or of JSON.
type lines struct {
	total  int
	images []string
	only   bool // what needs attention
	json   bool
	brief  bool // beside a table: no good news, and nothing twice
	line   func(*fleet.MachineReport) string

	ended    int
	machines map[int]*told
	skipped  []skipped
}

// told is what was told of a machine that has not ended.
type told struct {
	attempts int
	progress fleet.Progress
	at       time.Time
	why      string // it was postponed
}

// skipped are machines that were not begun, for a reason.
type skipped struct {
	reason string
	n      int
}

// event returns what there is to say about an event.
func (l *lines) event(e *fleet.Event, now time.Time) []byte {
	m := l.machines[e.Index]
	if m == nil && e.Index >= 0 {
		m = &told{}
		l.machines[e.Index] = m
	}
	var report *fleet.MachineReport
	switch e.Kind {
	case fleet.EventBegun:
		m.attempts++
		m.progress, m.at = fleet.Progress{}, time.Time{}
	case fleet.EventEnded:
		l.ended++
		delete(l.machines, e.Index)
		report = &fleet.NewReport("", l.images, time.Time{}, time.Time{}, []fleet.Result{*e.Result}).Machines[0]
	}
	if l.only && (report == nil || !report.Attention()) {
		return nil
	}
	if l.json {
		return l.object(e, m, report, now)
	}
	return l.text(e, m, report, now)
}

// text returns lines of text about an event.
func (l *lines) text(e *fleet.Event, m *told, report *fleet.MachineReport, now time.Time) []byte {
	switch e.Kind {
	case fleet.EventEnded:
		switch {
		case l.brief && !report.Attention():
			return nil
		case l.brief && report.State == fleet.NotBegun:
			l.skip(report.Reason)
			return nil
		}
		return fmt.Appendf(nil, "[%d/%d] %s\n", l.ended, l.total, l.line(report))
	case fleet.EventPostponed:
		why := reason(e)
		if l.brief && m.why == why {
			return nil
		}
		m.why = why
		return fmt.Appendf(nil, "%s: %s; it is tried again at %s\n", e.Machine.Name, why, clock(e.At, now, "15:04:05"))
	case fleet.EventPaused:
		return fmt.Appendf(nil, "the window is closed; work goes on at %s\n", e.At.Local().Format("2006-01-02 15:04"))
	}
	return nil
}

func (l *lines) skip(reason string) {
	for i := range l.skipped {
		if l.skipped[i].reason == reason {
			l.skipped[i].n++
			return
		}
	}
	l.skipped = append(l.skipped, skipped{reason, 1})
}

// end returns what is said once all is over.
func (l *lines) end() (text []byte) {
	for _, s := range l.skipped {
		text = fmt.Appendf(text, "%s not begun: %s\n", count(s.n, "machine"), s.reason)
	}
	return text
}

func reason(e *fleet.Event) string {
	if e.Err == nil {
		return ""
	}
	return fleet.Clean(e.Err.Error())
}

// The objects of JSON lines, by event. Their fields are a contract: see README.
type (
	head struct {
		Time    string `json:"time"`
		Event   string `json:"event"`
		Machine string `json:"machine"`
	}
	begun struct {
		head
		Attempt int `json:"attempt"`
	}
	progress struct {
		head
		Step  string `json:"step"`
		Image string `json:"image"`
		Done  int64  `json:"done"`
		Total int64  `json:"total"`
	}
	postponed struct {
		head
		Error string    `json:"error"`
		Until time.Time `json:"until"`
	}
	paused struct {
		head
		Until time.Time `json:"until"`
	}
	ended struct {
		head
		Report *fleet.MachineReport `json:"report"`
	}
)

// object returns the line of JSON about an event, if it has one.
func (l *lines) object(e *fleet.Event, m *told, report *fleet.MachineReport, now time.Time) []byte {
	h := head{Time: now.UTC().Format("2006-01-02T15:04:05.000Z"), Machine: fleet.Clean(e.Machine.Name)}
	until := e.At.UTC().Truncate(time.Second)
	var v any
	switch e.Kind {
	case fleet.EventBegun:
		h.Event = "begun"
		v = begun{h, m.attempts}
	case fleet.EventProgress:
		if !m.due(e.Progress, now) {
			return nil
		}
		h.Event = "progress"
		v = progress{h, fleet.Clean(e.Progress.Step), fleet.Clean(e.Progress.Image), e.Progress.Done, e.Progress.Total}
	case fleet.EventPostponed:
		h.Event = "postponed"
		v = postponed{h, reason(e), until}
	case fleet.EventPaused:
		h.Event = "paused"
		v = paused{h, until}
	case fleet.EventEnded:
		h.Event = "ended"
		v = ended{h, report}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil // there is nothing in it that cannot be encoded
	}
	return b.Bytes()
}

// due reports whether it is time to tell of progress: at a new step, and from
// time to time.
func (m *told) due(p fleet.Progress, now time.Time) bool {
	old := m.progress
	m.progress = p
	same := p.Step == old.Step && p.Image == old.Image && p.Total == old.Total && p.Done >= old.Done
	if same && (now.Sub(m.at) < progressEvery || p.Done == old.Done) {
		return false
	}
	m.at = now
	return true
}

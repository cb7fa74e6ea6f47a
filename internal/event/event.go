// Package event is what machines tell the image distribution server: what has
// happened on them, and which images they hold. Events wait in a queue on the
// machine's disk until the server has them.
package event

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode"
	"unicode/utf8"

	"prestage/ckm"
)

// ErrInvalid says that a report does not hold what a report holds.
var ErrInvalid = errors.New("not a valid report")

// Severity says how much an event matters.
type Severity string

// The severities.
const (
	Information Severity = "information"
	Warning     Severity = "warning"
	Error       Severity = "error"
)

// Kind is what sort of thing has happened. The numbers are those of the event log
// on Windows: they are part of the contract.
type Kind uint32

// An Event is one thing that has happened on a machine.
type Event struct {
	Number      uint64    `json:"number"` // counts the machine's events, from 1
	Time        time.Time `json:"time"`   // by the machine's clock
	Kind        Kind      `json:"kind"`
	Severity    Severity  `json:"severity"`
	Category    string    `json:"category"` // what it is about: a word such as "update"
	Description string    `json:"description"`
	User        string    `json:"user,omitempty"`

	// Of the image that it is about, if it is about one. An event that has a digest
	// is the receipt for a version that was made whole on the machine.
	Image   string `json:"image,omitempty"`
	Version uint32 `json:"version,omitempty"`
	Digest  string `json:"digest,omitempty"`  // package digest
	Fetched int64  `json:"fetched,omitempty"` // bytes that came over the network
}

// Held is a version of an image that a machine holds.
type Held struct {
	Image   string    `json:"image"`
	Version uint32    `json:"version"`
	Digest  string    `json:"digest"`
	Time    time.Time `json:"time"`             // since when
	Staged  bool      `json:"staged,omitempty"` // as a package, and not as an image that can be started
}

// A Report is what a machine tells at once: what it is and holds now, and the
// events that the server does not have yet, in ascending order of their numbers.
type Report struct {
	Machine string    `json:"machine"` // tells machines apart; made at random on each
	Host    string    `json:"host"`
	User    string    `json:"user,omitempty"` // who works there
	Client  string    `json:"client"`         // version of prestage
	System  string    `json:"system"`         // for instance windows/amd64
	Time    time.Time `json:"time"`           // by the machine's clock
	Held    []Held    `json:"held"`
	Events  []Event   `json:"events,omitempty"`
}

// Ack says that a server keeps all events of a machine up to a number.
type Ack struct {
	Number uint64 `json:"number"`
}

// Path is where a server takes reports, below the path of packages.
const Path = "events"

// Bounds of a report. What is longer is cut by Trim on the machine, and refused by
// the server.
const (
	MaxReport      = 2 << 20 // bytes of JSON
	MaxEvents      = 1_000   // at once
	MaxHeld        = 1_000
	MaxDescription = 1_000 // bytes
	maxWord        = 256   // bytes of names and other short texts
)

// Trim makes an event fit to be sent.
func (e *Event) Trim() {
	if e.Time = e.Time.UTC().Truncate(time.Millisecond); !timely(e.Time) { // a clock that was never set
		e.Time = time.Unix(0, 0).UTC()
	}
	if e.Severity != Warning && e.Severity != Error {
		e.Severity = Information
	}
	if ckm.CheckName(e.Image) != nil {
		e.Image = ""
	}
	e.Fetched = max(e.Fetched, 0)
	e.Description = shown(e.Description, MaxDescription)
	for _, s := range []*string{&e.Category, &e.User, &e.Image, &e.Digest} {
		*s = shown(*s, maxWord)
	}
}

// Trim makes a report fit to be sent: a server would refuse all of it for one thing
// that is wrong.
func (r *Report) Trim() {
	for _, s := range []*string{&r.Host, &r.User, &r.Client, &r.System} {
		*s = shown(*s, maxWord)
	}
	if r.Host == "" {
		r.Host = "unknown"
	}
	r.Held = r.Held[:min(len(r.Held), MaxHeld)]
	for i := range r.Held {
		h := &r.Held[i]
		if h.Digest = shown(h.Digest, maxWord); !timely(h.Time) {
			h.Time = time.Unix(0, 0).UTC()
		}
	}
}

// shown is s without characters that act instead of being shown, and no longer than
// limit bytes.
func shown(s string, limit int) string {
	var b []byte
	for _, r := range s {
		switch {
		case r == '\n' || r == '\t':
			r = ' '
		case acts(r):
			r = utf8.RuneError
		}
		if len(b)+utf8.RuneLen(r) > limit {
			break
		}
		b = utf8.AppendRune(b, r)
	}
	return string(b)
}

// acts reports whether a terminal would obey a character, and not show it.
func acts(r rune) bool { return unicode.Is(unicode.Cc, r) || unicode.Is(unicode.Bidi_Control, r) }

// Parse reads a report, which may come from anybody. The error wraps ErrInvalid.
func Parse(p []byte) (*Report, error) {
	if len(p) > MaxReport {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrInvalid, MaxReport)
	}
	if err := crowded(p); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	var r Report
	d := json.NewDecoder(bytes.NewReader(p))
	if err := d.Decode(&r); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("%w: something follows it", ErrInvalid)
	}
	if err := r.check(); err != nil {
		return nil, fmt.Errorf("%w: %v", ErrInvalid, err)
	}
	return &r, nil
}

func (r *Report) check() error {
	if r.Machine == "" || r.Host == "" {
		return errors.New("machine or host is missing")
	}
	if len(r.Events) > MaxEvents || len(r.Held) > MaxHeld {
		return fmt.Errorf("it has more than %d events or %d versions", MaxEvents, MaxHeld)
	}
	words := []string{r.Machine, r.Host, r.User, r.Client, r.System}
	last := uint64(0)
	for i := range r.Events {
		e := &r.Events[i]
		if e.Number <= last || e.Number > 1<<62 {
			return fmt.Errorf("event %d follows event %d", e.Number, last)
		}
		last = e.Number
		if e.Severity != Information && e.Severity != Warning && e.Severity != Error {
			return fmt.Errorf("the severity %q", e.Severity)
		}
		if e.Image != "" && ckm.CheckName(e.Image) != nil || e.Fetched < 0 || !timely(e.Time) {
			return fmt.Errorf("event %d: its image, time or bytes", e.Number)
		}
		if !isShown(e.Description, MaxDescription) {
			return fmt.Errorf("event %d: its description", e.Number)
		}
		words = append(words, e.Category, e.User, e.Digest)
	}
	for _, h := range r.Held {
		if ckm.CheckName(h.Image) != nil || h.Version == 0 || !timely(h.Time) {
			return fmt.Errorf("the version %q:%d", h.Image, h.Version)
		}
		words = append(words, h.Digest)
	}
	for _, s := range words {
		if !isShown(s, maxWord) {
			return fmt.Errorf("the text %.40q", s)
		}
	}
	if !timely(r.Time) {
		return fmt.Errorf("the time %v", r.Time)
	}
	return nil
}

// timely reports whether every database knows a time. A clock may be wrong.
func timely(t time.Time) bool { return t.Year() >= 1970 && t.Year() < 10_000 }

func isShown(s string, limit int) bool { return len(s) <= limit && s == shown(s, limit) }

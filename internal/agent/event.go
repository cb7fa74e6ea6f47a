package agent

import (
	"context"
	"fmt"
	"log/slog"
	"regexp"

	"prestage/internal/progress"
)

// An Event is a kind of thing that the agent tells. The numbers are those of
// the event log on Windows: they are part of the contract.
type Event uint32

// Kinds of events.
const (
	Started   Event = 1 // the agent runs
	Stopped   Event = 2 // it was asked to stop
	Installed Event = 3 // an image was installed
	Waiting   Event = 4 // a package is not there, or not complete, yet
	Failed    Event = 5 // something has to be mended; it is tried again
	Warned    Event = 6 // something was wrong, and the work went on

	Suggested  Event = 7  // there is a later version, which the user may install
	Updated    Event = 8  // a later version was installed
	Staged     Event = 9  // a version was pre-staged ahead of its release
	Removed    Event = 10 // a version was removed that is not kept
	PolicyUsed Event = 11 // another policy holds from now on
)

var eventNames = map[Event]string{Started: "started", Stopped: "stopped", Installed: "installed",
	Waiting: "waiting", Failed: "failed", Warned: "warned", Suggested: "suggested", Updated: "updated", Staged: "staged",
	Removed: "removed", PolicyUsed: "policy"}

// String returns the event's name in logs.
func (e Event) String() string { return eventNames[e] }

// EventID returns the event's number in the event log.
func (e Event) EventID() uint32 { return uint32(e) }

// MarshalText makes the name stand in JSON, too.
func (e Event) MarshalText() ([]byte, error) { return []byte(e.String()), nil }

// EventKey is the key of a record's Event.
const EventKey = "event"

func (e Event) level() slog.Level {
	switch e {
	case Failed:
		return slog.LevelError
	case Warned:
		return slog.LevelWarn
	}
	return slog.LevelInfo
}

// numbers in a message may differ each time that the same thing is told.
var numbers = regexp.MustCompile(`\d+`)

// teller tells of an image, or of the agent itself, each thing once.
type teller struct {
	log   *slog.Logger
	image string // "" for the agent itself
	told  map[string]bool
}

func (t *teller) tell(e Event, format string, args ...any) { t.tellWith(nil, e, format, args...) }

// tellWith is tell with more to say to the server.
func (t *teller) tellWith(more []slog.Attr, e Event, format string, args ...any) {
	message := fmt.Sprintf(format, args...)
	key := e.String() + numbers.ReplaceAllString(message, "#")
	if t.told[key] {
		return
	}
	if t.told == nil {
		t.told = map[string]bool{}
	}
	t.told[key] = true
	attrs := []slog.Attr{slog.Any(EventKey, e)}
	if t.image != "" {
		attrs = append(attrs, slog.String(imageKey, t.image))
	}
	attrs = append(attrs, more...)
	t.log.LogAttrs(context.Background(), e.level(), message, attrs...)
}

// forget makes everything worth telling again.
func (t *teller) forget() { clear(t.told) }

// meter is the progress.Meter of an installation: nobody watches, but warnings
// are told.
type meter struct {
	progress.Meter
	*teller
}

// Warn implements progress.Meter.
func (m meter) Warn(format string, args ...any) { m.tell(Warned, format, args...) }

// Package daytime is windows of time in a day, in which work may be done.
package daytime

import (
	"fmt"
	"strings"
	"time"
)

// Window is a time of day in which work may be done, in the local time of whoever
// runs the program. It may go over midnight. The zero Window is
// always open.
type Window struct {
	from, to int // minutes after midnight
}

// Parse reads a window like 22:00-06:00. An empty one is always open.
func Parse(s string) (w Window, err error) {
	if s == "" {
		return w, nil
	}
	from, to, ok := strings.Cut(s, "-")
	if ok {
		w.from, err = minutes(from)
	}
	if ok && err == nil {
		w.to, err = minutes(to)
	}
	if !ok || err != nil || w.from == w.to {
		return Window{}, fmt.Errorf("window %q: give two times of day, as in 22:00-06:00", s)
	}
	return w, nil
}

func minutes(s string) (int, error) {
	t, err := time.Parse("15:04", strings.TrimSpace(s))
	return t.Hour()*60 + t.Minute(), err
}

// String returns what Parse reads.
func (w Window) String() string {
	if w == (Window{}) {
		return ""
	}
	return fmt.Sprintf("%02d:%02d-%02d:%02d", w.from/60, w.from%60, w.to/60, w.to%60)
}

// MarshalText implements encoding.TextMarshaler.
func (w Window) MarshalText() ([]byte, error) { return []byte(w.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (w *Window) UnmarshalText(b []byte) (err error) {
	*w, err = Parse(string(b))
	return err
}

// At reports whether the window is open, and when that changes; the zero time
// stands for never.
func (w Window) At(now time.Time) (open bool, change time.Time) {
	if w == (Window{}) {
		return true, time.Time{}
	}
	minute := now.Hour()*60 + now.Minute()
	if w.from < w.to {
		open = w.from <= minute && minute < w.to
	} else {
		open = w.from <= minute || minute < w.to
	}
	if open {
		return true, next(now, w.to)
	}
	return false, next(now, w.from)
}

// next returns when it is so many minutes after midnight again. Days on which
// the clocks change have 23 or 25 hours, so the calendar is asked.
func next(now time.Time, minute int) time.Time {
	y, m, d := now.Date()
	for {
		if t := time.Date(y, m, d, 0, minute, 0, 0, now.Location()); t.After(now) {
			return t
		}
		d++
	}
}

package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// lines is a slog.Handler that writes a line for each record: its message,
// which says it all. Attributes are for machines and are left out.
type lines struct {
	mu      sync.Mutex
	w       io.Writer
	journal bool // of systemd: it adds the time, and reads the severity from the line's beginning
}

// Lines returns a handler that writes the messages for people, with their time.
func Lines(w io.Writer) slog.Handler { return &lines{w: w} }

// Enabled implements slog.Handler.
func (l *lines) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler.
func (l *lines) Handle(_ context.Context, r slog.Record) error {
	// A line of a message must not pass for a record of its own.
	message := strings.Join(strings.FieldsFunc(r.Message, func(c rune) bool { return c == '\n' || c == '\r' }), " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	var err error
	if l.journal {
		_, err = fmt.Fprintf(l.w, "<%d>%s\n", severity(r.Level), message)
	} else {
		_, err = fmt.Fprintf(l.w, "%s %s%s\n", r.Time.Format(time.DateTime), kind(r.Level), message)
	}
	return err
}

// WithAttrs implements slog.Handler.
func (l *lines) WithAttrs([]slog.Attr) slog.Handler { return l }

// WithGroup implements slog.Handler.
func (l *lines) WithGroup(string) slog.Handler { return l }

// severity returns the level's number in syslog.
func severity(l slog.Level) int {
	switch {
	case l >= slog.LevelError:
		return 3
	case l >= slog.LevelWarn:
		return 4
	}
	return 6
}

func kind(l slog.Level) string {
	switch {
	case l >= slog.LevelError:
		return "error: "
	case l >= slog.LevelWarn:
		return "warning: "
	}
	return ""
}

// eventWriter is what we need of the event log of Windows.
type eventWriter interface {
	Info(id uint32, message string) error
	Warning(id uint32, message string) error
	Error(id uint32, message string) error
}

// events is a slog.Handler that writes messages to an event log. The event's
// number comes from the attribute that has one.
type events struct{ to eventWriter }

// Events returns a handler that writes to an event log.
func Events(to eventWriter) slog.Handler { return events{to} }

// otherEvent is the number of records that have none of their own.
const otherEvent = 100

// Enabled implements slog.Handler.
func (e events) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }

// Handle implements slog.Handler.
func (e events) Handle(_ context.Context, r slog.Record) error {
	id := uint32(otherEvent)
	r.Attrs(func(a slog.Attr) bool {
		if n, ok := a.Value.Any().(interface{ EventID() uint32 }); ok {
			id = n.EventID()
		}
		return true
	})
	message := strings.ReplaceAll(r.Message, "\x00", "") // the event log takes it for the end
	switch {
	case r.Level >= slog.LevelError:
		return e.to.Error(id, message)
	case r.Level >= slog.LevelWarn:
		return e.to.Warning(id, message)
	}
	return e.to.Info(id, message)
}

// WithAttrs implements slog.Handler.
func (e events) WithAttrs([]slog.Attr) slog.Handler { return e }

// WithGroup implements slog.Handler.
func (e events) WithGroup(string) slog.Handler { return e }

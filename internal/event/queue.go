package event

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"

	"prestage/internal/durable"
)

// most is how many events a queue holds: of a machine that is offline for a month,
// several times what it would tell. The oldest ones are lost first.
const most = 5_000

// Lost is the kind of the event that tells that others were lost.
const Lost Kind = 100

// Queue keeps a machine's events on its disk until the server has them. Only one
// process may have it open.
type Queue struct {
	base string // of the names of its files

	mu     sync.Mutex
	state  state
	events []Event // in ascending order of their numbers
	lines  int     // of the file, those included that are not needed any more
	file   *os.File
}

// state is what a queue remembers besides its events.
type state struct {
	Machine string `json:"machine"`
	Acked   uint64 `json:"acked"` // the server has the events up to this number
	Lost    uint64 `json:"lost"`  // events that it will never have
}

const (
	stateName  = "machine.json"
	eventsName = "events.jsonl"
)

// QueueFiles returns the files of the queue whose files' paths begin with base.
func QueueFiles(base string) []string { return []string{base + stateName, base + eventsName} }

// OpenQueue opens the queue whose files' paths begin with base. Their folder must
// be there.
func OpenQueue(base string) (*Queue, error) {
	q := &Queue{base: base}
	if err := q.readState(); err != nil {
		return nil, err
	}
	if err := q.readEvents(); err != nil {
		return nil, err
	}
	// What a kill has cut short must not be continued.
	return q, q.rewrite()
}

// readState reads who the machine is. Without that it is a new one: what it told
// before was told by another.
func (q *Queue) readState() error {
	b, err := os.ReadFile(q.base + stateName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && json.Unmarshal(b, &q.state) == nil && q.state.Machine != "" {
		return nil
	}
	q.state = state{Machine: rand.Text()}
	return q.writeState()
}

func (q *Queue) writeState() error {
	b, err := json.Marshal(q.state)
	if err != nil {
		return err
	}
	return durable.WriteFile(q.base+stateName, b, 0o644)
}

func (q *Queue) readEvents() error {
	b, err := os.ReadFile(q.base + eventsName)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		var e Event
		// A line that was cut short by a kill was not promised to anybody.
		if json.Unmarshal(lines.Bytes(), &e) == nil && e.Number > q.last() {
			q.events = append(q.events, e)
		}
	}
	return nil
}

// last is the number of the last event that there was.
func (q *Queue) last() uint64 {
	if n := len(q.events); n > 0 {
		return q.events[n-1].Number
	}
	return q.state.Acked
}

// rewrite writes the file with what it must hold, and opens it to be continued.
func (q *Queue) rewrite() error {
	var b bytes.Buffer
	for i := range q.events {
		if err := appendLine(&b, &q.events[i]); err != nil {
			return err
		}
	}
	if q.file != nil {
		q.file.Close()
		q.file = nil
	}
	path := q.base + eventsName
	if err := durable.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	q.file, q.lines = f, len(q.events)
	return err
}

func appendLine(w io.Writer, e *Event) error {
	b, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = w.Write(append(b, '\n'))
	return err
}

// Machine returns what tells this machine apart from others.
func (q *Queue) Machine() string { return q.state.Machine }

// Add gives an event its number, and keeps it. After an error it may be lost when
// the process ends, and not before.
func (q *Queue) Add(e Event) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	e.Trim()
	e.Number = q.last() + 1
	q.events = append(q.events, e)
	if len(q.events) > most {
		return q.drop()
	}
	if q.file == nil {
		return q.rewrite()
	}
	var line bytes.Buffer
	err := appendLine(&line, &e)
	if err == nil {
		_, err = q.file.Write(line.Bytes())
	}
	if err == nil {
		err = q.file.Sync()
	}
	if err != nil { // it may have been written in part
		q.file.Close()
		q.file = nil
		return fmt.Errorf("keeping an event: %w", err)
	}
	q.lines++
	return nil
}

// drop loses the oldest tenth, and leaves word of that in the place of the last of
// them.
func (q *Queue) drop() error {
	n := most / 10
	for _, e := range q.events[:n] {
		if e.Kind != Lost {
			q.state.Lost++
		}
	}
	word := q.events[n-1]
	word = Event{Number: word.Number, Time: word.Time, Kind: Lost, Severity: Warning, Category: "events",
		Description: fmt.Sprintf("events of this machine were lost, %d in all: it could not reach the server for too long", q.state.Lost)}
	if err := q.writeState(); err != nil {
		return err
	}
	q.events = append([]Event{word}, q.events[n:]...)
	return q.rewrite()
}

// Next returns the oldest events that the server does not have, at most n.
func (q *Queue) Next(n int) []Event {
	q.mu.Lock()
	defer q.mu.Unlock()
	return append([]Event(nil), q.events[:min(n, len(q.events))]...)
}

// Acked forgets the events up to a number: the server has them.
func (q *Queue) Acked(number uint64) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	number = min(number, q.last())
	if number <= q.state.Acked {
		return nil
	}
	// First the number: events that are still in the file then are not sent again.
	old := q.state.Acked
	q.state.Acked = number
	if err := q.writeState(); err != nil {
		q.state.Acked = old
		return err
	}
	n := 0
	for n < len(q.events) && q.events[n].Number <= number {
		n++
	}
	q.events = append([]Event(nil), q.events[n:]...)
	if q.lines-len(q.events) < 100 && len(q.events) > 0 {
		return nil
	}
	return q.rewrite()
}

// Close closes the queue. Its events stay.
func (q *Queue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.file == nil {
		return nil
	}
	return q.file.Close()
}

// Reporter sends reports to a server.
type Reporter interface {
	Report(ctx context.Context, r *Report) (Ack, error)
}

// Deliver sends what the server does not have, in several reports if need be; base
// is the report without events. One is sent even when there are no events.
func (q *Queue) Deliver(ctx context.Context, to Reporter, base Report) error {
	base.Machine = q.Machine()
	base.Trim()
	for first := true; ; first = false {
		base.Events = q.Next(MaxEvents / 10)
		if len(base.Events) == 0 && !first {
			return nil
		}
		ack, err := to.Report(ctx, &base)
		if err != nil {
			return err
		}
		if n := len(base.Events); n > 0 && ack.Number < base.Events[n-1].Number {
			return fmt.Errorf("the server keeps the events up to %d, and was sent those up to %d", ack.Number, base.Events[n-1].Number)
		}
		if err := q.Acked(ack.Number); err != nil {
			return err
		}
	}
}

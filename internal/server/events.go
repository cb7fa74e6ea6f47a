package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"prestage/internal/event"
	"prestage/internal/server/access"
)

// Events keeps what machines tell. An acknowledgement means that it is on a disk.
type Events interface {
	Take(ctx context.Context, reader string, received time.Time, r *event.Report) (event.Ack, error)
}

// reportRoom is how many bytes of reports are in memory at once, as they came. What
// they are read into takes a few times that.
const reportRoom = 32 << 20

// takeTime is how long a report may wait to be on the disk.
const takeTime = 25 * time.Second

// reports counts what becomes of the reports of machines.
type reports struct {
	room     atomic.Int64 // bytes that are in memory
	taken    prometheus.Counter
	events   prometheus.Counter
	failures prometheus.Counter
	refused  prometheus.Counter
}

func newReports(registry *prometheus.Registry) *reports {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Namespace: "prestage", Subsystem: "server", Name: name, Help: help})
		registry.MustRegister(c)
		return c
	}
	return &reports{
		taken:    counter("reports_total", "Reports of machines that are on the disk."),
		events:   counter("events_total", "Events in these reports, those included that came again."),
		failures: counter("reports_failed_total", "Reports that could not be kept now; they come again."),
		refused:  counter("reports_refused_total", "Reports that are not valid."),
	}
}

// takeReport takes the report of a machine.
func (s *Server) takeReport(w *answer, r *http.Request) {
	w.purpose = forEvents
	if code := refusalOf(r.Context()); code != 0 {
		w.Header().Set("Connection", "close")
		later(w, code)
		return
	}
	body, code, why := s.readReport(w, r)
	defer s.reports.room.Add(-int64(cap(body)))
	if code != 0 {
		s.failReport(w, code, why)
		return
	}
	report, err := event.Parse(body)
	if err != nil {
		s.failReport(w, http.StatusBadRequest, err)
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), takeTime)
	defer cancel()
	ack, err := s.config.Events.Take(ctx, string(w.reader), time.Now(), report)
	if err != nil {
		s.failReport(w, http.StatusServiceUnavailable, err)
		return
	}
	s.reports.taken.Inc()
	s.reports.events.Add(float64(len(report.Events)))
	b, err := json.Marshal(ack)
	if err != nil {
		panic(err) // plain data
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(append(b, '\n'))
}

// readReport reads a report's body, or says with which status it is refused, and
// why if that is not obvious. Room is taken for the capacity of what it returns.
func (s *Server) readReport(w *answer, r *http.Request) (body []byte, code int, why error) {
	if s.config.Events == nil {
		return nil, http.StatusNotFound, nil
	}
	if r.Method != http.MethodPost {
		w.Header().Set("Allow", http.MethodPost)
		return nil, http.StatusMethodNotAllowed, nil
	}
	if !s.admit(w, r) {
		return nil, answered, nil
	}
	// What nobody need be known for, nobody need be known to tell of; but where some
	// are known, the others are not believed.
	if w.reader == access.Nobody && !s.gate.Open() {
		s.refuse(w)
		return nil, answered, nil
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if coding := r.Header.Get("Content-Encoding"); err != nil || kind != "application/json" || coding != "" && !strings.EqualFold(coding, "identity") {
		return nil, http.StatusUnsupportedMediaType, errors.New("a report is application/json, and not compressed")
	}
	if r.ContentLength > event.MaxReport {
		return nil, http.StatusRequestEntityTooLarge, nil
	}
	// All of it has as long as a client may take nothing of an answer. That begins
	// only then: HTTP/2 would end the stream when it is over, whatever is going on.
	now := time.Now()
	w.control.SetReadDeadline(now.Add(s.patience.stall))
	w.control.SetWriteDeadline(now.Add(2 * s.patience.stall))
	body, code, why = s.readBody(r.Body)
	w.extend(0)
	if code == 0 {
		// The connection is watched from here on, and no deadline must cut it then.
		w.control.SetReadDeadline(time.Time{})
	}
	return body, code, why
}

// readBody reads a body that may be longer than it should, or never end. It takes
// room for what has come, not for what was announced.
func (s *Server) readBody(from io.Reader) (body []byte, code int, why error) {
	for {
		if len(body) == cap(body) {
			grown := min(max(2*cap(body), 4<<10), event.MaxReport+1)
			if s.reports.room.Add(int64(grown-cap(body))) > reportRoom {
				s.reports.room.Add(-int64(grown - cap(body)))
				return body, http.StatusServiceUnavailable, errors.New("too many reports at once")
			}
			body = append(make([]byte, 0, grown), body...)
		}
		n, err := from.Read(body[len(body):cap(body)])
		body = body[:len(body)+n]
		switch {
		case len(body) > event.MaxReport:
			return body, http.StatusRequestEntityTooLarge, nil
		case errors.Is(err, io.EOF):
			return body, 0, nil
		case errors.Is(err, os.ErrDeadlineExceeded):
			return body, http.StatusRequestTimeout, errors.New("the client was too slow")
		case err != nil:
			return body, http.StatusBadRequest, fmt.Errorf("the report was cut: %w", err)
		}
	}
}

// answered stands for a status that was sent already.
const answered = -1

// failReport answers that a report was not taken.
func (s *Server) failReport(w *answer, code int, why error) {
	if why != nil {
		w.problem = why
	}
	switch code {
	case answered:
	case http.StatusServiceUnavailable:
		// Why is in the log; it is nothing that a client could do something about.
		s.reports.failures.Inc()
		later(w, code)
	case http.StatusRequestEntityTooLarge, http.StatusRequestTimeout:
		s.reports.refused.Inc()
		w.Header().Set("Connection", "close")
		fail(w, code)
	case http.StatusBadRequest, http.StatusUnsupportedMediaType:
		s.reports.refused.Inc()
		http.Error(w, fmt.Sprintf("%d %s: %v", code, http.StatusText(code), why), code)
	default:
		fail(w, code)
	}
}

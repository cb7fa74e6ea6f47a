package agent

import (
	"context"
	"log/slog"
	"runtime"
	"sync"
	"time"

	"prestage/internal/event"
	"prestage/internal/repo"
)

// The keys of a record that go into an event for the server.
const (
	imageKey   = "image"
	versionKey = "version"
	digestKey  = "digest"
	fetchedKey = "fetched"
)

// categories are what kinds of events are about.
var categories = map[Event]string{Started: "agent", Stopped: "agent", Installed: "install", Waiting: "install", Failed: "error", Warned: "error",
	Suggested: "update", Updated: "update", Staged: "prestage", Removed: "cleanup", PolicyUsed: "policy"}

// recorder is a handler of records that keeps what is told in the queue for the
// server, too.
type recorder struct {
	slog.Handler
	queue *queueHolder
}

// queueHolder holds the queue of the image store that the agent works on; there may
// be none.
type queueHolder struct {
	mu    sync.Mutex
	queue *event.Queue
	soon  bool // something was told that the server should hear of soon
}

// Handle implements slog.Handler.
func (r recorder) Handle(ctx context.Context, rec slog.Record) error {
	e := event.Event{Time: rec.Time, Severity: event.Information, Description: rec.Message}
	kind := Event(0)
	rec.Attrs(func(a slog.Attr) bool {
		switch a.Key {
		case EventKey:
			kind, _ = a.Value.Any().(Event)
		case imageKey:
			e.Image = a.Value.String()
		case versionKey:
			e.Version = uint32(a.Value.Uint64())
		case digestKey:
			e.Digest = a.Value.String()
		case fetchedKey:
			e.Fetched = a.Value.Int64()
		}
		return true
	})
	if kind != 0 {
		switch {
		case rec.Level >= slog.LevelError:
			e.Severity = event.Error
		case rec.Level >= slog.LevelWarn:
			e.Severity = event.Warning
		}
		e.Kind, e.Category = event.Kind(kind), categories[kind]
		r.queue.add(e)
	}
	return r.Handler.Handle(ctx, rec)
}

// WithAttrs implements slog.Handler.
func (r recorder) WithAttrs(attrs []slog.Attr) slog.Handler {
	return recorder{r.Handler.WithAttrs(attrs), r.queue}
}

// WithGroup implements slog.Handler.
func (r recorder) WithGroup(name string) slog.Handler {
	return recorder{r.Handler.WithGroup(name), r.queue}
}

func (h *queueHolder) add(e event.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue != nil {
		// It stays in memory if the disk is full; there is nobody else to tell.
		h.queue.Add(e)
		h.soon = h.soon || Event(e.Kind) != Waiting
	}
}

// open opens the queue of a store in place of the one before.
func (h *queueHolder) open(store string) error {
	h.close()
	q, err := event.OpenQueue(statePath(store, ""))
	if err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.queue = q
	return nil
}

func (h *queueHolder) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.queue != nil {
		h.queue.Close()
	}
	h.queue = nil
}

// take returns the queue, and whether it has something that is not to wait.
func (h *queueHolder) take() (q *event.Queue, soon bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	soon, h.soon = h.soon, false
	return h.queue, soon
}

// report is what the machine is and holds now.
func (a *Agent) report(t *task) event.Report {
	r := event.Report{Host: a.Machine, User: workingUser(), Client: a.Version, System: runtime.GOOS + "/" + runtime.GOARCH, Time: time.Now().UTC()}
	images, _ := t.store.List()
	for _, img := range images {
		r.Held = append(r.Held, event.Held{Image: img.Name, Version: img.Version, Digest: img.PackageDigest, Time: img.Verified.UTC()})
	}
	if t.staged != "" {
		entries, _, _ := repo.NewFolder(t.staged).Scan(context.Background())
		for _, e := range entries {
			r.Held = append(r.Held, event.Held{Image: e.Name, Version: e.Version, Digest: e.PackageDigest, Time: e.Created.UTC(), Staged: true})
		}
	}
	return r
}

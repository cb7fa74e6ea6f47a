// Package progress is what long work tells about itself while it runs.
package progress

// A Meter is told how far some work has come. Its methods may be called from
// several goroutines at once.
type Meter interface {
	// Begin starts a task of total bytes. The one before it is over.
	Begin(task string, total int64)
	// Add says that n more bytes are done.
	Add(n int64)
	// Warn tells the user something that does not stop the work.
	Warn(format string, args ...any)
}

// Discard is a Meter that shows nothing.
var Discard Meter = discard{}

type discard struct{}

func (discard) Begin(string, int64) {}
func (discard) Add(int64)           {}
func (discard) Warn(string, ...any) {}

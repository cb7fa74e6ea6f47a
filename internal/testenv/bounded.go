package testenv

import (
	"runtime"
	"testing"
	"time"
)

// MostMemory is what Bounded allows, in bytes.
const MostMemory = 256 << 20

// Bounded does something that a machine tries to keep from ending, and checks
// that it takes neither longer than limit nor too much memory, and that no
// goroutine of it stays.
func Bounded(t testing.TB, limit time.Duration, do func()) {
	t.Helper()
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	goroutines := runtime.NumGoroutine()
	done := make(chan struct{})
	begun := time.Now()
	go func() { defer close(done); do() }()
	peak := uint64(0)
	for end := false; !end; {
		select {
		case <-done:
			end = true
		case <-time.After(20 * time.Millisecond):
		}
		runtime.ReadMemStats(&now)
		peak = max(peak, now.HeapAlloc)
		if time.Since(begun) > 3*limit {
			t.Fatalf("it hangs:\n%s", stacks())
		}
	}
	if took := time.Since(begun); took > limit {
		t.Errorf("it took %v", took)
	}
	if peak > before.HeapAlloc+MostMemory {
		t.Errorf("it took %d MiB", (peak-before.HeapAlloc)>>20)
	}
	for end := time.Now().Add(5 * time.Second); runtime.NumGoroutine() > goroutines; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines are left of it:\n%s", runtime.NumGoroutine()-goroutines, stacks())
		}
	}
}

func stacks() []byte {
	p := make([]byte, 1<<20)
	return p[:runtime.Stack(p, true)]
}

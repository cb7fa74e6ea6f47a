package fleet

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"prestage/internal/host"
)

const mib = 1 << 20

// sink is a host with files that take so long for each byte, and hold nothing.
type sink struct {
	host.Host
	perSecond int64 // 0: as fast as they are written
	written   *atomic.Int64
}

type sinkFile struct {
	host.File
	sink
}

func (s sink) OpenWrite(context.Context, string) (host.File, error) { return sinkFile{sink: s}, nil }

func (f sinkFile) WriteAt(p []byte, _ int64) (int, error) {
	if f.perSecond > 0 {
		time.Sleep(time.Duration(int64(len(p)) * int64(time.Second) / f.perSecond))
	}
	f.written.Add(int64(len(p)))
	return len(p), nil
}

// Both limits hold, and what a slow machine leaves of the common one is used by
// the others alike.
func TestLimitsAreSharedFairly(t *testing.T) {
	for name, c := range map[string]struct {
		all, each int64
		machines  []int64 // what each can take, 0: anything
		want      []int64 // bytes a second
	}{
		"none, so each takes what it can": {0, 0, []int64{mib, 5 * mib}, []int64{mib, 5 * mib}},
		"each":                            {0, 2 * mib, []int64{0, 0, mib}, []int64{2 * mib, 2 * mib, mib}},
		"all":                             {9 * mib, 0, []int64{0, 0, 0}, []int64{3 * mib, 3 * mib, 3 * mib}},
		"all, one slow":                   {9 * mib, 0, []int64{0, 0, mib}, []int64{4 * mib, 4 * mib, mib}},
		"both":                            {9 * mib, 2 * mib, []int64{0, 0, 0}, []int64{2 * mib, 2 * mib, 2 * mib}},
		"both, all is less":               {3 * mib, 2 * mib, []int64{0, 0, 0}, []int64{mib, mib, mib}},
		"a narrow line":                   {9000, 0, []int64{0, 0, 0}, []int64{3000, 3000, 3000}},
		"one byte a second":               {0, 1, []int64{0}, []int64{1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const seconds = 600
				ctx, cancel := context.WithTimeout(t.Context(), seconds*time.Second)
				defer cancel()
				limits := NewLimits(c.all, c.each)
				counts := make([]atomic.Int64, len(c.machines))
				var wg sync.WaitGroup
				for i, speed := range c.machines {
					s := limits.Share()
					const writers = 16
					h := s.Host(sink{perSecond: speed / writers, written: &counts[i]})
					f, err := h.OpenWrite(ctx, "x")
					if err != nil {
						t.Fatal(err)
					}
					n := writers
					if speed == 0 {
						n = 1 + 3*i // more goroutines do not get a machine more
					}
					for range n {
						wg.Go(func() {
							size := 256 << 10
							if c.want[i] < mib {
								size = 100
							}
							p := make([]byte, size)
							for ctx.Err() == nil {
								if _, err := f.WriteAt(p, 0); err != nil && !errors.Is(err, context.DeadlineExceeded) {
									t.Error(err)
								}
							}
						})
					}
					defer func() {
						if s.Written() != counts[i].Load() {
							t.Errorf("machine %d says that %d bytes went to it, it was %d", i, s.Written(), counts[i].Load())
						}
					}()
				}
				wg.Wait()
				var sum int64
				for i, want := range c.want {
					got := float64(counts[i].Load()) / seconds
					sum += counts[i].Load()
					if got < 0.97*float64(want)-1 || got > 1.03*float64(want)+1 {
						t.Errorf("machine %d got %.0f bytes a second, should be %d", i, got, want)
					}
				}
				if most := c.all*seconds + min(c.all, mib); c.all > 0 && sum > most {
					t.Errorf("%d bytes in all, should be %d at most", sum, most)
				}
			})
		})
	}
}

// A machine that gets little is heard of long before a piece is finished.
func TestHeldBackIsAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := NewLimits(0, 1000).Share()
		last, longest := time.Now(), time.Duration(0)
		s.Alive = func() {
			longest, last = max(longest, time.Since(last)), time.Now()
		}
		start := time.Now()
		if err := s.wait(t.Context(), 200_000); err != nil || time.Since(start) != 199*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		if longest != time.Second {
			t.Errorf("nothing was heard of it for %v", longest)
		}
	})
}

// Whoever gives up while he waits is gone at once, and takes nothing from those
// behind him.
func TestLimitsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		limits := NewLimits(1000, 0)
		start := time.Now()
		if err := limits.Share().wait(t.Context(), 1000); err != nil || time.Since(start) != 0 {
			t.Fatalf("the first second's worth: %v after %v", err, time.Since(start))
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if err := limits.Share().wait(ctx, 1000); !errors.Is(err, context.Canceled) || time.Since(start) != 10*time.Millisecond {
					t.Errorf("%v after %v", err, time.Since(start))
				}
			})
		}
		time.Sleep(10 * time.Millisecond)
		cancel()
		wg.Wait()
		if err := limits.Share().wait(t.Context(), 1000); err != nil || time.Since(start) > 1010*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		// A deadline before its turn is waited for, not refused at once.
		late, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if err := limits.Share().wait(late, 5000); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

package ledger

import (
	"testing"
	"time"
)

// A clock that was set ahead says for a while what time it is to nobody.
func TestClockIsSet(t *testing.T) {
	shown, passed := noon, time.Duration(0)
	c := &clock{time: func() time.Time { return shown }, passed: func() time.Duration { return passed }}
	for i, step := range []struct {
		shows, passes time.Duration
		even          bool
	}{
		{0, 0, false}, // it may not be set yet
		{time.Hour, time.Hour, true},
		{time.Hour, time.Hour, true},
		{24 * 365 * time.Hour, time.Hour, false}, // set ahead
		{time.Minute, time.Minute, false},
		{time.Hour, time.Hour, true},
		{-24 * 365 * time.Hour, time.Hour, true},        // set back, where nothing is old that was not before
		{24*365*time.Hour + 1, 30 * time.Minute, false}, // and ahead again
		{time.Hour + 59*time.Second, time.Hour, true},   // a bad clock
	} {
		shown, passed = shown.Add(step.shows), passed+step.passes
		if now, even := c.runsEvenly(time.Hour); even != step.even || !now.Equal(shown) {
			t.Errorf("step %d: %v at %v", i, even, now)
		}
	}
}

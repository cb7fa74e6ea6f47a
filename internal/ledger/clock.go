package ledger

import "time"

// clock is a clock that may be set.
type clock struct {
	time   func() time.Time     // what it shows
	passed func() time.Duration // since some moment, whatever it shows

	shown time.Time     // when it was looked at last
	at    time.Duration // then
	even  time.Duration // since when it has not jumped
}

func newClock() *clock {
	began := time.Now()
	return &clock{time: time.Now, passed: func() time.Duration { return time.Since(began) }}
}

// runsEvenly reports whether the clock has not been set ahead for a while, and what it
// shows. It must be asked now and then: the clock was set where what it shows and
// the time that has passed go apart.
func (c *clock) runsEvenly(while time.Duration) (time.Time, bool) {
	now, at := c.time().Round(0), c.passed()
	if c.shown.IsZero() || now.Sub(c.shown)-(at-c.at) > time.Minute {
		c.even = at
	}
	c.shown, c.at = now, at
	return now, at-c.even >= while
}

package view

import (
	"math"
	"time"
)

const (
	rateMemory = 10 * time.Second // what is older counts little
	rateAfter  = 2 * time.Second  // a rate is told once it was measured for so long
	longestETA = 100 * time.Hour  // nobody plans with more, and it is mostly wrong
)

// rate is how many bytes go by in a second, exponentially smoothed. The zero
// rate has seen nothing.
type rate struct {
	value, weight float64 // weight is below 1 while there is less to remember
	begun, at     time.Time
}

// add says that n bytes went by since it was told before.
func (r *rate) add(n int64, now time.Time) {
	if r.at.IsZero() {
		r.begun, r.at = now, now
		return
	}
	d := now.Sub(r.at).Seconds()
	if d <= 0 {
		return
	}
	a := 1 - math.Exp(-d/rateMemory.Seconds())
	r.value += a * (float64(n)/d - r.value)
	r.weight += a * (1 - r.weight)
	r.at = now
}

// perSecond returns the rate, if it is known.
func (r *rate) perSecond() (float64, bool) {
	if r.weight == 0 || r.at.Sub(r.begun) < rateAfter {
		return 0, false
	}
	return r.value / r.weight, true
}

// left returns how long so many bytes take at this rate, if that can be said.
func (r *rate) left(bytes int64) (time.Duration, bool) {
	v, known := r.perSecond()
	if !known || v < 1 || bytes <= 0 || float64(bytes)/v > longestETA.Seconds() {
		return 0, false
	}
	return time.Duration(float64(bytes) / v * float64(time.Second)), true
}

package view

import (
	"fmt"
	"testing"
	"time"

	"prestage/internal/fleet"
)

// A line keeps its place while its machine is worked on. What comes into one
// that has become free is the oldest machine without a line, then the next that
// is begun, then the last line.
func TestLinesStay(t *testing.T) {
	p := play(nil, numbered(20)...)
	show := func(what, want string, visible int) {
		t.Helper()
		p.settle(visible)
		if got := fmt.Sprint(p.rows); got != want {
			t.Errorf("%s: the lines are %s, want %s", what, got, want)
		}
	}
	p.begin(0, 1, 2, 3, 4, 5)
	show("six are begun", "[0 1 2 3 4 5]", 4)
	p.end(fleet.Done, 1)
	p.begin(6)
	show("an older one takes the line", "[0 4 2 3 5 6]", 4)
	p.end(fleet.Done, 5)
	show("one without a line ends", "[0 4 2 3 6]", 4)
	p.end(fleet.Done, 0, 6, 3)
	show("three end", "[2 4]", 4)
	p.end(fleet.Done, 2)
	p.begin(7, 8)
	show("the next one takes the line", "[7 4 8]", 4)
	p.postpone(4, time.Minute)
	p.end(fleet.Failed, 7, 8)
	show("none is left", "[]", 4)
	p.begin(4)
	show("it is tried again", "[4]", 4)
	if got := p.counts(p.now); got != "20 machines: 11 waiting, 1 working, 6 done, 2 failed" {
		t.Errorf("it says %q", got)
	}
}

// The rate is that of the last seconds, from the first seconds on, however often
// it is measured.
func TestRate(t *testing.T) {
	for _, every := range []time.Duration{50 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		var r rate
		now := time.Now()
		go1 := func(perSecond int64, d time.Duration) {
			for end := now.Add(d); now.Before(end); {
				now = now.Add(every)
				r.add(perSecond*int64(every)/int64(time.Second), now)
			}
		}
		near := func(want float64) {
			t.Helper()
			if got, known := r.perSecond(); !known || got < 0.98*want-1 || got > 1.02*want+1 {
				t.Errorf("every %v: the rate is %v (%v), want %v", every, got, known, want)
			}
		}
		r.add(0, now)
		go1(1e6, time.Second)
		if v, known := r.perSecond(); known {
			t.Errorf("after a second it is known to be %v", v)
		}
		go1(1e6, 2*time.Second)
		near(1e6)
		go1(1e7, time.Minute)
		near(1e7)
		if d, known := r.left(1e9); !known || d.Round(5*time.Second) != 100*time.Second {
			t.Errorf("a GB takes %v, %v", d, known)
		}
		if d, known := r.left(0); known {
			t.Errorf("nothing takes %v", d)
		}
		go1(0, 5*time.Minute)
		if d, known := r.left(1e9); known {
			t.Errorf("when it stands, it takes %v", d)
		}
		r.add(1e9, now) // a clock that stands
		near(0)
	}
}

func TestAbout(t *testing.T) {
	for d, want := range map[time.Duration]string{
		time.Millisecond: "1 s", 59 * time.Second: "59 s", 60 * time.Second: "1 min 00 s", 93 * time.Second: "1 min 35 s",
		599 * time.Second: "10 min 00 s", 10 * time.Minute: "10 min", 3599 * time.Second: "60 min", 25*time.Hour + time.Minute: "25 h 01 min",
	} {
		if got := about(d); got != want {
			t.Errorf("%v is %q, want %q", d, got, want)
		}
	}
}

// What the whole run has to move comes from what its machines were seen to need.
func TestRestOfAll(t *testing.T) {
	const gib = 1 << 30
	one, two := []string{"a:1"}, []string{"a:1", "b:1"}
	for name, c := range map[string]struct {
		images []string
		play   func(p *played)
		want   int64 // -1: not known
	}{
		"nothing has begun":     {one, func(p *played) {}, -1},
		"there are no images":   {nil, func(p *played) { p.begin(0); p.at(0, "verifying x", "", 1, 5) }, -1},
		"all are logging on":    {one, func(p *played) { p.begin(0, 1); p.at(0, "connect", "", 0, 0) }, -1},
		"one copies, nine wait": {one, func(p *played) { p.begin(0); p.at(0, stepCopy, "a:1", gib/2, gib) }, gib/2 + gib + 9*2*gib},
		"it reads back":         {one, func(p *played) { p.begin(0); p.at(0, stepCopy, "a:1", gib, gib); p.at(0, stepBack, "a:1", 0, gib) }, gib + 9*2*gib},
		"its last bytes untold": {one, func(p *played) { p.begin(0); p.at(0, stepCopy, "a:1", gib/2, gib); p.at(0, stepBack, "a:1", 0, gib) }, gib + 9*2*gib},
		"a sample is read back": {one, func(p *played) {
			p.begin(0)
			p.at(0, stepCopy, "a:1", gib, gib)
			p.at(0, stepBack+" a sample", "a:1", 0, gib/64)
		}, gib/64 + 9*(gib+gib/64)},
		"it checks by itself": {one, func(p *played) { p.begin(0); p.at(0, stepCopy, "a:1", gib, gib); p.at(0, "checked there", "a:1", 0, 0) }, 9 * gib},
		"the first was done": {one, func(p *played) {
			p.begin(0)
			p.at(0, stepCopy, "a:1", gib, gib)
			p.at(0, stepBack, "a:1", gib, gib)
			p.at(0, "check", "", 0, 0)
		}, 9 * 2 * gib},
		"some have it already": {one, func(p *played) { p.begin(0, 1, 2); p.end(fleet.Already, 1, 2); p.at(0, stepCopy, "a:1", 0, 3*gib) }, 6*gib + 7*2*gib},
		"one goes on":          {one, func(p *played) { p.begin(0); p.at(0, stepCheck, "a:1", gib, gib); p.at(0, stepCopy, "a:1", 0, gib/4) }, gib/4 + gib/4 + 9*(gib+gib/2)},
		"two images":           {two, func(p *played) { p.begin(0); p.at(0, stepCopy, "a:1", 0, gib) }, 4*gib + 9*4*gib},
		"another size": {two, func(p *played) {
			p.begin(0)
			p.at(0, stepCopy, "a:1", gib, gib)
			p.at(0, stepBack, "a:1", gib, gib)
			p.at(0, stepBegin, "b:1", 0, 0)
			p.at(0, stepCopy, "b:1", 0, 2*gib)
		}, 4*gib + 9*6*gib},
		"one never answered": {one, func(p *played) { p.begin(0, 1); p.postpone(1, time.Minute); p.at(0, stepCopy, "a:1", 0, gib) }, 2*gib + 8*2*gib},
		"one was cut": {one, func(p *played) {
			p.begin(0, 1)
			p.at(1, stepCopy, "a:1", gib/2, gib)
			p.postpone(1, time.Minute)
			p.at(0, stepCopy, "a:1", 0, gib)
		}, 2*gib + gib/2 + gib + 8*2*gib},
		"the last one reads back": {one, func(p *played) {
			p.end(fleet.NotBegun, 1, 2, 3, 4, 5, 6, 7, 8, 9)
			p.begin(0)
			p.at(0, stepBack, "a:1", 10, gib)
		}, gib - 10},
	} {
		p := play(c.images, numbered(10)...)
		c.play(p)
		rest, known := p.restOfAll()
		if !known {
			rest = -1
		}
		if rest != c.want {
			t.Errorf("%s: %.2f GiB, want %.2f", name, float64(rest)/gib, float64(c.want)/gib)
		}
	}
}

// The run is not said to end before its slowest machine does.
func TestLeftWaitsForTheSlowest(t *testing.T) {
	p := play([]string{"a:1"}, numbered(2)...)
	p.begin(0, 1)
	for s := range 60 {
		p.at(0, stepCopy, "a:1", int64(s)*100*mib, 10000*mib)
		p.at(1, stepCopy, "a:1", int64(s)*mib, 10000*mib)
		p.sample(p.now)
		p.now = p.now.Add(time.Second)
	}
	if d, known := p.left(); !known || d < 5*time.Hour || d > 6*time.Hour {
		t.Errorf("%v left, %v", d, known)
	}
}

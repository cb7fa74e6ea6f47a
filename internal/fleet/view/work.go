package view

import (
	"time"

	"prestage/internal/fleet"
)

// The steps of an image that move bytes, as package prestage calls them. The
// first one is skipped where nothing was begun before.
const (
	stepCheck = "checking what is there"
	stepCopy  = "copying"
	stepBack  = "reading back"
)

// work is what has been moved, and what there is still to move. Both count a
// package that is written and read back twice: that is what the network has to
// carry, and what rates are of.
type work struct {
	moved     int64
	sampled   int64 // of these, what the rate knows of
	rate      rate
	plans     []plan // of the images, in their order
	over      int    // machines that were begun and have ended
	overMoved int64  // what was moved with them
}

// plan is what an image takes on a machine, as far as it was seen on any.
type plan struct {
	known      bool
	copy, back int64
	backSeen   bool // back is not a guess
}

// learn takes the progress of a machine from old to now, at the image with that
// index in plans or none, and returns how many bytes were moved in between.
func (w *work) learn(image int, old, now *fleet.Progress) int64 {
	same := now.Step == old.Step && now.Image == old.Image && now.Total == old.Total && now.Done >= old.Done
	if same {
		return now.Done - old.Done
	}
	if image >= 0 && now.Total > 0 {
		p := &w.plans[image]
		switch now.Step {
		case stepCopy: // less than all of it where a part was there
			p.known, p.copy = true, max(p.copy, now.Total)
		case stepBack:
			p.known, p.copy, p.back, p.backSeen = true, max(p.copy, now.Total), now.Total, true
		}
		if !p.backSeen {
			p.back = p.copy
		}
	}
	moved := now.Done
	if now.Image == old.Image && now.Total > 0 {
		// Only the latest progress is told: the end of the step before was not.
		moved += max(old.Total-old.Done, 0)
	}
	return moved
}

// rest returns how many bytes a machine has still to move, if that can be said.
func (t *table) rest(m *machine) (int64, bool) {
	image := -1
	for i, name := range t.images {
		if name == m.now.Image {
			image = i
		}
	}
	rest := max(m.now.Total-m.now.Done, 0)
	switch {
	case image < 0 && len(t.images) > 0:
		return 0, m.came // all images are done, or none was begun
	case image < 0:
		return rest, m.now.Total > 0 // the step is all there is to know
	case !t.work.plans[image].known && m.now.Step != stepCheck, m.moved == 0 && m.now.Total == 0:
		return 0, false
	}
	switch p := t.work.plans[image]; {
	case m.now.Total == 0 || m.now.Step == stepCheck:
		if !p.known {
			p.copy, p.back = m.now.Total, m.now.Total
		}
		rest += p.copy + p.back
	case m.now.Step == stepCopy:
		rest += p.back
	}
	for _, p := range t.work.plans[image+1:] {
		if !p.known {
			return 0, false
		}
		rest += p.copy + p.back
	}
	return rest, true
}

// restOfAll returns how many bytes the whole run has still to move, if that can be
// said. A machine of which nothing is known is taken to need what the others
// need in the mean: some have all of it already, some fail early. One that never
// answered is left out: nobody knows whether it will come.
func (t *table) restOfAll() (int64, bool) {
	if len(t.images) == 0 {
		return 0, false
	}
	n, needed, rest := t.work.over, t.work.overMoved, int64(0)
	var unknown []int64 // what was moved with machines of which the rest is not known
	for _, m := range t.machines {
		if m.moved == 0 && !m.again.IsZero() {
			continue
		}
		left, known := t.rest(m)
		if !known {
			unknown = append(unknown, m.moved)
			continue
		}
		n++
		rest += left
		needed += m.moved + left
	}
	if len(unknown)+t.waiting() == 0 {
		return rest, true
	}
	if needed == 0 {
		return 0, false
	}
	mean := needed / int64(n)
	for _, moved := range unknown {
		rest += max(mean-moved, 0)
	}
	return rest + int64(t.waiting())*mean, true
}

// left returns how long the run will take, if that can be said.
func (t *table) left() (time.Duration, bool) {
	rest, known := t.restOfAll()
	if !known {
		return 0, false
	}
	d, known := t.work.rate.left(rest)
	if !known {
		return 0, false
	}
	// The run is not over before its slowest machine is.
	for _, m := range t.machines {
		if rest, known := t.rest(m); known && m.again.IsZero() {
			if own, known := m.rate.left(rest); known {
				d = max(d, own)
			}
		}
	}
	return d, true
}

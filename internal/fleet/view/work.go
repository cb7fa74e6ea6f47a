package view

import (
	"slices"
	"time"

	"prestage/internal/fleet"
)

// The steps of an image that matter here, as they are called where they are
// done. Whatever comes after copying checks the copy: the whole of it is read
// back, or a part, or the machine does it by itself and nothing is moved.
const (
	stepBegin = "push"
	stepCheck = "checking what is there" // where some of it was there before
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

// plan returns the plan of an image. One that was not seen yet is taken to be
// like the others in the mean.
func (w *work) plan(image int) plan {
	if w.plans[image].known {
		return w.plans[image]
	}
	var mean plan
	n := int64(0)
	for _, p := range w.plans {
		if p.known {
			n++
			mean.copy, mean.back = mean.copy+p.copy, mean.back+p.back
		}
	}
	if n > 0 {
		mean.known, mean.copy, mean.back = true, mean.copy/n, mean.back/n
	}
	return mean
}

// learn takes note of a step that began.
func (p *plan) learn(now *fleet.Progress) {
	switch now.Step {
	case stepBegin, stepCheck:
		return
	case stepCopy: // less than all of it where a part was there
		p.known, p.copy = true, max(p.copy, now.Total)
	default:
		p.known, p.copy = p.known || now.Total > 0, max(p.copy, now.Total)
		p.back, p.backSeen = now.Total, true
	}
	if !p.backSeen {
		p.back = p.copy
	}
}

// learn takes the progress of a machine from old to now, at the image with that
// index in plans or none, and returns how many bytes were moved in between.
func (w *work) learn(image int, old, now *fleet.Progress) int64 {
	same := now.Step == old.Step && now.Image == old.Image && now.Total == old.Total && now.Done >= old.Done
	if same {
		return now.Done - old.Done
	}
	if image >= 0 {
		w.plans[image].learn(now)
	}
	moved := now.Done
	if now.Image == old.Image { // it has come further, so the step before is done
		// Only the latest progress is told: the end of that step was not.
		moved += max(old.Total-old.Done, 0)
	}
	return moved
}

// rest returns how many bytes a machine has still to move, if that can be said.
func (t *table) rest(m *machine) (int64, bool) {
	image := slices.Index(t.images, m.now.Image)
	rest := max(m.now.Total-m.now.Done, 0)
	switch {
	case image < 0 && len(t.images) > 0:
		return 0, m.came // all images are done, or none was begun
	case image < 0:
		return rest, m.now.Total > 0 // the step is all there is to know
	}
	p := t.work.plan(image)
	switch m.now.Step {
	case stepBegin:
		if m.moved == 0 || !p.known { // most machines that have it already go no further
			return 0, false
		}
		rest += p.copy + p.back
	case stepCheck:
		if !p.known {
			p.copy, p.back = m.now.Total, m.now.Total
		}
		rest += p.copy + p.back
	case stepCopy:
		rest += p.back
	}
	for later := image + 1; later < len(t.images); later++ {
		p := t.work.plan(later)
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

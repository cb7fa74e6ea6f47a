package fleet

import (
	"context"
	"time"

	"prestage/internal/prestage"
	"prestage/internal/repo"
)

// Job is one attempt on one machine. When ctx ends it returns soon; ctx has no
// deadline, since a limiter refuses at once what would end after it.
type Job func(ctx context.Context, m Machine, report func(Progress)) Outcome

// Progress is how far a job has come. Reporting it never waits; when much is
// reported, only the latest is passed on.
type Progress struct {
	Step  string // what is being done, as in "reading back"
	Image string // NAME:N, if it is done to one
	Done  int64  // bytes
	Total int64  // bytes, 0 if that is not known
}

// Outcome is what came of one attempt.
type Outcome struct {
	Location   string   // the pre-stage folder, if it is known
	Checked    bool     // whether location, folders and files were looked at after the work
	Deviations []string // of the location and the folders from what they should be
	Images     []Image
	Step       string // at which the attempt failed
	Err        error
}

// Image is what came of one image on one machine.
type Image struct {
	Name       string // NAME:N
	Already    bool   // it was there, verified before
	Digest     string // of the package that was verified, hexadecimal
	Verified   time.Time
	How        string // as in prestage.Receipt
	Moved      int64  // bytes
	Size       int64  // bytes
	Took       time.Duration
	Deviations []string // of the files from what they should be
	Step       string   // that failed
	Err        error
}

// Failure returns the first error of an attempt and its step, or nil.
func (o *Outcome) Failure() (step string, err error) {
	if o.Err != nil {
		return o.Step, o.Err
	}
	for _, i := range o.Images {
		if i.Err != nil {
			return i.Step, i.Err
		}
	}
	return "", nil
}

// already reports whether the machine had all images before.
func (o *Outcome) already() bool {
	for _, i := range o.Images {
		if !i.Already {
			return false
		}
	}
	return len(o.Images) > 0
}

// Pushed adds an image that was pushed; p is what prestage.Push returned.
func (o *Outcome) Pushed(p *prestage.Pushed, took time.Duration) {
	i := Image{Already: p.Already, Moved: p.Moved, Size: p.Size, Took: took}
	if r := p.Receipt; r != nil {
		i.Name = repo.ImageName(r.Name, r.Version)
		if i.Digest, i.How = r.PackageDigest, r.How; r.How != prestage.HowNone {
			i.Verified = r.Verified
		}
	}
	o.Images = append(o.Images, i)
}

// Examined adds what prestage.GetStatus found: the location, how folders
// deviate, and how the files of the images deviate. Images that the outcome
// does not have yet are added if all is true.
func (o *Outcome) Examined(s *prestage.Status, all bool) {
	o.Location, o.Checked = s.Location, true
	for _, f := range s.Folders {
		for _, d := range f.Deviations {
			o.Deviations = append(o.Deviations, f.Path+": "+d)
		}
	}
	for _, name := range s.Stray {
		o.Deviations = append(o.Deviations, name+" does not belong into the pre-stage folder")
	}
	for _, p := range s.Packages {
		name, at := repo.ImageName(p.Name, p.Version), -1
		for i := range o.Images {
			if o.Images[i].Name == name {
				at = i
			}
		}
		if at < 0 && !all {
			continue
		}
		if at < 0 {
			at = len(o.Images)
			o.Images = append(o.Images, Image{Name: name, Already: true, Size: int64(p.FileSize), How: p.How})
			if p.How != "" {
				o.Images[at].Digest = p.Digest
			}
			if p.Verified != nil {
				o.Images[at].Verified = *p.Verified
			}
		}
		o.Images[at].Deviations = append(o.Images[at].Deviations, p.Deviations...)
	}
}

// State is what has become of a machine, or of an image on it.
type State string

// The states. These words are in reports.
const (
	Done        State = "done"
	Already     State = "already" // it was so before
	Failed      State = "failed"
	Unreachable State = "unreachable"
	Interrupted State = "interrupted" // the same command goes on where it was
	NotBegun    State = "not begun"
)

// Result is what has become of one machine in a run.
type Result struct {
	Machine  Machine
	State    State
	Reason   string  // why it was interrupted or not begun
	Outcome  Outcome // of the last attempt
	Attempts int
	Begun    time.Time     // the first attempt; zero if there was none
	Took     time.Duration // all attempts together
}

// EventKind is what an Event tells.
type EventKind int

// Kinds of events.
const (
	EventBegun     EventKind = iota // an attempt on a machine began
	EventProgress                   // it has come further
	EventPostponed                  // it will be tried again at At; Err says why
	EventEnded                      // Result is final; each machine has exactly one
	EventPaused                     // the window is closed until At; no machine is meant
)

// Event is something that happens in a run.
type Event struct {
	Kind     EventKind
	Index    int // of the machine among those of the run
	Machine  Machine
	Progress Progress
	At       time.Time
	Err      error
	Result   *Result
}

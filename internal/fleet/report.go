package fleet

import (
	"errors"
	"slices"
	"strings"
	"time"
	"unicode"
)

// Report is what an administrator, or an auditor, wants to know of a run. The
// names of its JSON fields are a contract.
type Report struct {
	Command  string          `json:"command"` // "push", "status", …
	Images   []string        `json:"images"`  // NAME:N, that every machine was to get
	Begun    time.Time       `json:"begun"`
	Ended    time.Time       `json:"ended"`
	Counts   map[State]int   `json:"counts"` // machines by state
	Moved    int64           `json:"moved"`  // bytes
	Machines []MachineReport `json:"machines"`
}

// MachineReport is what a Report says of one machine.
type MachineReport struct {
	Machine    string        `json:"machine"`
	Group      string        `json:"group"`
	State      State         `json:"state"`
	Reason     string        `json:"reason"`   // why it was interrupted or not begun
	Location   string        `json:"location"` // the pre-stage folder
	Checked    bool          `json:"checked"`  // whether location, rights and files were looked at after the work
	Deviations []string      `json:"deviations"`
	Attempts   int           `json:"attempts"`
	Begun      *time.Time    `json:"begun"`
	Seconds    float64       `json:"seconds"`
	Step       string        `json:"step"` // that failed
	Error      string        `json:"error"`
	Advice     string        `json:"advice"` // what to do about it
	Images     []ImageReport `json:"images"`
}

// ImageReport is what a Report says of one image on one machine.
type ImageReport struct {
	Image         string     `json:"image"` // NAME:N
	State         State      `json:"state"`
	PackageDigest string     `json:"package_digest"` // of the package that was found whole
	Verified      *time.Time `json:"verified"`
	How           string     `json:"how"`
	Moved         int64      `json:"moved"` // bytes
	Size          int64      `json:"size"`  // bytes
	Seconds       float64    `json:"seconds"`
	Deviations    []string   `json:"deviations"`
	Step          string     `json:"step"`
	Error         string     `json:"error"`
	Advice        string     `json:"advice"`
}

// NewReport makes the report of a run that is over. Images are those that every
// machine was to get.
func NewReport(command string, images []string, begun, ended time.Time, results []Result) *Report {
	r := &Report{Command: command, Images: append([]string{}, images...), Begun: begun.UTC(), Ended: ended.UTC(),
		Counts: map[State]int{}, Machines: []MachineReport{}}
	for _, s := range []State{Done, Already, Failed, Unreachable, Interrupted, NotBegun} {
		r.Counts[s] = 0
	}
	for i := range results {
		m := machineReport(&results[i], images)
		r.Counts[m.State]++
		for _, i := range m.Images {
			r.Moved += i.Moved
		}
		r.Machines = append(r.Machines, m)
	}
	return r
}

var errNothing = errors.New("nothing was reported of this image")

func machineReport(res *Result, images []string) MachineReport {
	o := &res.Outcome
	m := MachineReport{
		Machine: Clean(res.Machine.Name), Group: Clean(res.Machine.Group), State: res.State, Reason: Clean(res.Reason),
		Location: Clean(o.Location), Checked: o.Checked, Deviations: cleanAll(o.Deviations), Attempts: res.Attempts, Begun: stamp(res.Begun),
		Seconds: seconds(res.Took), Images: []ImageReport{},
	}
	m.Step, m.Error = Clean(o.Step), text(o.Err)
	m.Advice = advice(res.State, o.Err, len(o.Deviations) > 0)
	for i := range o.Images {
		m.Images = append(m.Images, imageReport(res, &o.Images[i]))
	}
	for _, name := range images { // that it did not come to
		if slices.ContainsFunc(m.Images, func(i ImageReport) bool { return i.Image == name }) {
			continue
		}
		i := ImageReport{Image: Clean(name), State: NotBegun, Deviations: []string{}}
		switch res.State {
		case Unreachable:
			i.State = Unreachable
		case Done, Already: // a receipt must never be missing silently
			i.State, i.Error, i.Advice = Failed, errNothing.Error(), advice(Failed, errNothing, false)
		}
		m.Images = append(m.Images, i)
	}
	return m
}

func imageReport(res *Result, i *Image) ImageReport {
	r := ImageReport{
		Image: Clean(i.Name), State: Done, PackageDigest: Clean(i.Digest), Verified: stamp(i.Verified), How: Clean(i.How),
		Moved: i.Moved, Size: i.Size, Seconds: seconds(i.Took), Deviations: cleanAll(i.Deviations), Step: Clean(i.Step), Error: text(i.Err),
	}
	switch {
	case i.Err != nil && (res.State == Interrupted || res.State == Unreachable):
		r.State = res.State
	case i.Err != nil:
		r.State = Failed
	case i.Already:
		r.State = Already
	}
	r.Advice = advice(r.State, i.Err, len(i.Deviations) > 0)
	return r
}

// OK reports whether every machine is as it should be.
func (r *Report) OK() bool {
	return !slices.ContainsFunc(r.Machines, func(m MachineReport) bool { return m.Attention() })
}

// Attention reports whether somebody has to look after the machine.
func (m MachineReport) Attention() bool {
	return m.State != Done && m.State != Already || len(m.Deviations) > 0 || slices.ContainsFunc(m.Images, ImageReport.Attention)
}

// Attention reports whether somebody has to look after the image.
func (i ImageReport) Attention() bool {
	return i.State != Done && i.State != Already || len(i.Deviations) > 0
}

func stamp(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Second)
	return &t
}

func seconds(d time.Duration) float64 { return d.Round(time.Millisecond).Seconds() }

func text(err error) string {
	if err == nil {
		return ""
	}
	return Clean(err.Error())
}

// maxText is how much of a text goes into a report: some come from machines.
const maxText = 2000

// Clean returns a text without what could make it look like another one:
// control characters, and those that change the direction of writing.
func Clean(s string) string {
	if len(s) > maxText {
		s = s[:maxText] + "…" // half a character is replaced below
	}
	return strings.Map(func(c rune) rune {
		switch {
		case c == '\n' || c == '\t':
			return ' '
		case c == unicode.ReplacementChar || unicode.IsControl(c) || unicode.Is(unicode.Cf, c) || unicode.Is(unicode.Noncharacter_Code_Point, c):
			return unicode.ReplacementChar
		}
		return c
	}, strings.ToValidUTF8(s, "\ufffd"))
}

func cleanAll(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = Clean(s)
	}
	return out
}

package fleet

import (
	"cmp"
	"crypto/sha256"
	_ "embed" // the page and its script
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
)

//go:embed report.html
var pageText string

//go:embed report.js
var sortScript string

//go:embed report.css
var style string

var page = template.Must(template.New("report").Funcs(template.FuncMap{
	"bytes": func(n int64) string { return units.BytesSize(float64(n)) },
	"date":  func(t time.Time) string { return t.Format("2006-01-02 15:04:05") },
	"took":  func(s float64) string { return time.Duration(s * float64(time.Second)).Round(time.Second).String() },
	"class": func(s State) string { return strings.ReplaceAll(string(s), " ", "-") },
}).Parse(pageText))

// WriteHTML writes the report as one page that needs nothing else, and no
// script to be read: the script only sorts.
func (r *Report) WriteHTML(w io.Writer) error {
	script := strings.ReplaceAll(sortScript, "\r\n", "\n")
	sum := sha256.Sum256([]byte(script))
	return page.Execute(w, map[string]any{
		"Report": r, "Rows": r.rows(), "States": []State{Done, Already, Failed, Unreachable, Interrupted, NotBegun},
		"Attention": r.attention(), "Took": r.Ended.Sub(r.Begun).Seconds(),
		"Style": template.CSS(style), "Script": template.JS(script),
		// Should some text of a machine ever get into the page as a script, no
		// browser runs it; and nothing is loaded from anywhere.
		"Policy": "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'",
	})
}

// attention returns the machines that somebody has to look after, those that
// failed first.
func (r *Report) attention() (list []*MachineReport) {
	for i := range r.Machines {
		if r.Machines[i].Attention() {
			list = append(list, &r.Machines[i])
		}
	}
	urgency := map[State]int{Failed: 0, Done: 1, Already: 1, Unreachable: 2, Interrupted: 3, NotBegun: 4}
	slices.SortStableFunc(list, func(a, b *MachineReport) int { return cmp.Compare(urgency[a.State], urgency[b.State]) })
	return list
}

// Problems says in words what is not as it should be.
func (m *MachineReport) Problems() (list []string) {
	add := func(about, step, what string) {
		for _, s := range []string{step, about} {
			if s != "" {
				what = s + ": " + what
			}
		}
		if !slices.Contains(list, what) {
			list = append(list, what)
		}
	}
	if m.Reason != "" {
		add("", "", m.Reason)
	}
	if m.Error != "" {
		add("", m.Step, m.Error)
	}
	for _, d := range m.Deviations {
		add("", "", d)
	}
	for _, i := range m.Images {
		if i.Error != "" {
			add(i.Image, i.Step, i.Error)
		}
		for _, d := range i.Deviations {
			add(i.Image, "", d)
		}
	}
	return list
}

// Advices says what to do about them.
func (m *MachineReport) Advices() (list []string) {
	if m.Advice != "" {
		list = append(list, m.Advice)
	}
	for _, i := range m.Images {
		if i.Advice != "" && !slices.Contains(list, i.Advice) {
			list = append(list, i.Advice)
		}
	}
	return list
}

// Verdict is the report in one sentence.
func (r *Report) Verdict() string {
	bad, all := len(r.attention()), len(r.Machines)
	switch {
	case all == 0:
		return "There were no machines."
	case bad == 0 && all == 1:
		return "The machine is as it should be."
	case bad == 0:
		return fmt.Sprintf("All %d machines are as they should be.", all)
	case bad == 1:
		return fmt.Sprintf("1 of %d machines needs attention.", all)
	}
	return fmt.Sprintf("%d of %d machines need attention.", bad, all)
}

//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// A row of the budget table.
type row struct {
	work    string
	against string
	budget  float64 // the highest ratio that is within the budget; 0: informs only
	missing string  // if set, why there is no number

	ratio     float64
	low, high float64 // of the pairs; equal to ratio for what does not vary
	varies    bool
	cpu       string // ratio of the processor time
	absolute  string // both sides in absolute numbers
}

func timeRow(work, against string, budget float64, ours, theirs samples) row {
	r := row{work: work, against: against, budget: budget, ratio: ratio(ours.wall(), theirs.wall())}
	r.low, r.high = pairs(ours, theirs)
	r.varies = len(ours) > 1
	r.cpu = "–"
	if theirs.cpu() > 0 {
		r.cpu = fmt.Sprintf("%.2f", ratio(ours.cpu(), theirs.cpu()))
	}
	r.absolute = fmt.Sprintf("%.2f s / %.2f s", ours.wall().Seconds(), theirs.wall().Seconds())
	return r
}

// constRow compares a time with one that is not measured but follows from what
// is known.
func constRow(work, against string, budget float64, ours samples, theirs time.Duration) row {
	r := timeRow(work, against, budget, ours, slices.Repeat(samples{{wall: theirs}}, len(ours)))
	r.absolute += " by arithmetic"
	return r
}

func byteRow(work, against string, budget float64, ours, theirs int64) row {
	r := row{work: work, against: against, budget: budget, ratio: ratio(ours, theirs), cpu: "–"}
	r.low, r.high = r.ratio, r.ratio
	r.absolute = fmt.Sprintf("%.1f MiB / %.1f MiB", float64(ours)/mib, float64(theirs)/mib)
	return r
}

// countRow is a row of numbers of things.
func countRow(work, against string, budget float64, ours, theirs int64) row {
	r := row{work: work, against: against, budget: budget, ratio: ratio(ours, theirs), cpu: "–"}
	r.low, r.high = r.ratio, r.ratio
	r.absolute = fmt.Sprintf("%d / %d", ours, theirs)
	return r
}

// verdict says whether the budget was met, and whether the pairs agree.
func (r row) verdict() string {
	switch {
	case r.missing != "":
		return "–"
	case r.budget == 0:
		return "(informs)"
	case r.ratio <= r.budget && r.high > r.budget:
		return "met, not in every pair"
	case r.ratio <= r.budget:
		return "met"
	case r.low <= r.budget:
		return "**not met**, in some pairs"
	default:
		return "**not met**"
	}
}

// table renders the rows as a Markdown table that also reads well as plain
// text.
func table(rows []row) string {
	cells := [][]string{{"work", "against", "budget", "ratio", "pairs", "verdict", "cpu", "ours / theirs"}}
	for _, r := range rows {
		budget := "–"
		if r.budget > 0 {
			budget = fmt.Sprintf("≤ %.2f", r.budget)
		}
		if r.missing != "" {
			cells = append(cells, []string{r.work, r.against, budget, "–", "–", r.verdict(), "–", r.missing})
			continue
		}
		spread := "–"
		if r.varies {
			spread = digits(r.low) + "–" + digits(r.high)
		}
		cells = append(cells, []string{r.work, r.against, budget, digits(r.ratio), spread, r.verdict(), r.cpu, r.absolute})
	}
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			width[i] = max(width[i], utf8.RuneCountInString(c))
		}
	}
	var s strings.Builder
	for n, line := range cells {
		for i, c := range line {
			fmt.Fprintf(&s, "| %s%s ", c, strings.Repeat(" ", width[i]-utf8.RuneCountInString(c)))
		}
		s.WriteString("|\n")
		if n == 0 {
			for _, w := range width {
				fmt.Fprintf(&s, "|%s", strings.Repeat("-", w+2))
			}
			s.WriteString("|\n")
		}
	}
	return s.String()
}

// digits shows a ratio with two digits that mean something.
func digits(ratio float64) string {
	if ratio < 0.1 {
		return fmt.Sprintf("%.3f", ratio)
	}
	return fmt.Sprintf("%.2f", ratio)
}

// The generated parts of the document lie between two such lines each; all the
// rest of it is written by hand and stays as it is.
func marks(part string) (begin, end string) {
	return "<!-- measured " + part + " -->", "<!-- /measured " + part + " -->"
}

// writeDoc puts texts between the marks of their parts, in the document at path,
// which is made from the template if there is none yet.
func writeDoc(path, template string, texts map[string]string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = os.ReadFile(template)
	}
	if err != nil {
		return err
	}
	doc := string(old)
	for part, text := range texts {
		if doc, err = between(doc, part, text); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(doc), 0o644)
}

// between replaces what lies between the marks of a part.
func between(doc, part, text string) (string, error) {
	begin, end := marks(part)
	head, rest, found := strings.Cut(doc, begin)
	if !found {
		return "", fmt.Errorf("no line %s to put the table after", begin)
	}
	_, tail, found := strings.Cut(rest, end)
	if !found {
		return "", fmt.Errorf("no line %s to end the table at", end)
	}
	return head + begin + "\n" + strings.TrimRight(text, "\n") + "\n" + end + tail, nil
}

package fleet

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"prestage/internal/durable"
)

// writers are the forms of a report, by the extension of its file.
var writers = map[string]func(r *Report, w io.Writer) error{
	".json": (*Report).WriteJSON,
	".csv":  (*Report).WriteCSV,
	".html": (*Report).WriteHTML,
}

// CheckReportFile reports whether a report can have this name, which is worth
// knowing before a run.
func CheckReportFile(path string) error {
	if writers[strings.ToLower(filepath.Ext(path))] == nil {
		return fmt.Errorf("report %q: name a file that ends with .json, .csv or .html", path)
	}
	return nil
}

// Save writes the report in the form that the name of the file asks for. The
// file is there whole or not at all.
func (r *Report) Save(path string) error {
	if err := CheckReportFile(path); err != nil {
		return err
	}
	var b bytes.Buffer
	if err := writers[strings.ToLower(filepath.Ext(path))](r, &b); err != nil {
		return fmt.Errorf("report %q: %w", path, err)
	}
	if err := durable.WriteFile(path, b.Bytes(), 0o644); err != nil {
		return fmt.Errorf("report %q: %w", path, err)
	}
	return nil
}

// WriteJSON writes the report as one JSON object.
func (r *Report) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(r)
}

var csvHead = []string{"machine", "group", "image", "state", "package_digest", "verified", "how", "location", "checked", "deviations",
	"moved", "size", "seconds", "attempts", "reason", "step", "error", "advice"}

// WriteCSV writes a line for each machine and image (RFC 4180).
func (r *Report) WriteCSV(w io.Writer) error {
	c := csv.NewWriter(w)
	c.UseCRLF = true
	c.Write(csvHead)
	for _, row := range r.rows() {
		c.Write([]string{
			harmless(row.Machine.Machine), harmless(row.Machine.Group), harmless(row.Image.Image), harmless(string(row.State)),
			harmless(row.Image.PackageDigest), when(row.Image.Verified), harmless(row.Image.How),
			harmless(row.Machine.Location), strconv.FormatBool(row.Machine.Checked), harmless(strings.Join(row.Deviations(), "; ")),
			strconv.FormatInt(row.Image.Moved, 10), strconv.FormatInt(row.Image.Size, 10), strconv.FormatFloat(row.Image.Seconds, 'f', 3, 64),
			strconv.Itoa(row.Machine.Attempts), harmless(row.Machine.Reason), harmless(row.Step), harmless(row.Error), harmless(row.Advice),
		})
	}
	c.Flush()
	return c.Error()
}

// harmless keeps programs that calculate from taking a cell for a formula.
func harmless(cell string) string {
	if cell != "" && strings.Contains("=+-@\t\r", cell[:1]) {
		return "'" + cell
	}
	return cell
}

func when(t *time.Time) string {
	if t == nil {
		return ""
	}
	return t.Format(time.RFC3339)
}

// row is one machine and one image, as a table shows them. A machine without
// images has one row too.
type row struct {
	Machine             *MachineReport
	Image               ImageReport
	State               State
	Step, Error, Advice string
}

func (r *Report) rows() (rows []row) {
	for i := range r.Machines {
		m := &r.Machines[i]
		if len(m.Images) == 0 {
			rows = append(rows, row{m, ImageReport{Seconds: m.Seconds}, m.State, m.Step, m.Error, m.Advice})
		}
		for _, image := range m.Images {
			line := row{m, image, image.State, image.Step, image.Error, image.Advice}
			if m.Error != "" && line.Error == "" { // it is why the image is not there
				line.Step, line.Error, line.Advice = m.Step, m.Error, m.Advice
			}
			if line.Advice == "" && line.Attention() {
				line.Advice = m.Advice
			}
			rows = append(rows, line)
		}
	}
	return rows
}

// Deviations are those of the machine and of the image.
func (l row) Deviations() []string {
	return append(append([]string{}, l.Machine.Deviations...), l.Image.Deviations...)
}

// Attention reports whether somebody has to look after it.
func (l row) Attention() bool {
	return l.Image.Image == "" && l.Machine.Attention() || l.Image.Image != "" && l.Image.Attention() ||
		l.Machine.Error != "" || len(l.Machine.Deviations) > 0
}

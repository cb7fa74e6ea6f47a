package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"prestage/internal/event"
	"prestage/internal/ledger"
)

// reportFlags say what is shown of the events of machines, and how.
type reportFlags struct {
	events, format string
	filter         ledger.Filter
	days           int
	severity       string
}

func (a *app) reportCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "report",
		Short: "Show what machines have told the server: what they hold, and what has happened",
		Long: `The server keeps it when it is started with --events. Whoever may read the database
can see it, also while the server runs, and from another machine if it is PostgreSQL.`,
		Args: exactly(0, "a command: status, activity or errors"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return usageError{errors.New("name what to show: status, activity or errors")}
		},
	}
	cmd.AddCommand(
		reportOf(a, "status", "Show machines, which images they hold, and whether they are online", 0, standingColumns,
			fmt.Sprintf("A machine is online when it has told something in the last %d minutes.", int(ledger.OnlineWithin.Minutes())), (*ledger.Ledger).Status),
		reportOf(a, "activity", "Show what has happened on machines, the latest first", 7, entryColumns, "", (*ledger.Ledger).Activity),
		reportOf(a, "errors", "Show what went wrong on machines: errors and warnings, the latest first", 7, entryColumns, "", (*ledger.Ledger).Errors))
	return cmd
}

// column is one of a table.
type column[T any] struct {
	head string
	cell func(T) string
}

var standingColumns = []column[ledger.Standing]{
	{"time", func(s ledger.Standing) string { return stamp(s.Time) }},
	{"user", func(s ledger.Standing) string { return s.User }},
	{"host", func(s ledger.Standing) string { return s.Host }},
	{"image name", func(s ledger.Standing) string { return s.Image }},
	{"image version", func(s ledger.Standing) string {
		if s.Version == 0 {
			return ""
		}
		return strconv.FormatUint(uint64(s.Version), 10)
	}},
	{"client version", func(s ledger.Standing) string { return s.Client }},
	{"online", func(s ledger.Standing) string {
		if s.Online {
			return "yes"
		}
		return "no"
	}},
	{"state", func(s ledger.Standing) string {
		switch {
		case s.Image == "":
			return "none"
		case s.Staged:
			return "staged"
		}
		return "installed"
	}},
}

var entryColumns = []column[ledger.Entry]{
	{"event id", func(e ledger.Entry) string { return strconv.FormatUint(uint64(e.Kind), 10) }},
	{"severity", func(e ledger.Entry) string { return string(e.Severity) }},
	{"category", func(e ledger.Entry) string { return e.Category }},
	{"description", func(e ledger.Entry) string { return e.Description }},
	{"time received", func(e ledger.Entry) string { return stamp(e.Received) }},
	{"client time", func(e ledger.Entry) string { return stamp(e.Time) }},
	{"host", func(e ledger.Entry) string { return e.Host }},
	{"user", func(e ledger.Entry) string { return e.User }},
}

func stamp(t time.Time) string { return t.Local().Format("2006-01-02 15:04:05") }

// reportOf makes the command that shows what a ledger has of something.
func reportOf[T any](a *app, name, short string, days int, columns []column[T], long string, of func(*ledger.Ledger, context.Context, ledger.Filter) iter.Seq2[T, error]) *cobra.Command {
	var f reportFlags
	cmd := &cobra.Command{
		Use:   name,
		Short: short,
		Long: strings.TrimSpace(long + `

Texts of filters are compared without regard to case; * stands for any characters.`),
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			l, err := a.openEvents(cmd.Context(), &f)
			if err != nil {
				return err
			}
			defer l.Close()
			a.meter.finish()
			n, err := write(a.out, f.format, columns, of(l, cmd.Context(), f.filter))
			if err == nil && n == f.filter.Limit && n > 0 && !a.quiet {
				fmt.Fprintf(a.err, "these are the first %d; --limit 0 shows all\n", n)
			}
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&f.events, "events", "", "the database: a file, or postgres://USER@HOST/DATABASE (default $PRESTAGE_EVENTS)")
	flags.IntVar(&f.days, "days", days, "what was received in the last days; 0 is all")
	flags.StringVar(&f.filter.User, "user", "", "of this user")
	flags.StringVar(&f.filter.Host, "host", "", "of this machine")
	flags.StringVar(&f.filter.Image, "image", "", "of this image")
	flags.IntVar(&f.filter.Limit, "limit", 1000, "how many rows at most; 0 is all")
	flags.StringVar(&f.format, "format", formatTable, "table, csv or json")
	if name != "status" {
		flags.StringVar(&f.filter.Category, "category", "", "of this category")
		flags.StringVar(&f.severity, "severity", "", "this severity, and worse: information, warning or error")
	}
	return cmd
}

// The formats of reports.
const (
	formatTable = "table"
	formatCSV   = "csv"
	formatJSON  = "json"
)

// openEvents reads the flags and opens the database.
func (a *app) openEvents(ctx context.Context, f *reportFlags) (*ledger.Ledger, error) {
	if a.json {
		f.format = formatJSON
	}
	f.filter.Severity = event.Severity(f.severity)
	switch {
	case f.format != formatTable && f.format != formatCSV && f.format != formatJSON:
		return nil, usageError{fmt.Errorf("--format %q: use table, csv or json", f.format)}
	case f.days < 0 || f.days > 100_000 || f.filter.Limit < 0:
		return nil, usageError{errors.New("--days and --limit are numbers from 0 on")}
	}
	switch f.filter.Severity {
	case "", event.Information, event.Warning, event.Error:
	default:
		return nil, usageError{fmt.Errorf("--severity %q: use information, warning or error", f.severity)}
	}
	if f.days > 0 {
		f.filter.Since = time.Now().AddDate(0, 0, -f.days)
	}
	where, err := eventsPlace(f.events)
	if err != nil {
		return nil, err
	}
	l, err := ledger.OpenToRead(ctx, where)
	if advice := ledger.Advice(err); advice != "" {
		err = fmt.Errorf("%w; %s", err, advice)
	}
	return l, err
}

// write writes rows as they come, and returns how many there were.
func write[T any](to io.Writer, format string, columns []column[T], rows iter.Seq2[T, error]) (n int, err error) {
	switch format {
	case formatJSON:
		return writeJSON(to, rows)
	case formatCSV:
		return writeCSV(to, columns, rows)
	}
	t := tabwriter.NewWriter(to, 0, 0, 2, ' ', 0)
	cells := func(of func(column[T]) string) {
		for i, c := range columns {
			if i > 0 {
				fmt.Fprint(t, "\t")
			}
			fmt.Fprint(t, of(c))
		}
		fmt.Fprintln(t)
	}
	cells(func(c column[T]) string { return strings.ToUpper(c.head) })
	for row, err := range rows {
		if err != nil {
			return n, err
		}
		n++
		cells(func(c column[T]) string { return c.cell(row) })
	}
	return n, t.Flush()
}

func writeCSV[T any](to io.Writer, columns []column[T], rows iter.Seq2[T, error]) (n int, err error) {
	w := csv.NewWriter(to)
	w.UseCRLF = true
	line := make([]string, len(columns))
	for i, c := range columns {
		line[i] = c.head
	}
	w.Write(line)
	for row, err := range rows {
		if err != nil {
			return n, err
		}
		n++
		for i, c := range columns {
			line[i] = harmless(c.cell(row))
		}
		w.Write(line)
	}
	w.Flush()
	return n, w.Error()
}

// harmless keeps programs that calculate from taking a cell for a formula. Some of
// them ignore what stands before it and cannot be seen.
func harmless(cell string) string {
	if first := strings.TrimLeft(cell, " \t\r\n\u00a0\u200b\ufeff"); first != "" && strings.ContainsAny(first[:1], "=+-@|") || cell != "" && strings.ContainsAny(cell[:1], "\t\r\n") {
		return "'" + cell
	}
	for _, wide := range []string{"＝", "＋", "－", "＠"} { // which some take for the same
		if strings.HasPrefix(strings.TrimSpace(cell), wide) {
			return "'" + cell
		}
	}
	return cell
}

// writeJSON writes an array, row by row.
func writeJSON[T any](to io.Writer, rows iter.Seq2[T, error]) (n int, err error) {
	fmt.Fprint(to, "[")
	for row, err := range rows {
		if err != nil {
			return n, err
		}
		b, err := json.Marshal(row)
		if err != nil {
			return n, err
		}
		comma := ","
		if n == 0 {
			comma = ""
		}
		n++
		fmt.Fprintf(to, "%s\n  %s", comma, b)
	}
	end := "\n]\n"
	if n == 0 {
		end = "]\n"
	}
	_, err = fmt.Fprint(to, end)
	return n, err
}

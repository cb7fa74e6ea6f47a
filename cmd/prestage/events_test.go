package main

import (
	"bytes"
	"context"
	"encoding/csv"
	"iter"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"prestage/ckm"
	"prestage/internal/event"
	"prestage/internal/repo"
)

// tell HOST USER IMAGES SEVERITY TEXT… reports to $SERVER as a machine that holds
// IMAGES, name:version and commas or "none", and to which TEXTs have happened. With
// "!" the server must refuse it.
func tell(ts *testscript.TestScript, neg bool, args []string) {
	now := time.Now()
	r := &event.Report{Machine: "id of " + args[0], Host: args[0], User: args[1], Client: "1.2.3", System: "windows/amd64", Time: now}
	for image := range strings.SplitSeq(args[2], ",") {
		if name, version, ok := strings.Cut(image, ":"); ok {
			n, err := strconv.ParseUint(version, 10, 32)
			ts.Check(err)
			ts.Check(ckm.CheckName(name))
			r.Held = append(r.Held, event.Held{Image: name, Version: uint32(n), Time: now})
		}
	}
	for i, text := range args[min(4, len(args)):] {
		r.Events = append(r.Events, event.Event{Number: uint64(i + 1), Time: now, Kind: event.Kind(i + 10), Severity: event.Severity(args[3]), Category: "update", Description: text, Image: "win11", Version: 1})
	}
	u, err := url.Parse(ts.Getenv("SERVER"))
	ts.Check(err)
	w, err := repo.NewWeb(u)
	ts.Check(err)
	_, err = w.Report(context.Background(), r)
	switch {
	case neg && err == nil:
		ts.Fatalf("it was taken")
	case neg:
		ts.Logf("refused: %v", err)
	default:
		ts.Check(err)
	}
}

// No cell is a formula to any program that calculates.
func TestHarmless(t *testing.T) {
	evil := []string{"=1+1", "+1", "-1", "@SUM(A1)", "\t=1", " =cmd|'/c calc'!A0", "\u00a0=1", "\ufeff=1", "＝1", "|x", "\r=1", "\n=1"}
	fine := []string{"", "a", "1", "a=1", "user@host", "C:\\x", "2026-11-28 01:02:03", "\u00e4", `say "x", then y`}
	rows := func(cells []string) iter.Seq2[string, error] {
		return func(yield func(string, error) bool) {
			for _, c := range cells {
				if !yield(c, nil) {
					return
				}
			}
		}
	}
	columns := []column[string]{{"number", func(string) string { return "1" }}, {"text", func(s string) string { return s }}}
	var b bytes.Buffer
	n, err := write(&b, formatCSV, columns, rows(append(append([]string{}, evil...), fine...)))
	if err != nil || n != len(evil)+len(fine) {
		t.Fatalf("%d %v", n, err)
	}
	lines, err := csv.NewReader(&b).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for i, line := range lines[1:] {
		cell := line[1]
		if i < len(evil) {
			if !strings.HasPrefix(cell, "'") {
				t.Errorf("%q is written as it is", evil[i])
			}
			continue
		}
		if want := fine[i-len(evil)]; cell != want {
			t.Errorf("%q is written as %q", want, cell)
		}
	}
}

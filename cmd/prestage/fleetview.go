package main

import (
	"prestage/internal/fleet"
	"prestage/internal/fleet/view"
)

// The ways to show progress, as --progress names them.
const (
	progressAuto  = "auto"
	progressPlain = "plain"
	progressJSON  = "json"
	progressNone  = "none"
)

// fleetView begins to show a run over machines on standard error; the caller
// closes it.
func (a *app) fleetView(machines []fleet.Machine, images []string) *view.View {
	o := view.Options{
		Out: a.err, Machines: machines, Images: images, Line: machineLine,
		OnlyAttention: a.quiet || a.progress == progressNone,
	}
	switch {
	case a.progress == progressJSON, a.json && o.OnlyAttention:
		o.Style = view.JSON
	case a.progress != progressAuto:
		o.Style = view.Text
	case isTerminal(a.err):
		o.Style = view.Table
	case !o.OnlyAttention:
		o.Style = view.JSON
	}
	return view.New(o)
}

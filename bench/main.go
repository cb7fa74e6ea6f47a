//go:build linux

// Command bench measures prestage against its peers on one disk image and
// prints the budget table: for each kind of work the budget, the measured
// ratio, and whether it was met. It also writes the table into the document
// about performance. bench/run.sh prepares what it needs and calls it.
//
// Ratios are what counts: both sides run on the same machine, in the same
// minutes, in turns, so that a slow disk or a busy neighbour strikes both.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

// options is what a bench run is told. An empty path of a peer means that it
// is not on this machine: its rows say so instead of showing a number.
type options struct {
	image    string // the disk image to pack
	work     string // an empty folder for everything that is written
	rounds   int
	doc      string // the document to write the table into; empty for none
	template string // what the document is made from when it does not exist

	versionsDir string // versions of the image; empty if there are none

	only string // the one part to measure; empty for all

	prestage, desync, casync, zstd, partclone string

	tools map[string]string // what pushing needs, by name; "" for what is not here
	scale scale

	out, log io.Writer // the table, and what happens meanwhile
}

func main() {
	if len(os.Args) == 5 && os.Args[1] == relayVerb {
		fmt.Fprintln(os.Stderr, "bench:", relay(os.Args[2:]))
		os.Exit(1)
	}
	o := options{out: os.Stdout, log: os.Stderr}
	flag.StringVar(&o.image, "image", "", "disk image to measure with")
	flag.StringVar(&o.work, "work", "", "empty folder for everything that is written")
	flag.IntVar(&o.rounds, "rounds", 3, "how often each side runs")
	flag.StringVar(&o.doc, "doc", "", "document that receives the table")
	flag.StringVar(&o.template, "template", "", "what the document is made from when it does not exist yet")
	flag.StringVar(&o.only, "only", "", "measure this part alone: local, update, push or serve")
	flag.StringVar(&o.prestage, "prestage", "", "prestage binary")
	flag.StringVar(&o.versionsDir, "versions", "", "folder of versions of the image")
	flag.StringVar(&o.desync, "desync", "", "desync binary")
	flag.Parse()
	if o.image == "" || o.work == "" || o.prestage == "" || o.rounds < 1 || flag.NArg() != 0 {
		fmt.Fprintln(os.Stderr, "bench: -image, -work and -prestage are needed, and at least one round")
		os.Exit(2)
	}
	o.casync = lookPath("casync")
	o.zstd = lookPath("zstd")
	o.partclone = lookPath("partclone.ext4")
	o.tools, o.scale = findTools(), fullScale

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		if ctx.Err() != nil {
			err = errors.New("stopped")
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// findTools finds what the measurements of pushing need.
func findTools() map[string]string {
	found := map[string]string{}
	for _, tool := range pushTools {
		found[tool] = lookPath(tool)
	}
	return found
}

// lookPath finds a program, also where only root's PATH would have it.
func lookPath(name string) string {
	if p, err := exec.LookPath(name); err == nil {
		return p
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p
		}
	}
	return ""
}

// Parts of the measurements, each with a table of its own.
const (
	partLocal  = "local"
	partPush   = "push"
	partUpdate = "update"
	partServe  = "serve"
)

func run(ctx context.Context, o options) error {
	b := &bench{options: o, ctx: ctx}
	texts := map[string]string{}
	for _, p := range []struct {
		name    string
		measure func() ([]row, error)
		facts   func() string
	}{{partLocal, b.local, b.facts}, {partUpdate, b.updates, b.updateFacts}, {partPush, b.push, b.pushFacts},
		{partServe, b.serving, b.serveFacts}} {
		if o.only != "" && o.only != p.name {
			continue
		}
		rows, err := p.measure()
		if err != nil {
			return err
		}
		texts[p.name] = p.facts() + "\n" + table(rows)
		if _, err := io.WriteString(o.out, texts[p.name]+"\n"); err != nil {
			return err
		}
	}
	if len(texts) == 0 {
		return fmt.Errorf("there is no part %q, only %s, %s, %s and %s", o.only, partLocal, partUpdate, partPush, partServe)
	}
	if o.doc == "" {
		return nil
	}
	if err := writeDoc(o.doc, o.template, texts); err != nil {
		return err
	}
	b.say("wrote %s", o.doc)
	return nil
}

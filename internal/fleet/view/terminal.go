package view

import (
	"os"

	"golang.org/x/term"
)

// terminal is a terminal that a table can be drawn on.
type terminal struct {
	file    *os.File
	resumed chan os.Signal // the program was stopped, and goes on
	restore func()
	stdin   *term.State // as it was, if it is a terminal
}

// openTerminal returns nil if f can show no table.
func openTerminal(f *os.File) *terminal {
	if !Capable(f) {
		return nil
	}
	restore, err := prepare(f)
	if err != nil {
		return nil
	}
	t := &terminal{file: f, restore: restore, resumed: make(chan os.Signal, 1)}
	t.stdin, _ = term.GetState(int(os.Stdin.Fd()))
	notifyResumed(t.resumed)
	return t
}

// size returns columns and rows.
func (t *terminal) size() (width, height int) {
	width, height, err := term.GetSize(int(t.file.Fd()))
	if err != nil || width <= 1 || height <= 1 { // some do not say
		return 80, 24
	}
	return width, height
}

// close leaves the terminal as it was. Whoever still asks for a password has
// turned its echo off.
func (t *terminal) close(asked bool) {
	stopNotifying(t.resumed)
	if asked && t.stdin != nil {
		term.Restore(int(os.Stdin.Fd()), t.stdin)
	}
	t.restore()
}

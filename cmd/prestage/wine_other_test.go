//go:build !linux

package main

import "github.com/rogpeppe/go-internal/testscript"

func cleaned(m testscript.TestingM) testscript.TestingM { return m }

// commands are the programs that scripts can run.
var commands = map[string]func(){"prestage": main}

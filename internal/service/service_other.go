//go:build !linux && !windows

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

var errNoService = fmt.Errorf(`the service on this system: %w; have "prestage agent run" started by what starts programs here`, errors.ErrUnsupported)

func install(context.Context, Config) error { return errNoService }

func uninstall(context.Context) (bool, error) { return false, errNoService }

func run(ctx context.Context, work Work) error { return work(ctx, func() {}) }

func runControlled(Work) error { return errNoService }

// Log returns a handler that writes messages to a file, with their time.
func Log(f *os.File) slog.Handler { return Lines(f) }

// EventLog returns a handler that writes to the event log of Windows.
func EventLog() (slog.Handler, error) { return nil, errNoService }

//go:build !linux && !windows

package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
)

var errNoService = fmt.Errorf(`the service on this system: %w; have the program started by what starts programs here`, errors.ErrUnsupported)

func (s Service) install(context.Context, Config) error { return errNoService }

func (s Service) uninstall(context.Context) (bool, error) { return false, errNoService }

func run(ctx context.Context, work Work) error { return work(ctx, func() {}) }

func (s Service) runControlled(Work) error { return errNoService }

// Log returns a handler that writes messages to a file, with their time.
func Log(f *os.File) slog.Handler { return Lines(f) }

func (s Service) eventLog() (slog.Handler, error) { return nil, errNoService }

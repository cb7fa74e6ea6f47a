package smbhost

import (
	"context"
	"errors"
	"fmt"
	"time"

	"prestage/internal/host"
)

// heldError is an error that may mean that somebody has the file open.
type heldError struct{ error }

func (e *heldError) Unwrap() error { return e.error }

func isHeld(err error) bool {
	if held := new(heldError); errors.As(err, &held) {
		return true
	}
	c := status(err)
	return c == statusSharingViolation || c == statusFileLockConflict || c == statusDeletePending
}

// whileHeld tries do for as long as somebody has the file open, but not for
// ever, and less long if that is not sure.
func (h *Host) whileHeld(ctx context.Context, do func() error) error {
	begun := time.Now()
	for {
		err := do()
		if !isHeld(err) {
			return err
		}
		patience := 2 * h.o.Silence
		if status(err) == statusAccessDenied {
			patience /= 6
		}
		if time.Since(begun) > patience {
			return fmt.Errorf("%w on %s: %w", host.ErrHeld, h.o.Name, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w on %s: %w", host.ErrHeld, h.o.Name, err)
		case <-time.After(200 * time.Millisecond):
		}
	}
}

package ckm_test

import (
	"errors"
	"strings"
	"testing"
)

// refuse checks that err is there, wraps sentinel unless that is nil, and has
// text in it, so that nothing is refused by accident.
func refuse(t testing.TB, err, sentinel error, text string) {
	t.Helper()
	if err == nil {
		t.Errorf("accepted what is wrong with %q", text)
		return
	}
	if sentinel != nil && !errors.Is(err, sentinel) {
		t.Errorf("error %q does not wrap %q", err, sentinel)
	}
	if !strings.Contains(err.Error(), text) {
		t.Errorf("error %q does not say %q", err, text)
	}
}

//go:build linux

package sshhost

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"prestage/internal/prestage"
	"prestage/internal/testenv"
)

// A machine with prestage checks a copy itself, and finds damage; one with an
// older prestage, or none, says that it cannot.
func TestChecksItself(t *testing.T) {
	testenv.NeedTime(t)
	bin := t.TempDir()
	must(t, os.Chmod(bin, 0o755))
	must(t, os.Chmod(filepath.Dir(bin), 0o755))
	s := startSSHD(t, 0, "SetEnv PATH="+bin+":/usr/bin:/bin")
	ctx := t.Context()
	h := s.dial(t, nil)
	r := packed(t, "win11")
	index, data := r.Path("win11_1.index"), r.Path("win11_1.ckm")
	beats := 0
	alive := func() { beats++ }
	if _, err := h.CheckPackage(ctx, index, data, alive); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("without prestage: %v", err)
	}
	program := filepath.Join(bin, "prestage")
	put := func(script string) { must(t, os.WriteFile(program, []byte("#!/bin/sh\n"+script), 0o755)) }
	put("echo unknown flag >&2; exit 2")
	if _, err := h.CheckPackage(ctx, index, data, alive); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("with an older prestage: %v", err)
	}
	put("echo it broke; exit 1")
	if _, err := h.CheckPackage(ctx, index, data, alive); err == nil || !strings.Contains(err.Error(), "it broke") || errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("a prestage that fails: %v", err)
	}
	put("echo '{}'")
	if _, err := h.CheckPackage(ctx, index, data, alive); err == nil {
		t.Error("what it does not say was believed")
	}
	put("sleep 3; exit 3")
	if digest, err := h.CheckPackage(ctx, index, data, alive); err != nil || digest != "" || beats == 0 {
		t.Errorf("a slow prestage that finds damage: %q, %v; it was alive %d times", digest, err, beats)
	}
	must(t, os.Remove(program))
	if out, err := exec.Command("go", "build", "-o", program, "prestage/cmd/prestage").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}

	_, err := prestage.Setup(ctx, h, s.dir, "")
	must(t, err)
	done, err := prestage.Push(ctx, h, r, "win11", 1, prestage.PushOptions{})
	must(t, err)
	if done.Receipt.How != prestage.HowHost {
		t.Errorf("with prestage there: %+v", done.Receipt)
	}
	if digest, err := h.CheckPackage(ctx, index, data, alive); err != nil || digest != done.Receipt.PackageDigest {
		t.Errorf("it found %q, %v", digest, err)
	}
	b, err := os.ReadFile(data)
	must(t, err)
	want := sha256.Sum256(b)
	if sum, err := h.Sum(ctx, data, alive); err != nil || sum != hex.EncodeToString(want[:]) {
		t.Errorf("its SHA-256 is %q, %v", sum, err)
	}
	b[len(b)/2] ^= 1
	must(t, os.Chmod(data, 0o644))
	must(t, os.WriteFile(data, b, 0o644))
	if digest, err := h.CheckPackage(ctx, index, data, alive); err != nil || digest != "" {
		t.Errorf("of damage it found %q, %v", digest, err)
	}
	if _, err := h.Sum(ctx, data+" gone", alive); err == nil {
		t.Error("a file that is not there has a SHA-256")
	}
}

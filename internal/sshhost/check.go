package sshhost

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"prestage/internal/host"
)

var _ host.Checker = (*Host)(nil)

// work runs the program $2 with the arguments that follow, on the file $3, which
// it reads from the disk. It says "$1 working" from time to time, and in the end
// $1 and the exit code, or "none" when there is no such program.
const work = `mark=$1; shift
command -v "$1" >/dev/null || { echo "$mark none"; exit; }
dd if="$2" iflag=nocache count=0 2>/dev/null
( while sleep 2; do echo "$mark working" || exit; done ) &
program=$1 file=$2; shift 2
"$program" "$@" <"$file" 2>&1
code=$?
kill $!
echo "$mark $code"
exit`

// longestWork is how long a program of a machine may say that it works: a
// terabyte from a slow disk takes less.
const longestWork = 6 * time.Hour

// work has a program of the machine read a file, which is its standard input,
// and returns what it says and its exit code.
func (h *Host) work(ctx context.Context, alive func(), program, file string, args ...string) (out string, code int, err error) {
	if err := checkPath(file); err != nil {
		return "", 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, longestWork)
	defer cancel()
	s, err := h.startShell(ctx)
	if err != nil {
		return "", 0, err
	}
	defer s.close()
	defer context.AfterFunc(ctx, s.close)()
	if err := s.send(work, append([]string{h.nonce, program, file}, args...)...); err != nil {
		return "", 0, h.explain(err)
	}
	var said strings.Builder
	for {
		line, err := s.line()
		if ctx.Err() != nil {
			return "", 0, ctx.Err()
		}
		if err != nil {
			return "", 0, h.explain(err)
		}
		word, ours := strings.CutPrefix(line, h.nonce+" ")
		switch {
		case ours && word == "working":
			alive()
		case ours && word == "none":
			return "", 0, fmt.Errorf("%s has no program %s: %w", h.o.Name, program, errors.ErrUnsupported)
		case ours:
			code, err := strconv.Atoi(word)
			return said.String(), code, err
		case said.Len()+len(line) > maxOutput:
			return "", 0, fmt.Errorf("%s on %s says too much", program, h.o.Name)
		default:
			said.WriteString(line + "\n")
		}
	}
}

// Exit codes of prestage that mean something here.
const (
	prestageUsage   = 2 // it is an older one
	prestageDamaged = 3
)

// CheckPackage implements host.Checker.
func (h *Host) CheckPackage(ctx context.Context, index, data string, alive func()) (digest string, err error) {
	out, code, err := h.work(ctx, alive, "prestage", data, "verify", "--json", "--index", index, data)
	switch {
	case err != nil:
		return "", err
	case code == prestageDamaged:
		return "", nil
	case code == prestageUsage:
		return "", fmt.Errorf("the prestage of %s cannot check files: %w", h.o.Name, errors.ErrUnsupported)
	case code != 0:
		return "", fmt.Errorf("prestage on %s: %s (exit code %d)", h.o.Name, printable(strings.TrimSpace(out)), code)
	}
	var results []struct {
		Digest string `json:"package_digest"`
	}
	if err := json.Unmarshal([]byte(out), &results); err != nil || len(results) != 1 {
		return "", fmt.Errorf("prestage on %s says what is not understood: %.200q", h.o.Name, out)
	}
	return results[0].Digest, nil
}

// Sum implements host.Checker.
func (h *Host) Sum(ctx context.Context, path string, alive func()) (string, error) {
	out, code, err := h.work(ctx, alive, "sha256sum", path)
	if err != nil {
		return "", err
	}
	sum, _, _ := strings.Cut(out, " ")
	if b, err := hex.DecodeString(sum); code != 0 || err != nil || len(b) != 32 {
		return "", fmt.Errorf("sha256sum on %s: %s (exit code %d)", h.o.Name, printable(strings.TrimSpace(out)), code)
	}
	return sum, nil
}

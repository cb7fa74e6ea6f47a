//go:build windows

// Command winrun runs one program in Wine for the tests: with a command line
// that it builds itself, its output to files, and all 32 bits of its exit code,
// of which only 8 get through to Linux.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// request is the file named on the command line.
type request struct {
	Args           []string
	Line           string
	Dir            string
	Env            []string
	Stdout, Stderr string
	Seconds        float64
	Result         string
}

// outcome is the file that is the answer.
type outcome struct {
	Code  uint32
	Error string
}

func main() {
	if err := answer(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "winrun:", err)
		os.Exit(1)
	}
}

func answer(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var q request
	if err := json.Unmarshal(text, &q); err != nil {
		return err
	}
	var o outcome
	if o.Code, err = run(q); err != nil {
		o.Error = err.Error()
	}
	if text, err = json.Marshal(o); err != nil {
		return err
	}
	return os.WriteFile(q.Result, text, 0o644)
}

func run(q request) (uint32, error) {
	stdout, err := os.Create(q.Stdout)
	if err != nil {
		return 0, err
	}
	defer stdout.Close()
	stderr, err := os.Create(q.Stderr)
	if err != nil {
		return 0, err
	}
	defer stderr.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Duration(q.Seconds*float64(time.Second)))
	defer cancel()
	cmd := exec.CommandContext(ctx, q.Args[0])
	cmd.Dir, cmd.Env = q.Dir, append(os.Environ(), q.Env...)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	var line strings.Builder
	for _, a := range q.Args {
		line.WriteString(syscall.EscapeArg(a) + " ")
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{CmdLine: strings.TrimSpace(line.String() + q.Line)}
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return 0, fmt.Errorf("it was ended after %v", time.Duration(q.Seconds*float64(time.Second)))
	case errors.As(err, &exit):
		return uint32(exit.ExitCode()), nil
	}
	return 0, err
}

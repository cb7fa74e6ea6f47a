package installer

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
)

// SignVariable is the environment variable with the command that signs a file:
// for the shell, with {in} for the file and {out} for the signed one.
const SignVariable = "PRESTAGE_SIGN"

// Sign replaces a file by what command makes of it. An empty command does
// nothing: there is nobody to sign for.
func Sign(ctx context.Context, command, file string) error {
	if command == "" {
		return nil
	}
	if !strings.Contains(command, "{in}") || !strings.Contains(command, "{out}") {
		return fmt.Errorf("%s: %q must name {in} and {out}", SignVariable, command)
	}
	signed := file + ".signed"
	defer os.Remove(signed)
	line := strings.NewReplacer("{in}", quote(file), "{out}", quote(signed)).Replace(command)
	if out, err := exec.CommandContext(ctx, "sh", "-c", line).CombinedOutput(); err != nil {
		return fmt.Errorf("signing %s: %w: %s", file, err, strings.TrimSpace(string(out)))
	}
	before, err := os.Stat(file)
	if err != nil {
		return err
	}
	was, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	is, err := os.ReadFile(signed)
	if err != nil {
		return fmt.Errorf("signing %s: the command succeeded and wrote nothing: %w", file, err)
	}
	if len(is) == 0 || bytes.Equal(was, is) {
		return fmt.Errorf("signing %s: the command succeeded and signed nothing", file)
	}
	if err := os.Chmod(signed, before.Mode().Perm()); err != nil {
		return err
	}
	return os.Rename(signed, file)
}

// quote spells a word for the shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

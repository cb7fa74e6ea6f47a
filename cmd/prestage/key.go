package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/sign"
)

// keyPasswordVariable holds the password of secret keys; where it is not set, the
// password is asked for.
const keyPasswordVariable = "PRESTAGE_KEY_PASSWORD"

func (a *app) keyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "key",
		Short: "Make keys to sign packages with",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.keyNewCommand())
	return cmd
}

// newKey is what key new reports.
type newKey struct {
	Key    string `json:"key"` // its ID
	Secret string `json:"secret_key_file"`
	Public string `json:"public_key_file"`
	Line   string `json:"public_key"`
}

func (a *app) keyNewCommand() *cobra.Command {
	var open bool
	cmd := &cobra.Command{
		Use:   "new FILE.key",
		Short: "Make a key: FILE.key is secret, FILE.pub is for those who are to trust it",
		Long: `The files are those of minisign. The secret key is encrypted with the password in
$PRESTAGE_KEY_PASSWORD, or one that is asked for. Keep it off the image server, and
a copy of it in a safe place: nothing can bring it back.`,
		Args: exactly(1, "one FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			secret := args[0]
			base, ok := strings.CutSuffix(secret, ".key")
			if !ok || filepath.Base(secret) == ".key" {
				return usageError{fmt.Errorf("%q: name a file that ends in .key; the public key goes beside it, in one that ends in .pub", secret)}
			}
			k, err := makeKey(cmd.Context(), secret, base+".pub", open)
			if err != nil {
				return err
			}
			done := newKey{k.ID().String(), secret, base + ".pub", k.PublicLine()}
			return a.report(done, func(w io.Writer) {
				fmt.Fprintf(w, "made the key %s\n  secret   %s\n  public   %s\n", done.Key, done.Secret, done.Public)
				fmt.Fprintf(w, "Machines that are to accept nothing else have it in their settings:\n  trusted_keys = [%q]\n", done.Line)
			})
		},
	}
	cmd.Flags().BoolVar(&open, "no-password", false, "do not encrypt the secret key, for machines that sign by themselves")
	return cmd
}

// makeKey makes a key and its two files, which must not exist yet.
func makeKey(ctx context.Context, secret, public string, open bool) (k sign.Key, err error) {
	for _, path := range []string{secret, public} {
		if exists(path) {
			return k, fmt.Errorf("%q exists; keys are not replaced, name another file", path)
		}
	}
	password := ""
	if !open {
		if password, err = newKeyPassword(ctx); err != nil {
			return k, err
		}
	}
	if k, err = sign.NewKey(); err != nil {
		return k, err
	}
	text, err := k.SecretFile(password)
	if err != nil {
		return k, err
	}
	if err := writeNew(secret, text, 0o600); err != nil {
		return k, err
	}
	if text, err = k.PublicFile(); err == nil {
		err = writeNew(public, text, 0o644)
	}
	if err != nil {
		os.Remove(secret) // or the command could not be run again
	}
	return k, err
}

// writeNew writes a file that does not exist yet, and brings it to the disk.
func writeNew(path string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	if _, err = f.Write(data); err != nil {
		f.Close()
	} else if err = durable.SyncClose(f); err == nil {
		err = durable.SyncDir(filepath.Dir(path))
	}
	if err != nil {
		os.Remove(path)
	}
	return err
}

// newKeyPassword returns the password for a new key, asked for twice.
func newKeyPassword(ctx context.Context) (string, error) {
	if p := os.Getenv(keyPasswordVariable); p != "" {
		return p, nil
	}
	p, err := askUntil(ctx, "Password for the new key")
	if errors.Is(err, errNoTerminal) {
		return "", fmt.Errorf("there is no password for the new key: set $%s, run it on a terminal, or use --no-password", keyPasswordVariable)
	}
	if err != nil {
		return "", err
	}
	if p == "" {
		return "", errors.New("the password is empty; a key that is not to be encrypted is made with --no-password")
	}
	again, err := askUntil(ctx, "The same once more")
	if err == nil && again != p {
		err = errors.New("the two passwords differ; nothing was made")
	}
	return p, err
}

// openKey reads the secret key in a file.
func openKey(ctx context.Context, path string) (sign.Key, error) {
	text, err := readSmall(path)
	if err != nil {
		return sign.Key{}, err
	}
	k, err := sign.ParseKey(text, func() (string, error) {
		if p := os.Getenv(keyPasswordVariable); p != "" {
			return p, nil
		}
		p, err := askUntil(ctx, "Password of "+path)
		if errors.Is(err, errNoTerminal) {
			err = fmt.Errorf("it is encrypted: set $%s, or run it on a terminal", keyPasswordVariable)
		}
		return p, err
	})
	if err != nil {
		return k, fmt.Errorf("key %s: %w", path, err)
	}
	return k, nil
}

// askUntil is askPassword that ends when ctx does, and then leaves the terminal
// as it was.
func askUntil(ctx context.Context, prompt string) (string, error) {
	in := int(os.Stdin.Fd())
	before, err := term.GetState(in)
	if err != nil {
		return "", errNoTerminal
	}
	var p string
	asked := make(chan error, 1)
	go func() {
		var err error
		p, err = askPassword(prompt)
		asked <- err
	}()
	select {
	case err := <-asked:
		return p, err
	case <-ctx.Done():
		term.Restore(in, before)
		fmt.Fprintln(os.Stderr)
		return "", ctx.Err()
	}
}

// readSmall reads a file of keys or signatures.
func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, 64<<10))
}

// publicKeys reads public keys that are named by their files or by their lines, and
// returns their lines.
func publicKeys(args []string) (lines []string, err error) {
	for _, arg := range args {
		text := arg
		if exists(arg) {
			b, err := readSmall(arg)
			if err != nil {
				return nil, err
			}
			text = string(b)
		}
		k, err := sign.ParsePublicKey(text)
		if err != nil {
			return nil, usageError{fmt.Errorf("%s: %w", arg, err)}
		}
		lines = append(lines, k.String())
	}
	return lines, nil
}

// signer returns what signs packages with the secret key in a file. The
// signatures say that they were made when, in seconds since 1970.
func signer(ctx context.Context, path string, when int64) (func(x *ckm.Index) error, error) {
	k, err := openKey(ctx, path)
	if err != nil {
		return nil, err
	}
	return func(x *ckm.Index) error { return k.Sign(x, time.Unix(when, 0)) }, nil
}

package sshhost

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"

	"prestage/internal/settings"
)

// maxSettings is the largest settings file that is read, in bytes.
const maxSettings = 1 << 20

// Settings implements host.Host.
func (h *Host) Settings(ctx context.Context) (settings.Settings, error) {
	text, _, _, err := h.readSettings(ctx)
	if err != nil {
		return settings.Settings{}, err
	}
	s, err := settings.ParseFile(text, h.o.Settings, path.IsAbs)
	return s, h.named(err)
}

// SaveSettings implements host.Host. The file's mode stays as it is, and a
// symbolic link to it.
func (h *Host) SaveSettings(ctx context.Context, s settings.Settings) error {
	before, file, mode, err := h.readSettings(ctx)
	if err != nil {
		return err
	}
	text, err := settings.EditFile(before, h.o.Settings, path.IsAbs, s)
	if err != nil || text == before {
		return h.named(err)
	}
	if err := h.makeFolders(ctx, path.Dir(file)); err != nil {
		return err
	}
	return h.replace(ctx, file, []byte(text), mode)
}

func (h *Host) named(err error) error {
	if err != nil {
		err = fmt.Errorf("%s: %w", h.o.Name, err)
	}
	return err
}

// readSettings returns the text of the settings file, the file that it is in,
// and the mode that this has or is to get. There need not be one.
func (h *Host) readSettings(ctx context.Context) (text, file string, mode fs.FileMode, err error) {
	file = h.o.Settings
	st, err := h.lstat(ctx, file)
	if errors.Is(err, fs.ErrNotExist) {
		return "", file, 0o644, nil
	}
	if err == nil && st.Mode()&fs.ModeSymlink != 0 {
		// Not the server's realpath: it takes what is not there for granted.
		var out string
		if out, err = h.run(ctx, `readlink -f -- "$1" && [ -e "$1" ] && printf .`, file); err == nil {
			file = out[:max(0, len(out)-len("\n."))]
			st, err = h.lstat(ctx, file)
		}
	}
	if err != nil {
		return "", "", 0, fmt.Errorf("reading settings: %w", err)
	}
	f, err := h.open(ctx, file, os.O_RDONLY)
	if err != nil {
		return "", "", 0, fmt.Errorf("reading settings: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxSettings+1))
	if err == nil && len(b) > maxSettings {
		err = fmt.Errorf("%q has more than %d bytes", file, maxSettings)
	}
	if err != nil {
		return "", "", 0, fmt.Errorf("reading settings: %w", h.explain(err))
	}
	return string(b), file, st.Mode().Perm(), nil
}

// makeFolders makes a folder and those above it that are missing, durably.
func (h *Host) makeFolders(ctx context.Context, dir string) error {
	_, err := h.lstat(ctx, dir)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := h.makeFolders(ctx, path.Dir(dir)); err != nil {
		return err
	}
	if err := h.sftp.Mkdir(dir); err != nil {
		return h.at("mkdir", dir, err)
	}
	if err := h.sftp.Chmod(dir, 0o755); err != nil {
		return h.at("chmod", dir, err)
	}
	return h.syncFolder(ctx, path.Dir(dir))
}

// replace makes p hold data, whole or not at all. The unfinished file is named
// so that our programs on the machine remove what a cut has left.
func (h *Host) replace(ctx context.Context, p string, data []byte, mode fs.FileMode) (err error) {
	dir, base := h.Split(p)
	aside := h.Join(dir, fmt.Sprintf(".prestage-%d.%s.partial", rand.Uint64(), base))
	f, err := h.sftp.OpenFile(aside, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return h.at("create", aside, err)
	}
	w := newFile(ctx, h, f)
	_, err = w.WriteAt(data, 0)
	if err == nil {
		err = w.Sync()
	}
	if err == nil {
		err = h.at("chmod", aside, f.Chmod(mode))
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = h.Rename(ctx, aside, p)
	}
	if err != nil {
		h.sftp.Remove(aside)
		return fmt.Errorf("writing settings: %w", err)
	}
	return nil
}

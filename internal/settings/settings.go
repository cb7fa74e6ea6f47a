// Package settings keeps what a machine must remember: where its pre-stage
// folder is, where its images go, and which server they come from.
//
// On Linux it is a TOML file, of which comments and foreign keys are kept.
package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"prestage/internal/durable"
)

// Settings are a machine's settings. An empty one is not set.
type Settings struct {
	PrestagedImagesPath string `toml:"prestaged_images_path"` // the folder PrestagedImages
	VMSFolder           string `toml:"vms_folder"`            // the image store
	Server              string `toml:"server"`                // default repository: a URL or a folder
}

// DefaultPath returns where the settings file is unless the user names another.
func DefaultPath() (string, error) {
	if runtime.GOOS == "windows" {
		return "", fmt.Errorf("settings in the registry: %w; name a file with --config", errors.ErrUnsupported)
	}
	return "/etc/prestage/prestage.toml", nil
}

// Load reads the settings file at path. A file that does not exist gives empty
// settings. Values that cannot be meant are errors, never guessed at.
func Load(path string) (Settings, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, nil
	}
	if err != nil {
		return Settings{}, fmt.Errorf("reading settings: %w", err)
	}
	return parse(path, string(b))
}

func parse(path, text string) (s Settings, err error) {
	if _, err := toml.Decode(text, &s); err != nil {
		return s, fmt.Errorf("settings file %s: %w", path, err)
	}
	for key, value := range map[string]string{"prestaged_images_path": s.PrestagedImagesPath, "vms_folder": s.VMSFolder} {
		if value != "" && !filepath.IsAbs(value) {
			return s, fmt.Errorf("settings file %s: %s = %q must be an absolute path", path, key, value)
		}
	}
	return s, nil
}

// Save changes the settings in the file at path that are not empty in s, and
// leaves the others, and all else that stands there, as they are: the file's
// mode too, and a symbolic link to it.
func Save(path string, s Settings) error {
	path, mode, err := target(path)
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading settings: %w", err)
	}
	text := string(b)
	for _, kv := range [][2]string{
		{"prestaged_images_path", s.PrestagedImagesPath}, {"vms_folder", s.VMSFolder}, {"server", s.Server},
	} {
		if kv[1] != "" {
			text = set(text, kv[0], kv[1])
		}
	}
	if text == string(b) {
		return nil
	}
	// Whatever was in the file, what goes out must say what was meant.
	got, err := parse(path, text)
	if err != nil {
		return err
	}
	if s.PrestagedImagesPath != "" && got.PrestagedImagesPath != s.PrestagedImagesPath ||
		s.VMSFolder != "" && got.VMSFolder != s.VMSFolder || s.Server != "" && got.Server != s.Server {
		return fmt.Errorf("settings file %s has a form that cannot be changed safely; set the values by hand", path)
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(path, []byte(text), mode); err != nil {
		return fmt.Errorf("writing settings: %w", err)
	}
	return nil
}

// target returns the file that path stands for, which need not exist, and the
// mode that it has or is to get.
func target(path string) (string, fs.FileMode, error) {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return path, 0o644, nil
	}
	file, err := filepath.EvalSymlinks(path)
	if err != nil {
		return "", 0, err
	}
	st, err := os.Stat(file)
	if err != nil {
		return "", 0, err
	}
	return file, st.Mode().Perm(), nil
}

var tableHeader = regexp.MustCompile(`(?m)^[ \t]*\[`)

// set replaces the line of a top-level key, but for a comment at its end, or adds
// one before the first table.
func set(text, key, value string) string {
	line := key + " = " + strconv.Quote(value)
	top, tables := text, ""
	if at := tableHeader.FindStringIndex(text); at != nil {
		top, tables = text[:at[0]], text[at[0]:]
	}
	re := regexp.MustCompile(`(?m)^[ \t]*` + key + `[ \t]*=(?:[ \t]*(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*')([ \t]*#.*)|.*)$`)
	if at := re.FindStringSubmatchIndex(top); at != nil {
		if at[2] >= 0 {
			line += top[at[2]:at[3]]
		}
		return top[:at[0]] + line + top[at[1]:] + tables
	}
	if top != "" && !strings.HasSuffix(top, "\n") {
		top += "\n"
	}
	return top + line + "\n" + tables
}

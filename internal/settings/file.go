package settings

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"github.com/BurntSushi/toml"

	"prestage/internal/durable"
)

// File returns the Keeper of the settings in a TOML file, which need not exist.
func File(path string) Keeper { return file(path) }

type file string

// String implements Keeper.
func (f file) String() string { return string(f) }

// Load implements Keeper.
func (f file) Load() (Settings, error) {
	b, err := os.ReadFile(string(f))
	if errors.Is(err, fs.ErrNotExist) {
		return Settings{}, nil
	}
	if err != nil {
		return Settings{}, fmt.Errorf("reading settings: %w", err)
	}
	return ParseFile(string(b), string(f), filepath.IsAbs)
}

// ParseFile reads the text of a settings file of any machine, which may not be
// trusted. Where is the file
// that errors name; isAbs says which paths are absolute on that machine.
func ParseFile(text, where string, isAbs func(string) bool) (s Settings, err error) {
	if err := checkShape(text); err != nil {
		return s, fmt.Errorf("settings file %s %w", where, err)
	}
	if _, err := toml.Decode(text, &s); err != nil {
		return s, fmt.Errorf("settings file %s: %w", where, err)
	}
	if err := checkProfile(s.ACLProfile); err != nil {
		s.ACLProfile = ""
		return s, bad(where, "ACLProfile", "acl_profile", err)
	}
	if _, err := s.Trust(); err != nil {
		s.TrustedKeys = nil
		return s, bad(where, "TrustedKeys", "trusted_keys", err)
	}
	for _, p := range []struct {
		name, key string
		value     *string
	}{
		{"VMSFolder", "vms_folder", &s.VMSFolder},
		{"PrestagedImagesPath", "prestaged_images_path", &s.PrestagedImagesPath},
	} {
		if *p.value != "" && !isAbs(*p.value) {
			err = bad(where, p.name, p.key, fmt.Errorf("= %q must be an absolute path", *p.value))
			*p.value = ""
			return s, err
		}
	}
	return s, nil
}

func bad(where, name, key string, err error) error {
	return &ValueError{name, fmt.Sprintf("settings file %s: %s", where, key), err}
}

// Save implements Keeper. All else that stands in the file stays as it is, the
// file's mode too, and a symbolic link to it.
func (f file) Save(s Settings) error {
	path, mode, err := target(string(f))
	if err != nil {
		return fmt.Errorf("reading settings: %w", err)
	}
	b, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reading settings: %w", err)
	}
	text, err := EditFile(string(b), string(f), filepath.IsAbs, s)
	if err != nil || text == string(b) {
		return err
	}
	if err := durable.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := durable.WriteFile(path, []byte(text), mode); err != nil {
		return fmt.Errorf("writing settings: %w", err)
	}
	return nil
}

// EditFile returns the text of a settings file with the values that are not empty
// in s; all else that stands in it stays as it is. Where and isAbs are those of
// ParseFile.
func EditFile(text, where string, isAbs func(string) bool, s Settings) (string, error) {
	before := text
	for _, kv := range [][2]string{
		{"prestaged_images_path", s.PrestagedImagesPath}, {"vms_folder", s.VMSFolder}, {"server", s.Server},
		{"acl_profile", s.ACLProfile},
	} {
		if kv[1] != "" {
			text = set(text, kv[0], strconv.Quote(kv[1]))
		}
	}
	text = setList(text, "images", s.Images)
	text = setList(text, "trusted_keys", s.TrustedKeys)
	if text == before {
		return text, nil
	}
	// Whatever was in the file, what goes out must say what was meant.
	got, err := ParseFile(text, where, isAbs)
	if err != nil {
		return "", err
	}
	if !reflect.DeepEqual(merge(got, s), got) {
		return "", fmt.Errorf("settings file %s has a form that cannot be changed safely; set the values by hand", where)
	}
	return text, nil
}

// merge returns s with what is not empty in change.
func merge(s, change Settings) Settings {
	for into, from := range map[*string]string{
		&s.PrestagedImagesPath: change.PrestagedImagesPath, &s.VMSFolder: change.VMSFolder,
		&s.Server: change.Server, &s.ACLProfile: change.ACLProfile,
	} {
		if from != "" {
			*into = from
		}
	}
	if len(change.Images) > 0 {
		s.Images = change.Images
	}
	if len(change.TrustedKeys) > 0 {
		s.TrustedKeys = change.TrustedKeys
	}
	return s
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

// setList is set for a list; an empty one leaves the text as it is.
func setList(text, key string, list []string) string {
	if len(list) == 0 {
		return text
	}
	var quoted []string
	for _, v := range list {
		quoted = append(quoted, strconv.Quote(v))
	}
	return set(text, key, "["+strings.Join(quoted, ", ")+"]")
}

var tableHeader = regexp.MustCompile(`(?m)^[ \t]*\[`)

// set replaces the line of a top-level key, but for a comment at its end, or adds
// one before the first table.
func set(text, key, value string) string {
	line := key + " = " + value
	top, tables := text, ""
	if at := tableHeader.FindStringIndex(text); at != nil {
		top, tables = text[:at[0]], text[at[0]:]
	}
	re := regexp.MustCompile(`(?m)^[ \t]*` + key + `[ \t]*=(?:[ \t]*(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|\[[^\]\n]*\])([ \t]*#.*)|.*)$`)
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

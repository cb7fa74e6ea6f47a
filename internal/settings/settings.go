// Package settings keeps what a machine must remember: where its pre-stage
// folder is, where its images go, and which server they come from.
//
// On Windows they are values in the registry, elsewhere a TOML file, of which
// comments and foreign keys are kept.
package settings

import (
	"errors"
	"fmt"

	"prestage/internal/sign"
)

// Settings are a machine's settings. An empty one is not set. Save changes none of
// the last two: they are the administrator's own.
type Settings struct {
	PrestagedImagesPath string   `toml:"prestaged_images_path"` // the folder PrestagedImages
	VMSFolder           string   `toml:"vms_folder"`            // the image store
	Server              string   `toml:"server"`                // default repository: a URL or a folder
	Images              []string `toml:"images"`                // names of the images assigned to this machine; none: all that are pre-staged
	ACLProfile          string   `toml:"acl_profile"`           // Recommended, if empty, or Strict
	TrustedKeys         []string `toml:"trusted_keys"`          // public keys of minisign; if there are any, packages must be signed by one of them

	UpdateFromPrestaged bool     `toml:"update_from_prestaged"` // updates may take what they need from the pre-stage folder
	SeedFolders         []string `toml:"seed_folders"`          // whose files may save downloads; none: those of the system
	UpdateHook          string   `toml:"update_hook"`           // a program that the agent runs when there is a later version: IMAGE INSTALLED AVAILABLE
}

// The values of ACLProfile: the rights that the procedure recommends, and those
// without append on "MED-V Images".
const (
	Recommended = "recommended"
	Strict      = "strict"
)

// A Keeper keeps a machine's settings.
type Keeper interface {
	// Load returns the settings; where there are none, empty ones. Values
	// that cannot be meant are reported by a ValueError, never guessed at;
	// the others are returned all the same.
	Load() (Settings, error)
	// Save changes the settings that are not empty in s, and leaves the
	// others as they are.
	Save(s Settings) error
	// String says where the settings are.
	String() string
}

// Default returns where this machine's settings are, unless the user names a
// file: the registry on Windows, elsewhere /etc/prestage/prestage.toml.
func Default() Keeper { return defaultKeeper() }

// ValueError says that a setting has a value that cannot be meant.
type ValueError struct {
	Name  string // of the field in Settings
	Where string // the place as people look it up
	Err   error
}

// Error implements error.
func (e *ValueError) Error() string { return fmt.Sprintf("%s %v", e.Where, e.Err) }

// Unwrap returns the cause.
func (e *ValueError) Unwrap() error { return e.Err }

// OnlyBad reports whether err says that the setting of this name has a bad
// value, and nothing worse.
func OnlyBad(err error, name string) bool {
	var bad *ValueError
	return errors.As(err, &bad) && bad.Name == name
}

// Trust returns the keys whose signatures count on the machine.
func (s *Settings) Trust() (sign.Trust, error) { return sign.ParseTrust(s.TrustedKeys) }

func checkProfile(s string) error {
	if s != "" && s != Recommended && s != Strict {
		return fmt.Errorf("is %q and must be %q or %q", s, Recommended, Strict)
	}
	return nil
}

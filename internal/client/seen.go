package client

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"prestage/ckm"
	"prestage/internal/durable"
	"prestage/internal/repo"
)

// ErrOlder says that a repository offers a version as the latest that is older
// than one that this machine has seen.
var ErrOlder = errors.New("older than what this machine has seen")

// seenPath is where the highest version of an image is kept that this machine
// has seen with a signature that counts. It lies in the image store itself: there
// users who may create folders can plant no file.
func (s *Store) seenPath(name string) string { return filepath.Join(s.dir, ".seen-"+name) }

// Seen returns the highest version of an image that this machine has seen, or
// has, 0 if there is none.
func (s *Store) Seen(name string) (uint32, error) {
	versions, err := s.Versions(name)
	if err != nil {
		return 0, err
	}
	var seen uint32
	if n := len(versions); n > 0 {
		seen = versions[n-1]
	}
	b, err := os.ReadFile(s.seenPath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return seen, nil
	}
	if err != nil {
		return 0, err
	}
	text := strings.TrimSuffix(string(b), "\n")
	if _, v, _, ok := ckm.ParseFileName(name + "_" + text + ckm.IndexExt); ok {
		return max(seen, v), nil
	}
	return 0, fmt.Errorf("%s does not hold the number of a version; find out which version of %s is the latest, and remove the file", s.seenPath(name), name)
}

// saw records that a version of the image exists. The caller holds the image's
// lock and has checked its signature.
func (in *Install) saw(version uint32) error {
	if !in.Trust.Required() {
		return nil
	}
	seen, err := in.Store.Seen(in.Name)
	if err != nil || version <= seen {
		return err
	}
	return durable.WriteFile(in.Store.seenPath(in.Name), []byte(strconv.FormatUint(uint64(version), 10)+"\n"), 0o644)
}

// notOlder refuses a version that r offers if there was a later one: what a
// signature says of an old version stays true, whoever offers it as the latest.
func (in *Install) notOlder(r repo.Repository, version uint32) error {
	if in.Named || !in.Trust.Required() {
		return nil
	}
	seen, err := in.Store.Seen(in.Name)
	if err != nil || version >= seen {
		return err
	}
	return fmt.Errorf("%s: its %s is %w, %s; if it was set back on purpose, name the version you want",
		r, repo.ImageName(in.Name, version), ErrOlder, repo.ImageName(in.Name, seen))
}

// Package prestage is the pre-staging procedure of MED-V, written once for
// every kind of host: the folders and their rights, the two files pushed,
// checked and marked read-only, and the location that clients look up.
package prestage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/settings"
	"prestage/internal/sign"
)

// Names that the procedure fixes.
const (
	ImagesFolder    = "MED-V Images"
	PrestagedFolder = "PrestagedImages"
	// AsideFolder, inside PrestagedImages, holds what is not for clients:
	// unfinished files, receipts, the lock.
	AsideFolder   = ".prestage"
	partialSuffix = ".partial"
)

// ErrNotSetUp says that a machine has no pre-stage folder yet.
var ErrNotSetUp = errors.New(`no pre-stage folder is set up on this machine; run "prestage setup FOLDER"`)

// folders are the places of the procedure on one host.
type folders struct {
	h      host.Host
	images string // …/MED-V Images
	staged string // …/MED-V Images/PrestagedImages
	aside  string
	rights acl.List // of images
	trust  sign.Trust
}

func at(h host.Host, images string) folders {
	staged := h.Join(images, PrestagedFolder)
	return folders{h: h, images: images, staged: staged, aside: h.Join(staged, AsideFolder), rights: acl.Images}
}

// profiled returns the folders with the rights of an ACL profile.
func (f folders) profiled(profile string) folders {
	f.rights = ImagesRights(profile)
	return f
}

// trusting returns the folders of a machine on which the signatures count that s
// says.
func (f folders) trusting(s settings.Settings) (folders, error) {
	var err error
	f.trust, err = s.Trust()
	return f, err
}

// ImagesRights returns the rights of "MED-V Images" in an ACL profile.
func ImagesRights(profile string) acl.List {
	if profile == settings.Strict {
		return acl.StrictImages
	}
	return acl.Images
}

// locate finds the places from what the user named: the folder above
// "MED-V Images", or that folder itself.
func locate(h host.Host, folder string) (folders, error) {
	above, base := h.Split(folder)
	switch {
	case base == ImagesFolder:
		return at(h, h.Join(above, base)), nil
	case base == PrestagedFolder:
		return folders{}, fmt.Errorf("%q: name the folder above %q, not the pre-stage folder itself", folder, ImagesFolder)
	case looksLike(base, ImagesFolder):
		return folders{}, fmt.Errorf("%q: the folder must be called exactly %q", folder, ImagesFolder)
	}
	return at(h, h.Join(folder, ImagesFolder)), nil
}

// looksLike reports whether somebody who wrote s may have meant name.
func looksLike(s, name string) bool {
	plain := strings.NewReplacer(" ", "", "-", "", "_", "", ".", "")
	s = strings.ToLower(plain.Replace(s))
	name = strings.ToLower(plain.Replace(name))
	return s == name || s+"s" == name
}

// configured finds the places from the host's settings.
func configured(ctx context.Context, h host.Host) (folders, error) {
	s, err := h.Settings(ctx)
	if err != nil {
		return folders{}, err
	}
	return placed(h, s)
}

// placed finds the places from settings.
func placed(h host.Host, s settings.Settings) (folders, error) {
	if s.PrestagedImagesPath == "" {
		return folders{}, ErrNotSetUp
	}
	if shown(s.PrestagedImagesPath) != s.PrestagedImagesPath {
		return folders{}, fmt.Errorf("the setting PrestagedImagesPath is %q, which is no path; \"prestage relocate FOLDER\" changes it", s.PrestagedImagesPath)
	}
	above, base := h.Split(s.PrestagedImagesPath)
	if _, images := h.Split(above); !h.SameName(base, PrestagedFolder) || !h.SameName(images, ImagesFolder) {
		return folders{}, fmt.Errorf("the setting PrestagedImagesPath is %q and must end with %q; \"prestage relocate FOLDER\" changes it",
			s.PrestagedImagesPath, h.Join(ImagesFolder, PrestagedFolder))
	}
	return at(h, above).profiled(s.ACLProfile).trusting(s)
}

// StagedFolder returns the pre-stage folder from the host's settings. It is an
// error when something else, such as a symbolic link, is in its place.
func StagedFolder(ctx context.Context, h host.Host) (string, error) {
	f, err := located(ctx, h)
	return f.staged, err
}

// located is configured where what is in place of the folders is not followed.
func located(ctx context.Context, h host.Host) (folders, error) {
	f, err := configured(ctx, h)
	if err != nil {
		return f, err
	}
	for _, p := range f.parts() {
		if _, err := h.CheckFolder(ctx, p.path, p.rights); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return f, err
		}
	}
	return f, nil
}

// parts are the folders with their rights, from the top.
func (f folders) parts() []struct {
	path   string
	rights acl.List
} {
	return []struct {
		path   string
		rights acl.List
	}{{f.images, f.rights}, {f.staged, acl.Prestaged}, {f.aside, acl.Prestaged}}
}

// make makes the folders exist with exactly their rights, and returns what was
// not so before.
func (f folders) make(ctx context.Context) (changes []string, err error) {
	for _, p := range f.parts() {
		dev, err := f.h.CheckFolder(ctx, p.path, p.rights)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			changes = append(changes, fmt.Sprintf("created %s", p.path))
		case err != nil:
			return changes, err
		case len(dev) == 0:
			continue
		default:
			changes = append(changes, fmt.Sprintf("mended %s: %s", p.path, strings.Join(dev, "; ")))
		}
		err = f.h.MakeFolder(ctx, p.path, p.rights)
		if errors.Is(err, fs.ErrNotExist) {
			above, _ := f.h.Split(p.path)
			err = fmt.Errorf("folder %q does not exist; create it, connect its disk, or name another with \"prestage relocate\": %w", above, err)
		}
		if err != nil {
			return changes, err
		}
	}
	return changes, nil
}

func (f folders) lock(ctx context.Context) (unlock func(), err error) {
	return f.h.Lock(ctx, f.h.Join(f.aside, "lock"))
}

// file returns the path of a file for clients, partial that of its unfinished form.
func (f folders) file(name string) string    { return f.h.Join(f.staged, name) }
func (f folders) partial(name string) string { return f.h.Join(f.aside, name+partialSuffix) }

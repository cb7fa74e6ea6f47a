package prestage

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"prestage/ckm"
	"prestage/internal/acl"
	"prestage/internal/host"
	"prestage/internal/progress"
	"prestage/internal/settings"
	"prestage/internal/sign"
)

// Location says where a host keeps what.
type Location struct {
	Images  string   `json:"images"`  // the folder "MED-V Images", also the image store
	Staged  string   `json:"staged"`  // the pre-stage folder
	Changes []string `json:"changes"` // what was done
}

// Setup makes the folders under folder, or those that the settings name when
// folder is empty, exist with exactly the rights of an ACL profile (that of the
// settings when it is empty), seals packages that are not sealed, and records
// location and profile.
func Setup(ctx context.Context, h host.Host, folder, profile string) (*Location, error) {
	s, err := h.Settings(ctx)
	if err != nil {
		return nil, err
	}
	f, err := locate(h, folder)
	if folder == "" {
		f, err = configured(ctx, h)
	}
	if err != nil {
		return nil, err
	}
	if s.PrestagedImagesPath != "" && !h.SameName(h.Join(s.PrestagedImagesPath), f.staged) {
		return nil, fmt.Errorf("the pre-stage folder of this machine is %q already; \"prestage relocate\" moves it", s.PrestagedImagesPath)
	}
	loc, err := f.profiled(cmp.Or(profile, s.ACLProfile)).setup(ctx)
	if err != nil {
		return nil, err
	}
	return loc, f.record(ctx, s, profile, loc)
}

func (f folders) setup(ctx context.Context) (*Location, error) {
	parent, _ := f.h.Split(f.images)
	if st, err := f.h.Stat(ctx, parent); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("folder %q does not exist; create it first, or name another", parent)
	} else if err != nil {
		return nil, err
	} else if st.Kind == host.KindFile {
		return nil, fmt.Errorf("%q is not a folder", parent)
	}
	changes, err := f.make(ctx)
	if err != nil {
		return nil, err
	}
	files, err := f.files(ctx)
	if err != nil {
		return nil, err
	}
	for _, st := range files {
		dev, err := f.h.CheckSealed(ctx, f.file(st.Name), acl.Prestaged)
		if err != nil {
			return nil, err
		}
		if len(dev) == 0 || st.Kind != host.KindFile {
			continue // what is not a file, status names
		}
		if err := f.h.Seal(ctx, f.file(st.Name), acl.Prestaged); err != nil {
			return nil, err
		}
		// Whose it was matters: who has put it there may not be who should.
		changes = append(changes, fmt.Sprintf("sealed %s: %s", st.Name, strings.Join(dev, "; ")))
	}
	return &Location{f.images, f.staged, changes}, nil
}

// record writes what changes to the settings. The image store is the folder
// "MED-V Images" unless another is set.
func (f folders) record(ctx context.Context, old settings.Settings, profile string, loc *Location) error {
	var s settings.Settings
	var changes []string
	if !f.h.SameName(f.h.Join(old.PrestagedImagesPath), f.staged) {
		s.PrestagedImagesPath = f.staged
		changes = append(changes, "recorded the location "+f.staged)
	}
	if old.VMSFolder == "" {
		s.VMSFolder = f.images
		changes = append(changes, "recorded the image store "+f.images)
	}
	if profile != "" && profile != cmp.Or(old.ACLProfile, settings.Recommended) {
		s.ACLProfile = profile
		changes = append(changes, "recorded the ACL profile "+profile)
	}
	if len(changes) == 0 {
		return nil
	}
	if err := f.h.SaveSettings(ctx, s); err != nil {
		return err
	}
	loc.Changes = append(loc.Changes, changes...)
	return nil
}

// Trust records the public keys, as minisign prints them, whose signatures count
// on a host from now on, instead of those before.
func Trust(ctx context.Context, h host.Host, keys []string) (changes []string, err error) {
	old, err := h.Settings(ctx)
	if err != nil && !settings.OnlyBad(err, "TrustedKeys") {
		return nil, err
	}
	if len(keys) == 0 || slices.Equal(old.TrustedKeys, keys) {
		return nil, nil
	}
	if err := h.SaveSettings(ctx, settings.Settings{TrustedKeys: keys}); err != nil {
		return nil, err
	}
	return []string{"recorded the trusted keys " + strings.Join(keys, " and ")}, nil
}

// Relocate moves the location: the new folders are set up, what is in them is
// verified, and then the settings are changed. Packages are not carried over.
// The error wraps ErrDamaged when the new place holds a damaged package, and
// sign.ErrUntrusted when it holds one whose signature does not count; then the
// location stays. A location that is set wrongly is mended.
func Relocate(ctx context.Context, h host.Host, folder string, m progress.Meter) (*Location, error) {
	s, err := h.Settings(ctx)
	if err != nil && !settings.OnlyBad(err, "PrestagedImagesPath") {
		return nil, err
	}
	f, err := locate(h, folder)
	if err != nil {
		return nil, err
	}
	if f, err = f.profiled(s.ACLProfile).trusting(s); err != nil {
		return nil, err
	}
	loc, err := f.setup(ctx)
	if err != nil {
		return nil, err
	}
	if err := f.verify(ctx, m); errors.Is(err, ErrDamaged) || errors.Is(err, sign.ErrUntrusted) {
		return nil, fmt.Errorf("%w; repair or remove it, then relocate again. The location is unchanged: %s", err, s.PrestagedImagesPath)
	} else if err != nil {
		return nil, err
	}
	return loc, f.record(ctx, s, "", loc)
}

// ErrDamaged says that what is staged is not what it should be.
var ErrDamaged = errors.New("damaged")

// files returns the files of packages in the pre-stage folder.
func (f folders) files(ctx context.Context) ([]host.Info, error) {
	all, err := f.h.ReadDir(ctx, f.staged)
	if err != nil {
		return nil, err
	}
	var files []host.Info
	for _, st := range all {
		if _, _, _, ok := ckm.ParseFileName(st.Name); ok {
			files = append(files, st)
		}
	}
	return files, nil
}

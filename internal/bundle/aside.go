package bundle

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"prestage/internal/durable"
)

// The unfinished folder lies beside the one that it becomes, and beside it a
// file that says that somebody works on it, as long as it is held:
// .prestage-N.NAME.partial for .prestage-N.NAME.bundle.
const (
	asidePrefix  = ".prestage-"
	asideSuffix  = ".bundle"
	markerSuffix = ".partial"
)

// aside makes the unfinished folder that will become out, and removes those
// that writers who were killed have left. Done removes what was not renamed.
func aside(out string) (dir string, done func(), err error) {
	parent, name := filepath.Split(out)
	sweep(parent, name)
	marker, err := durable.CreateTemp(parent, name)
	if err != nil {
		return "", nil, err
	}
	dir = strings.TrimSuffix(marker.Name(), markerSuffix) + asideSuffix
	done = func() {
		durable.RemoveTree(dir)
		marker.Close()
		os.Remove(marker.Name())
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		done()
		return "", nil, err
	}
	return dir, done, nil
}

// sweep removes the unfinished folders of name that nobody works on: those
// whose file is gone once the files that nobody holds are. It does what it can.
func sweep(parent, name string) {
	durable.Sweep(parent, name)
	entries, err := os.ReadDir(parent)
	if err != nil {
		return
	}
	for _, e := range entries {
		base, ours := strings.CutSuffix(e.Name(), "."+name+asideSuffix)
		number, named := strings.CutPrefix(base, asidePrefix)
		if !ours || !named || strings.Trim(number, "0123456789") != "" || !e.IsDir() {
			continue
		}
		marker := filepath.Join(parent, base+"."+name+markerSuffix)
		if _, err := os.Lstat(marker); errors.Is(err, fs.ErrNotExist) {
			durable.RemoveTree(filepath.Join(parent, e.Name()))
		}
	}
}

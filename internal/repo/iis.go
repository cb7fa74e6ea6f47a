package repo

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"prestage/internal/durable"
)

// WebConfigName is the file by which Internet Information Services (IIS) is told how to
// serve a folder.
const WebConfigName = "web.config"

//go:embed web.config
var webConfig []byte

// ownMark tells a web.config of ours from those of others, also one of another version.
var ownMark = []byte(`Written by "prestage catalog"`)

// WriteWebConfig writes what IIS needs to serve the folder: it does not serve files
// whose extensions it does not know. A file that somebody else wrote is not touched,
// which is an error.
func (r *Folder) WriteWebConfig() error {
	path := r.Path(WebConfigName)
	switch b, err := os.ReadFile(path); {
	case err == nil && bytes.Equal(b, webConfig):
		return nil
	case err == nil && !bytes.Contains(b, ownMark):
		return fmt.Errorf("%s is there already, and is not from prestage: move it away, run this again, and put both together by hand", path)
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	}
	return durable.WriteFile(path, webConfig, 0o644)
}
